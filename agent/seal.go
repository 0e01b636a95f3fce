package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
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

// pack makes one pack of groups of one device and one boot. Wall times are computed
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
	p := wire.Pack{Gateway: s.gateway, Device: device, Base: t.wall}
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

// The bounds of a lane that cannot seal because the card does not take it. Readings
// beyond them wait in the driver, and then are lost and counted.
const (
	maxWaitingCount = 4096
	maxWaitingBytes = 1 << 20
)

// lane is the way of one device's readings into messages. One goroutine seals for it,
// so its numbers are in the order in which its readings were taken.
type lane struct {
	*sealer
	device string
	poke   chan struct{} // wakes run; holds at most one

	mu      sync.Mutex // never held while sealing
	waiting []group
	count   int           // readings in waiting
	size    int           // bytes of waiting
	in      uint64        // groups put so far
	out     uint64        // groups sealed so far
	flushTo uint64        // groups up to here are sealed without waiting for company
	moved   chan struct{} // closed and replaced whenever out grows
	ending  bool          // nothing more comes: seal the rest and end

	sealed atomic.Uint64 // messages
	failed atomic.Uint64 // attempts
	busy   atomic.Int64  // since when (boot-monotonic, ns) one message is being sealed; 0: not
}

func newLane(s *sealer, device string) *lane {
	return &lane{sealer: s, device: device, poke: make(chan struct{}, 1), moved: make(chan struct{})}
}

// put hands over a group that was taken; it returns the group's number in this lane.
func (l *lane) put(g group) uint64 {
	l.mu.Lock()
	l.waiting = append(l.waiting, g)
	l.count += len(g.readings)
	l.size += g.size
	l.in++
	n := l.in
	b := l.tuning.Load().batch
	wake := len(l.waiting) == 1 || l.count >= b.Count || l.size >= b.Bytes
	l.mu.Unlock()
	if wake {
		l.wake()
	}
	return n
}

func (l *lane) wake() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// flush asks for everything put so far to be sealed now; it does not wait.
func (l *lane) flush() {
	l.mu.Lock()
	l.flushTo = l.in
	l.mu.Unlock()
	l.wake()
}

// end asks for everything to be sealed and for run to return.
func (l *lane) end() {
	l.mu.Lock()
	l.ending, l.flushTo = true, l.in
	l.mu.Unlock()
	l.wake()
}

// await waits until cond, called with the lock held, says yes. It looks again whenever
// a message was sealed.
func (l *lane) await(ctx context.Context, cond func() bool) bool {
	for {
		l.mu.Lock()
		ok, moved := cond(), l.moved
		l.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// awaitSealed waits until group n is sealed and appended.
func (l *lane) awaitSealed(ctx context.Context, n uint64) bool {
	return l.await(ctx, func() bool { return l.out >= n })
}

// room says whether the lane takes more; call it with the lock held.
func (l *lane) room() bool { return l.count < maxWaitingCount && l.size < maxWaitingBytes }

func (l *lane) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.room()
}

func (l *lane) waitingCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// run seals until end was called and everything is sealed, or ctx ends: then what
// waits stays in the journal.
func (l *lane) run(ctx context.Context) {
	backoff := time.Duration(0)
	for {
		batch, wait, more := l.next()
		switch {
		case !more:
			return
		case batch != nil:
			if err := l.sealBatch(ctx, batch); err != nil {
				backoff = min(max(2*backoff, 100*time.Millisecond), 5*time.Second)
				wait = backoff
			} else {
				backoff = 0
				continue
			}
		}
		var due <-chan time.Time
		if wait > 0 {
			due = l.clock.After(wait)
		}
		poke := l.poke
		if backoff > 0 {
			poke = nil // company does not mend what failed
		}
		select {
		case <-poke:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// next returns the batch that is due now, or how long the oldest group may still wait
// for company (0: nothing waits).
func (l *lane) next() (batch []group, wait time.Duration, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil, 0, !l.ending
	}
	b := l.tuning.Load().batch
	age := l.clock.Now() - l.waiting[0].taken.at
	if l.out >= l.flushTo && l.count < b.Count && l.size < b.Bytes && age < b.Interval && age >= 0 {
		return nil, b.Interval - age, true
	}
	return l.waiting[:l.fits(b)], 0, true
}

// fits returns how many of the oldest groups make one message: at least one, all of
// one boot.
func (l *lane) fits(b Batch) int {
	count, size := 0, 0
	for i, g := range l.waiting {
		count += len(g.readings)
		size += g.size
		if i > 0 && (count > b.Count || size > b.Bytes || g.boot != l.waiting[0].boot) {
			return i
		}
	}
	return len(l.waiting)
}

// sealBatch makes one message of a batch, which stays waiting until it is appended.
func (l *lane) sealBatch(ctx context.Context, batch []group) error {
	l.busy.Store(int64(l.clock.Now()))
	defer l.busy.Store(0)
	raws := 0
	for _, g := range batch {
		if g.raw {
			raws++
		}
	}
	p, t := l.pack(l.device, batch)
	meta := buffer.Meta{Raws: raws}
	_, err := l.seal(ctx, wire.TypeData, t, p, meta)
	if errors.Is(err, errSeal) && l.mend(ctx, &p, t) > 0 {
		_, err = l.seal(ctx, wire.TypeData, t, p, meta)
	}
	// ErrDropped: the number is used, the readings are gone, and a receipt will say so.
	if err != nil && !errors.Is(err, buffer.ErrDropped) {
		if l.failed.Add(1)&(l.failed.Load()-1) == 0 && ctx.Err() == nil { // the 1st, 2nd, 4th, 8th … time
			l.log.Error("message not stored: tried again", "device", l.device, "readings", len(p.Records), "err", err)
		}
		return err
	}
	l.sealed.Add(1)
	l.forget(len(batch))
	return nil
}

func (l *lane) forget(groups int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.waiting[:groups] {
		l.count -= len(g.readings)
		l.size -= g.size
	}
	clear(l.waiting[:groups]) // what is sealed is not kept in memory by the array behind it
	l.waiting = l.waiting[groups:]
	l.out += uint64(groups)
	close(l.moved)
	l.moved = make(chan struct{})
}
