// Package uplink carries what the buffer holds to an MQTT 5 broker.
//
// It promises that a message is acknowledged to its Source only after a PUBACK
// that says success, that the broker's Receive Maximum is respected, and that an
// outage of any kind ends by itself. It keeps nothing: packet ids live in memory.
// It does not know what a message means; the Source's blobs are opaque to it and
// are opened by the function it is given.
//
// A message may arrive more than once: after a lost connection at most as many as
// the broker's Receive Maximum are sent again, with DUP while the broker still has
// the session. It will not subscribe, set a will, set retain, or drop anything: what
// no broker can take goes to the Source's quarantine, everything else waits.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Source is where the uplink reads from: the buffer. Positions start at 1, grow by
// one per message and are never reused.
type Source interface {
	// Bounds returns the lowest position not yet acknowledged and the position that
	// the next message will get (equal: nothing waits).
	Bounds() (first, next uint64)
	// Read yields the unacknowledged messages at or after from, in order, until yield
	// returns false or there is none; it returns the position to go on from. A blob is
	// valid only during its call of yield.
	Read(from uint64, yield func(pos uint64, blob []byte) bool) (next uint64, err error)
	// Ack forgets messages: their PUBACK came. Any order, duplicates allowed.
	Ack(positions []uint64) error
	// Quarantine takes a poison message out of the line and keeps it, bounded; it
	// ends in a drop receipt with this reason when it has to go.
	Quarantine(pos uint64, reason string) error
	// Changed yields after Bounds may have grown (coalesced; one receiver).
	Changed() <-chan struct{}
}

// Message is what Options.Open makes of a blob: the PUBLISH to be sent. It may alias
// the blob.
type Message struct {
	Topic          string
	ContentType    string
	UserProperties [][2]string // key, value; in order, keys may repeat (MQTT 5 §3.3.2.3.7)
	Payload        []byte
}

// Options are what the uplink is handed: its neighbours, clocks and randomness.
type Options struct {
	Source Source
	// Open turns a blob of the Source into the message to publish. An error
	// quarantines the blob: it will never be readable.
	Open func(blob []byte) (Message, error)
	Log  *slog.Logger
	// Rand yields a uniform number in [0,1) for jitter; nil: math/rand/v2.
	Rand func() float64
	// Now is the monotonic clock (time since boot); nil: time since New.
	Now func() time.Duration
	// Wall is a lower bound of the present for TLS validity on a board whose clock
	// starts in 1970; certificates are checked at the later of it and the system
	// clock. nil: the system clock alone.
	Wall func() time.Time
	// OnConnect is called after each accepted connection, from Run's goroutine. It
	// must not block for long.
	OnConnect func()
}

// Uplink is one line to one of several brokers.
type Uplink struct {
	opt   Options
	tune  tuning
	line  *line
	lanes *lanes

	reconnect chan struct{} // servers, credentials or files changed
	relane    chan struct{} // drain or drain_rate changed

	mu     sync.Mutex
	cfg    Config
	mark   [32]byte // of what a connection depends on, file contents included
	roster *roster
	st     Status // the connection's part
}

// New checks cfg (see Config.Check) and returns an uplink that Run starts. It opens no
// connection.
func New(cfg Config, o Options) (*Uplink, error) { return newUplink(cfg, o, defaultTuning()) }

func newUplink(cfg Config, o Options, t tuning) (*Uplink, error) {
	if o.Source == nil || o.Open == nil {
		return nil, errors.New("uplink: Options.Source and Options.Open are required")
	}
	if err := cfg.err(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Now == nil {
		start := time.Now()
		o.Now = func() time.Duration { return time.Since(start) }
	}
	cfg = cfg.withDefaults()
	return &Uplink{
		opt: o, tune: t, cfg: cfg, mark: cfg.fingerprint(),
		line:      newLine(o, cfg.Window, t),
		lanes:     newLanes(o.Source, o.Open, o.Now),
		roster:    newRoster(cfg.servers(), t),
		reconnect: make(chan struct{}, 1),
		relane:    make(chan struct{}, 1),
		st:        Status{Since: o.Now()},
	}, nil
}

// Run keeps a connection to one of the servers and empties the Source through it
// until ctx ends; it then waits up to a second for outstanding PUBACKs, says
// DISCONNECT 0x00 and returns nil. No outage makes it return. It may be called once.
func (u *Uplink) Run(ctx context.Context) error {
	sctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		u.line.settle(sctx, u.opt.Source)
	}()
	for ctx.Err() == nil {
		if s, guest, ready := u.await(ctx); ready {
			u.attempt(ctx, s, guest)
		}
	}
	stop()
	<-settled
	return nil
}

