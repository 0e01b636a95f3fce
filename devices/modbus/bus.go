package modbus

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast/devices"
)

const (
	firstWait = 100 * time.Millisecond // before the second attempt to open again
	maxWait   = 4 * time.Second        // between two attempts: a port that is back is found within 5 s
)

// bus is one serial line or one TCP server, and the devices that ask through it. Its
// goroutine keeps the link open; who asks holds the turn.
type bus struct {
	busConfig
	clock devices.Clock
	log   *slog.Logger
	rng   *rand.Rand
	open  opener
	stop  context.CancelFunc
	done  chan struct{}
	users int // guarded by the Driver

	mu      sync.Mutex
	talker  *talker       // nil: no link
	down    error         // why there is none; nil: not known yet
	changed chan struct{} // closed and replaced when either changes
	taken   bool          // somebody has the turn
	queue   []chan struct{}
	members map[*member]struct{}
	quiet   map[byte]devices.Instant // RTU: until then answers may come that nobody waits for
}

func newBus(c busConfig, env devices.Env, rng *rand.Rand, open opener) *bus {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bus{
		busConfig: c, clock: env.Clock, log: env.Log.With("bus", c.name()), rng: rng, open: open,
		stop: cancel, done: make(chan struct{}),
		changed: make(chan struct{}), members: map[*member]struct{}{}, quiet: map[byte]devices.Instant{},
	}
	go b.run(ctx)
	return b
}

// close ends the bus when its last user has gone.
func (b *bus) close() {
	b.stop()
	<-b.done
}

// run keeps the link open until ctx ends.
func (b *bus) run(ctx context.Context) {
	defer close(b.done)
	defer func() { b.set(nil, ErrNotRunning) }()
	wait, told := time.Duration(0), ""
	for ctx.Err() == nil {
		l, note, err := b.open(ctx)
		if err == nil {
			b.log.Info("bus open")
			if note != "" {
				b.log.Warn(note)
			}
			told = ""
			b.up(l)
			select {
			case <-ctx.Done():
			case <-l.in().failed:
			}
			worked := b.lost()
			l.close()
			err = l.in().why()
			if worked {
				wait = 0
				continue // a server that closes connections that it does not need is no loss
			}
		}
		if ctx.Err() != nil {
			return
		}
		if reason := linkReason(err); reason != told {
			told = reason
			b.log.Warn("no readings: the bus cannot be used; trying again until it can", "reason", reason, "err", err)
		}
		b.set(nil, err)
		wait = min(max(2*wait, firstWait), maxWait)
		// Half of it is random, so that a hundred gateways on one switch do not move in step.
		_ = pass(ctx, b.clock, wait/2+time.Duration(b.rng.Int64N(int64(wait/2)))) // the loop asks ctx itself
	}
}

func (b *bus) up(l link) {
	b.mu.Lock()
	for m := range b.members { // who was dead before may not be now
		m.cost = 0
	}
	clear(b.quiet)
	b.mu.Unlock()
	b.set(&talker{busConfig: b.busConfig, clock: b.clock, link: l, free: b.clock.Now() + b.pause}, nil)
}

// lost waits for whoever has the turn: it notices by the inbox. worked: somebody has
// answered over this link.
func (b *bus) lost() (worked bool) {
	b.mu.Lock()
	t := b.talker
	b.mu.Unlock()
	b.set(nil, nil)
	_ = b.take(context.Background()) // its error is the context's
	defer b.give()
	return t.worked
}

func (b *bus) set(t *talker, down error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.talker, b.down = t, down
	close(b.changed)
	b.changed = make(chan struct{})
}

// linkState is the link's, and what is closed when it changes. Neither up nor down: it
// is being opened.
type linkState struct {
	up      bool
	down    error
	changed <-chan struct{}
}

func (b *bus) state() linkState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return linkState{b.talker != nil, b.down, b.changed}
}

// settled waits until there is a link, or a reason why there is none.
func (b *bus) settled(ctx context.Context) error {
	for {
		s := b.state()
		if s.up || s.down != nil {
			return s.down
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.changed:
		}
	}
}

// take waits for the turn; first come, first served.
func (b *bus) take(ctx context.Context) error {
	b.mu.Lock()
	if !b.taken {
		b.taken = true
		b.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	b.queue = append(b.queue, mine)
	b.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, c := range b.queue {
		if c == mine {
			b.queue = append(b.queue[:i], b.queue[i+1:]...)
			return ctx.Err()
		}
	}
	b.next() // it was given at this very moment
	return ctx.Err()
}

func (b *bus) give() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next()
}

func (b *bus) next() {
	if len(b.queue) == 0 {
		b.taken = false
		return
	}
	close(b.queue[0])
	b.queue = b.queue[1:]
}

// errNoLink: the link was lost a moment ago.
var errNoLink = &linkError{connectionLost, errors.New("the bus was lost")}

// attempt is one exchange on the bus.
type attempt struct {
	reply
	cost time.Duration // of the bus' time
}

// ask makes one exchange. It waits until no answer to an earlier request of this slave
// can come any more, then for the turn. Others have the bus in the first of these waits.
func (b *bus) ask(ctx context.Context, m *member, r request) (attempt, error) {
	if err := pass(ctx, b.clock, b.quietUntil(m.slave)-b.clock.Now()); err != nil {
		return attempt{}, err
	}
	if err := b.take(ctx); err != nil {
		return attempt{}, err
	}
	defer b.give()
	b.mu.Lock()
	t, down := b.talker, b.down
	b.mu.Unlock()
	if t == nil {
		if down == nil {
			down = errNoLink
		}
		return attempt{}, down
	}
	began := max(b.clock.Now(), t.free)
	rep, err := t.ask(ctx, m.slave, r, m.timeout)
	if m.turnaround > 0 {
		t.free = max(t.free, b.clock.Now()+m.turnaround)
	}
	t.worked = t.worked || judge(err) == answered
	b.owe(m, began, err)
	return attempt{rep, max(0, t.free-began)}, err
}

func (b *bus) quietUntil(slave byte) devices.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.quiet[slave]
}

// lateness is how late an answer may come and still not be taken for another's, in
// time-outs from its request.
const lateness = 3

// owe keeps the slave from being asked for something else while an answer to an earlier
// request may still come: an RTU answer does not say which request it is for. A retry
// asks for the same, so it need not wait; but when it succeeds, the answer may have been
// the first one's, and its own be still to come, as late as the first.
func (b *bus) owe(m *member, began devices.Instant, err error) {
	if b.tcp() {
		return
	}
	now := b.clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case errors.Is(err, errTimeout), err != nil && errors.Is(err, context.Canceled):
		if !m.owed {
			m.owed, m.owedSince = true, began
		}
		m.lastAsked = began
	case errors.Is(err, errDamaged):
	case m.owed:
		m.owed = false
		b.quiet[m.slave] = max(began+lateness*m.timeout, now+began-m.owedSince+m.timeout/2)
	}
}

// giveUp is called when no retry follows.
func (b *bus) giveUp(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.owed {
		m.owed = false
		b.quiet[m.slave] = m.lastAsked + lateness*m.timeout
	}
}
