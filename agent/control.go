package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/buffer"
	"holdfast/uplink/wire"
)

// held is what control messages need of the buffer, besides storing them.
type held interface {
	Opened() buffer.Opening
	Drops() []buffer.Drop
	Drained() []buffer.EpochEnd
	Announced() bool
}

// control sends the gateway's own messages: the opening of an epoch, anchors of the
// clock, receipts for what was dropped, the closing of old epochs. One goroutine.
type control struct {
	*sealer
	held      held
	connected func() bool
	identity  Identity
	others    map[string]bool // epochs under another name of this gateway
	keyPath   string
	anchors   string // file that remembers the anchor of this boot; "": only memory does

	mu       sync.Mutex
	status   ControlStatus
	anchored bool
	offset   time.Duration // wall - boot-monotonic, at the last anchor
	seen     time.Duration // the same, when last looked
	steps    uint64
	telling  bool // identity.Previous is still on disk

	beat atomic.Int64 // when the loop last came round
}

const (
	controlTick = time.Second
	// stepSize is the smallest jump of the wall clock that is worth a new anchor.
	stepSize = time.Second
	// dropRanges bounds one receipt: some 150 bytes each.
	dropRanges = 200
)

func newControl(s *sealer, h held, id Identity, cfg Config, connected func() bool) *control {
	c := &control{sealer: s, held: h, connected: connected, identity: id, keyPath: cfg.keyPath(), telling: id.Previous != nil}
	if cfg.Buffer.RuntimeDir != "" {
		c.anchors = filepath.Join(cfg.Buffer.RuntimeDir, "anchor")
	}
	c.beat.Store(int64(s.clock.Now()))
	c.recall()
	return c
}

// open appends the message that opens the epoch, if it has none yet. Nothing else may
// be appended before it.
func (c *control) open(ctx context.Context) error {
	o := c.held.Opened()
	if !o.New {
		return nil
	}
	body := wire.Open{PrevEpoch: o.PrevEpoch, Cause: o.Cause, Boot: c.clock.BootID(), Uncertain: o.Uncertain, Durable: numbers(o.Durable)}
	if c.others[o.PrevEpoch] {
		body = wire.Open{Cause: causeRenamed, Boot: body.Boot}
	}
	if prev := c.identity.Previous; prev != nil && !c.key.Public().Secret() {
		e, err := wire.Endorse(prev, c.gateway, o.Epoch, c.key.Public())
		if err != nil {
			return fmt.Errorf("endorse the new key: %w", err)
		}
		body.Endorsement = e
	} else if prev != nil {
		c.log.Warn("an HMAC key cannot be endorsed over the wire: register it with holdfast-broker device add", "kid", c.key.Kid())
	}
	if err := c.send(ctx, wire.TypeOpen, body, buffer.Meta{Opens: true}); err != nil {
		return fmt.Errorf("open epoch: %w", err)
	}
	c.log.Info("epoch opened", "epoch", o.Epoch, "cause", body.Cause, "previous", o.PrevEpoch, "uncertain", o.Uncertain)
	c.count(func(s *ControlStatus) { s.Opens++ })
	return nil
}

func numbers(of map[string]buffer.Numbers) map[string]wire.Numbers {
	out := make(map[string]wire.Numbers, len(of))
	for device, n := range of {
		out[device] = wire.Numbers{Seq: n.Seq, Total: n.Total}
	}
	return out
}

// send seals one control message.
func (c *control) send(ctx context.Context, typ string, body any, meta buffer.Meta) error {
	t := c.stampAt(c.clock.Now().Truncate(time.Microsecond))
	p, err := wire.ControlPack(c.gateway, t.wall, typ, body)
	if err != nil {
		return err
	}
	meta.Control = true
	_, err = c.seal(ctx, typ, t, p, meta)
	return err
}

// run looks every second whether something is to be said, until ctx ends.
func (c *control) run(ctx context.Context) {
	for {
		c.beat.Store(int64(c.clock.Now()))
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.count(func(s *ControlStatus) { s.Errors++ })
			c.log.Error("control message not stored: tried again", "err", err)
		}
		select {
		case <-c.clock.After(controlTick):
		case <-ctx.Done():
			return
		}
	}
}

// round says what is to be said. Receipts and closings wait for a connection: there
// they coalesce, and take no space on a card that is short of it.
func (c *control) round(ctx context.Context) error {
	err := c.anchor(ctx)
	if c.connected() {
		err = errors.Join(err, c.receipts(ctx), c.closings(ctx))
	}
	return errors.Join(err, c.forgetPrevious())
}

