package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/uplink/wire"
)

// store is what sealing needs of the buffer.
type store interface {
	Take(device string, readings int, raw []byte) (due bool, err error)
	Next(device string, readings int) (buffer.Number, error)
	Append(ctx context.Context, num buffer.Number, meta buffer.Meta, blob []byte) (pos uint64, err error)
	Full() bool
}

// sealer turns packs into signed messages in the buffer. It is shared by all lanes.
type sealer struct {
	store   store
	keeper  *timekeeper
	clock   Clock
	key     *wire.PrivateKey
	gateway string
	format  wire.Format
	log     *slog.Logger
	tuning  atomic.Pointer[tuning]
	// signing holds one token per processor: hundreds of devices that come due at once
	// must not crowd out the goroutines that take readings.
	signing chan struct{}
}

// tuning is what a reload may change.
type tuning struct {
	batch Batch
	topic string // template
	block bool   // when_full = "block"
	sync  bool   // commit_interval = 0: Emit returns once its readings are on the card
}

// seal numbers, signs and appends one pack. The number is final with the append: after
// an error the same number is given again, and nothing was published under it.
func (s *sealer) seal(ctx context.Context, typ string, t stamp, p wire.Pack, meta buffer.Meta) (pos uint64, err error) {
	num, err := s.store.Next(p.Device, len(p.Records))
	if err != nil {
		return 0, fmt.Errorf("number: %w", err)
	}
	msg, err := s.sign(ctx, num, typ, t, p)
	if err != nil {
		return 0, err
	}
	meta.Device, meta.Readings = p.Device, len(p.Records)
	return s.store.Append(ctx, num, meta, msg.AppendEnvelope(nil))
}

func (s *sealer) sign(ctx context.Context, num buffer.Number, typ string, t stamp, p wire.Pack) (wire.Message, error) {
	select {
	case s.signing <- struct{}{}:
		defer func() { <-s.signing }()
	case <-ctx.Done():
		return wire.Message{}, ctx.Err()
	}
	h := wire.Header{
		Gateway: s.gateway, Device: p.Device,
		Epoch: num.Epoch, Seq: num.Seq, Floor: num.Floor, N: len(p.Records), Total: num.Total,
		Topic: expandTopic(s.tuning.Load().topic, s.gateway, p.Device),
		Boot:  t.boot, Mono: t.at.Microseconds(), Clock: wire.ClockUnsynced, Type: typ,
	}
	if t.synced {
		h.Clock = wire.ClockSynced
	}
	msg, err := wire.Seal(s.format, h, p, s.key)
	if err != nil {
		return wire.Message{}, fmt.Errorf("%w: %w", errSeal, err)
	}
	return msg, nil
}

// expandTopic fills in the template; LoadConfig has checked it.
func expandTopic(template, gateway, device string) string {
	return strings.NewReplacer("{gateway}", gateway, "{device}", device).Replace(template)
}

// errSeal: the pack itself cannot be sealed; waiting does not help.
var errSeal = errors.New("seal")

// stamp is the instant of a pack's base, and the boot that it counts from.
type stamp struct {
	boot   string
	at     time.Duration
	wall   time.Time
	synced bool
}

// stampAt returns the stamp for an instant of the running boot.
func (s *sealer) stampAt(at time.Duration) stamp {
	m := s.keeper.now()
	return stamp{s.clock.BootID(), at, m.when(at), m.synced}
}

// pack makes one pack of groups of one device, one boot and the same tags. Wall times are computed
// here and only here, from the distance to one reading of both clocks: no step of the
// wall clock between two readings can reorder them.
func (s *sealer) pack(device string, groups []group) (wire.Pack, stamp) {
	first := groups[0].readings[0].At
	for _, g := range groups {
		for _, r := range g.readings {
			first = min(first, r.At)
		}
	}
	first = first.Truncate(time.Microsecond) // what Header.Mono can say
	t := s.stampAt(first)
	if g := groups[0]; g.boot != t.boot { // left by another boot: its own clocks must do
		t = stamp{g.boot, first, g.taken.when(first), g.taken.synced}
	}
	p := wire.Pack{Gateway: s.gateway, Device: device, Base: t.wall, Tags: groups[0].tags}
	for _, g := range groups {
		for _, r := range g.readings {
			p.Records = append(p.Records, record(r, first))
		}
	}
	return p, t
}

// record is a reading as the wire has it.
func record(r devices.Reading, base time.Duration) wire.Record {
	w := wire.Record{Name: r.Metric, Unit: r.Unit, Time: r.At - base, Reason: r.Reason}
	switch r.Quality {
	case devices.Uncertain:
		w.Quality = wire.Uncertain
	case devices.Bad:
		w.Quality, w.Unit = wire.Bad, ""
	}
	switch v := r.Value; v.Kind {
	case devices.KindNumber:
		w.V = &v.Num
	case devices.KindText:
		w.VS = &v.Text
	case devices.KindBool:
		w.VB = &v.Bool
	case devices.KindBytes:
		w.VD = append([]byte{}, v.Bytes...) // never nil: a value of no bytes is a value
	}
	return w
}

// mend replaces what cannot be sealed by a bad reading, so that one reading never
// holds up a device. Validate lets no such reading in that this agent knows of.
func (s *sealer) mend(ctx context.Context, p *wire.Pack, t stamp) (mended int) {
	probe := buffer.Number{Epoch: "0000000000000000", Seq: 1, Total: 1, Floor: 1}
	for i, r := range p.Records {
		one := wire.Pack{Gateway: p.Gateway, Device: p.Device, Base: p.Base, Records: []wire.Record{r}}
		if _, err := s.sign(ctx, probe, wire.TypeData, t, one); errors.Is(err, errSeal) {
			s.log.Error("reading cannot be sealed: told as bad", "device", p.Device, "metric", r.Name, "err", err)
			p.Records[i] = wire.Record{Name: "unsealable", Time: r.Time, Quality: wire.Bad, Reason: "unsealable"}
			mended++
		}
	}
	return mended
}