// await waits for the moment of the next attempt; not ready: look again.
func (u *Uplink) await(ctx context.Context) (s server, guest, ready bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s, guest, at := u.roster.next(u.opt.Now())
	wait := at - u.opt.Now()
	if wait <= 0 {
		return s, guest, true
	}
	u.st.NextTry = at
	u.mu.Unlock()
	t := time.NewTimer(wait)
	select {
	case <-ctx.Done():
	case <-u.reconnect:
	case <-t.C:
	}
	t.Stop()
	u.mu.Lock()
	u.st.NextTry = 0
	return s, false, false
}

// attempt connects to a server, uses the connection, and files how it went.
func (u *Uplink) attempt(ctx context.Context, s server, guest bool) {
	cfg := u.config()
	u.note(func(st *Status) { st.Server = s.String() })
	l, err := u.connect(ctx, s, cfg)
	if err != nil {
		if ctx.Err() == nil {
			u.failed(s, guest, err)
		}
		return
	}
	from, acked := u.opt.Now(), u.line.acked()
	u.note(func(st *Status) { st.Connected, st.Since, st.Stopped = true, from, "" })
	u.opt.Log.Info("uplink connected", "server", s.String())
	err = u.serve(ctx, l)
	now := u.opt.Now()
	u.note(func(st *Status) { st.Connected, st.Since = false, now })
	if err == nil {
		u.opt.Log.Info("uplink disconnected", "server", s.String())
		return
	}
	u.note(func(st *Status) { st.Disconnects++ })
	var r *refused
	if errors.As(err, &r) && reasonOf(r.code).disconnect != again && reasonOf(r.code).disconnect != suspect {
		u.refused(s, guest, r, reasonOf(r.code).disconnect)
		return
	}
	u.note(func(st *Status) { st.lost(fmt.Errorf("%s: %w", s, err), now) })
	u.opt.Log.Warn("uplink lost", "server", s.String(), "err", err, "after", now-from)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.roster.lost(now, now-from >= u.tune.stable, u.line.acked() > acked, u.opt.Rand)
}

// failed files an attempt that brought no connection.
func (u *Uplink) failed(s server, guest bool, err error) {
	u.note(func(st *Status) { st.ConnectErrors++ })
	var r *refused
	if errors.As(err, &r) {
		u.refused(s, guest, r, reasonOf(r.code).connack)
		return
	}
	v := again
	if errors.Is(err, errNoQoS1) {
		v = stop
	}
	u.putBack(s, v, err)
}

// refused files a CONNACK or DISCONNECT whose reason code says what to do.
func (u *Uplink) refused(s server, guest bool, r *refused, v verdict) {
	if v == redirect {
		if to, ok := parseReference(r.ref, s); ok && !guest { // once: two servers may point at each other
			u.putBack(s, again, fmt.Errorf("%w: going to %s", r, to))
			u.mu.Lock()
			u.roster.guest = &to
			u.mu.Unlock()
			return
		}
	}
	u.putBack(s, v, r)
}

// putBack lets the server wait and the next have its turn. A refusal stays in Status
// until a connection is accepted: somebody has to act.
func (u *Uplink) putBack(s server, v verdict, err error) {
	now := u.opt.Now()
	err = fmt.Errorf("%s: %w", s, err)
	u.opt.Log.Warn("uplink not connected", "err", err)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.st.lost(err, now)
	if v == stop {
		u.st.Stopped = err.Error()
	}
	u.roster.failed(now, v == stop || v == busy, u.opt.Rand)
}

// Reload takes over a changed configuration (SIGHUP): new servers, credentials or
// files mean a reconnect that loses nothing, lane and drain rate change at once. A
// configuration that Check rejects changes nothing. Window needs a restart.
func (u *Uplink) Reload(cfg Config) error {
	if err := cfg.err(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	u.mu.Lock()
	defer u.mu.Unlock()
	old := u.cfg
	cfg.Window = old.Window
	u.cfg = cfg
	if mark := cfg.fingerprint(); mark != u.mark {
		u.mark = mark
		u.roster = newRoster(cfg.servers(), u.tune)
		signal(u.reconnect)
		return nil
	}
	if cfg.Drain != old.Drain || cfg.DrainRate != old.DrainRate {
		signal(u.relane)
	}
	return nil
}

func (u *Uplink) config() Config {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cfg
}

func (u *Uplink) drain() (string, Rate) {
	cfg := u.config()
	return cfg.Drain, cfg.DrainRate
}