// anchor ties this boot to UTC, once, and again after the clock was stepped.
func (c *control) anchor(ctx context.Context) error {
	m := c.keeper.now()
	offset := time.Duration(m.wall.UnixNano()) - m.at
	c.mu.Lock()
	if c.seen != 0 && (offset-c.seen).Abs() > stepSize {
		c.steps++
		c.log.Warn("the wall clock was stepped; nothing is reordered by it", "by", offset-c.seen)
	}
	c.seen = offset
	due := m.synced && (!c.anchored || (offset-c.offset).Abs() > stepSize)
	c.mu.Unlock()
	if !due {
		return nil
	}
	at := m.at.Truncate(time.Microsecond)
	body := wire.Anchor{
		Boot: c.clock.BootID(), Mono: at.Microseconds(),
		UTC: m.when(at).Format(time.RFC3339Nano), ErrorBound: m.bound.Microseconds(),
	}
	if err := c.send(ctx, wire.TypeAnchor, body, buffer.Meta{}); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	c.mu.Lock()
	c.anchored, c.offset = true, offset
	c.status.Anchors++
	c.mu.Unlock()
	c.remember(offset)
	return nil
}

// anchorNote is what the runtime directory remembers for the next start in this boot.
type anchorNote struct {
	Boot    string        `json:"boot"`
	Gateway string        `json:"gateway"`
	Offset  time.Duration `json:"offset"`
}

func (c *control) recall() {
	var n anchorNote
	b, err := os.ReadFile(c.anchors)
	if err == nil && json.Unmarshal(b, &n) == nil && n.Boot == c.clock.BootID() && n.Gateway == c.gateway {
		c.anchored, c.offset = true, n.Offset
	}
}

// remember keeps the note; without it the anchor is only said once more.
func (c *control) remember(offset time.Duration) {
	if c.anchors == "" {
		return
	}
	b, _ := json.Marshal(anchorNote{c.clock.BootID(), c.gateway, offset})
	tmp, err := writeTemp(c.anchors, b)
	if err == nil {
		err = os.Rename(tmp, c.anchors)
	}
	if err != nil {
		c.log.Debug("anchor not remembered", "err", err)
	}
}

// receipts reports what was dropped and has no message in the buffer that says so.
func (c *control) receipts(ctx context.Context) error {
	drops := c.held.Drops()
	for len(drops) > 0 {
		n := min(len(drops), dropRanges)
		var body wire.Drop
		var ids []uint64
		for _, d := range drops[:n] {
			body.Ranges = append(body.Ranges, wire.DropRange{Device: d.Device, Epoch: d.Epoch, First: d.First, Last: d.Last, Readings: d.Readings, Reason: d.Reason})
			ids = append(ids, d.ID)
		}
		if err := c.send(ctx, wire.TypeDrop, body, buffer.Meta{Receipts: ids}); err != nil {
			return fmt.Errorf("drop receipt: %w", err)
		}
		c.count(func(s *ControlStatus) { s.Drops++ })
		drops = drops[n:]
	}
	return nil
}

// closings ends old epochs of which nothing is left to deliver.
func (c *control) closings(ctx context.Context) error {
	for _, e := range c.held.Drained() {
		body := wire.Close{Epoch: e.Epoch, Durable: numbers(e.Durable), Uncertain: e.Uncertain}
		if c.others[e.Epoch] {
			body.Durable = nil // owed under another name
		}
		if err := c.send(ctx, wire.TypeClose, body, buffer.Meta{Closes: e.Epoch}); err != nil {
			return fmt.Errorf("close epoch %s: %w", e.Epoch, err)
		}
		c.count(func(s *ControlStatus) { s.Closes++ })
	}
	return nil
}

// forgetPrevious removes the key that was replaced, once the message that endorses the
// new one, which opened this epoch, is acknowledged. One that was quarantined was not:
// the next epoch endorses the key again.
func (c *control) forgetPrevious() error {
	if !c.telling || !c.held.Announced() {
		return nil
	}
	if err := os.Remove(previousPath(c.keyPath)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the replaced key: %w", err)
	}
	c.telling = false
	c.log.Info("the broker has the new key; the old one is removed", slog.String("kid", c.key.Kid()))
	return nil
}

func (c *control) count(change func(*ControlStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}

// clockStatus is what the status says of the time.
func (c *control) clockStatus() ClockStatus {
	m := c.keeper.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return ClockStatus{Synced: m.synced, Source: m.source, Wall: m.wall, ErrorBound: m.bound, Boot: c.clock.BootID(), Anchored: c.anchored, Steps: c.steps}
}
