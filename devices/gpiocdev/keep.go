package gpiocdev

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
)

// Wanted is a line that a device wants to have.
type Wanted struct {
	Name   string            // as devices.Env.Line takes it
	Config                   // how
	Resume func() gpio.Level // of an output: where it begins, instead of Initial; nil: Initial
}

// Handler is what a driver makes of its lines, which it knows by their place in the list
// of Wanted. Everything is called from one goroutine, the one that called Run.
type Handler interface {
	// Up: the line is ours, and this was its level then. It is valid until Down.
	Up(i int, line *Line, level gpio.Level, now devices.Instant)
	// Edges come in their order. The slice is valid during the call only.
	Edges(i int, edges []Event)
	// Look: no edge from before now waits, and this is the level.
	Look(i int, level gpio.Level, now devices.Instant)
	// Down: it is not ours, or not any more; asked for again until it is.
	Down(i int, reason string, err error, now devices.Instant)
	// Due is when Tick is wanted next.
	Due() devices.Instant
	// Wake asks for a Tick now; nil: never.
	Wake() <-chan struct{}
	// Tick: it is due. Look was called for each line that is up and quiet.
	Tick(now devices.Instant)
	// End: nothing comes any more. All edges until now were told.
	End(now devices.Instant)
}

const (
	firstWait = 100 * time.Millisecond // before a line is asked for again
	// MaxWait is the longest time between two attempts to get a line.
	MaxWait = 5 * time.Second
	// pace is the time between two looks for edges: at 1 kHz ten come at once, for a tenth
	// of the cost. The kernel's queue lasts for 100 kHz.
	pace = 10 * time.Millisecond
	// busyReads bounds how long one line may keep the others waiting.
	busyReads = 2 * queue / batch
)

// Run keeps the lines until ctx ends, and calls h for what happens on them. When it
// returns they are given back, and no goroutine is left.
func Run(ctx context.Context, env devices.Env, sys System, consumer string, wanted []Wanted, h Handler) error {
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	seed := fnv.New64a()
	seed.Write([]byte(env.Name))
	k := &keeper{
		env: env, sys: sys, consumer: consumer, h: h, log: log, rng: rand.New(rand.NewPCG(env.Seed, seed.Sum64())),
		ready: make(chan signal), ended: make(chan struct{}),
	}
	for i, w := range wanted {
		k.lines = append(k.lines, &kept{i: i, Wanted: w, at: env.Clock.Now()})
	}
	for k.turn(ctx) {
	}
	for _, l := range k.lines {
		if l.line != nil {
			_ = k.drain(l) // what is there is told; that the line is gone is no news any more
		}
		k.drop(l)
	}
	close(k.ended)
	k.waiting.Wait()
	h.End(env.Clock.Now())
	return ctx.Err()
}

// keeper is the state of one Run.
type keeper struct {
	env      devices.Env
	sys      System
	consumer string
	h        Handler
	log      *slog.Logger
	rng      *rand.Rand
	lines    []*kept
	ready    chan signal   // lines with something to read
	ended    chan struct{} // nobody takes from ready any more
	waiting  sync.WaitGroup
	events   []Event
}

// signal says that line, which was kept's at that time, has something to read.
type signal struct {
	*kept
	of *Line
}

// kept is one line.
type kept struct {
	Wanted
	i    int
	line *Line           // nil: not ours
	at   devices.Instant // when it is to be asked for, or may be read again
	rest bool            // it was read, and its goroutine waits to be sent again
	wait time.Duration
	up   devices.Instant
	told string        // the reason that is in the log
	arm  chan struct{} // sends the goroutine to wait again; closed: to its end
}

// turn does what is due and waits for what comes next; false: ctx has ended.
func (k *keeper) turn(ctx context.Context) bool {
	next := k.due(k.env.Clock.Now())
	var timer <-chan time.Time
	if d := next - k.env.Clock.Now(); d > 0 {
		timer = k.env.Clock.After(d)
	} else {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case s := <-k.ready:
		l := s.kept
		if l.line != s.of {
			return true // closed meanwhile
		}
		if err := k.drain(l); err != nil {
			k.lost(l, err)
			return true
		}
		l.at, l.rest = k.env.Clock.Now()+pace, true
	case <-k.h.Wake():
		k.tick(k.env.Clock.Now())
	case <-timer:
	}
	return true
}

// tick looks at the lines before the driver decides.
func (k *keeper) tick(now devices.Instant) {
	k.look()
	k.h.Tick(now)
}

// due does what is due, and says when something is due next.
func (k *keeper) due(now devices.Instant) (next devices.Instant) {
	if k.h.Due() <= now {
		k.tick(now)
	}
	for _, l := range k.lines {
		switch {
		case l.line == nil && l.at <= now:
			k.open(l)
		case l.rest && l.at <= now:
			l.rest = false
			l.arm <- struct{}{}
		}
	}
	next = k.h.Due()
	for _, l := range k.lines {
		if l.line == nil || l.rest {
			next = min(next, l.at)
		}
	}
	return next
}

// open asks for a line.
func (k *keeper) open(l *kept) {
	line, err := k.request(l)
	if err != nil {
		k.lost(l, err)
		return
	}
	level, edges, err := k.peek(line)
	if err != nil {
		line.Close()
		k.lost(l, err)
		return
	}
	l.line, l.up, l.rest, l.told = line, k.env.Clock.Now(), false, ""
	k.log.Info("line open", "line", l.Name)
	if len(edges) > 0 && l.Edge == gpio.BothEdges {
		level = !edges[0].Level // it was asked for somewhere between them
	}
	k.h.Up(l.i, line, level, l.up)
	if len(edges) > 0 {
		k.h.Edges(l.i, edges)
	}
	l.arm = make(chan struct{}, 1)
	arm := l.arm
	k.waiting.Go(func() {
		for line.Wait() == nil || line.open.Load() { // an error is told by Read
			select {
			case k.ready <- signal{l, line}:
			case <-k.ended:
				return
			}
			if _, more := <-arm; !more {
				return
			}
		}
	})
}

func (k *keeper) request(l *kept) (*Line, error) {
	path, offset, err := find(k.sys, k.env.Line, l.Name)
	if err != nil {
		return nil, err
	}
	c := l.Config
	if l.Resume != nil {
		c.Initial = l.Resume()
	}
	return Open(k.sys, path, offset, k.consumer, c)
}

// lost says that a line is not ours, and when it is asked for again.
func (k *keeper) lost(l *kept, err error) {
	now := k.env.Clock.Now()
	if l.line != nil && now-l.up >= MaxWait {
		l.wait = 0
	}
	k.drop(l)
	l.wait = min(max(2*l.wait, firstWait), MaxWait)
	// Half of it is random, so that a hundred gateways on one switch do not move in step.
	l.at = now + l.wait/2 + time.Duration(k.rng.Int64N(int64(l.wait/2)))
	why := Failed
	if e := (*Error)(nil); errors.As(err, &e) {
		why = e.Reason
	}
	if l.told != why {
		l.told = why
		k.log.Warn("a line cannot be used; trying again until it can", "line", l.Name, "reason", why, "err", err)
	}
	k.h.Down(l.i, why, err, now)
}

// drop gives a line back, if it is ours.
func (k *keeper) drop(l *kept) {
	if l.line == nil {
		return
	}
	l.line.Close()
	close(l.arm)
	l.line, l.rest = nil, false
}

// drain tells the edges that wait.
func (k *keeper) drain(l *kept) error {
	for range busyReads {
		edges, err := l.line.Read(k.events[:0])
		k.events = edges[:0]
		if len(edges) > 0 {
			k.h.Edges(l.i, edges)
		}
		if err != nil || len(edges) == 0 {
			return err
		}
	}
	return nil
}

// peek asks for the level, and takes the edges that came until then or right behind. None:
// the level is from after all edges that were told.
func (k *keeper) peek(line *Line) (gpio.Level, []Event, error) {
	level, err := line.Level()
	if err != nil {
		return level, nil, err
	}
	edges, err := line.Read(k.events[:0])
	k.events = edges[:0]
	return level, edges, err
}

// look tells the level of every line that is quiet.
func (k *keeper) look() {
	for _, l := range k.lines {
		for range busyReads {
			if l.line == nil {
				break
			}
			now := k.env.Clock.Now()
			level, edges, err := k.peek(l.line)
			if len(edges) > 0 {
				k.h.Edges(l.i, edges)
			}
			if err != nil {
				k.lost(l, err)
			} else if len(edges) == 0 {
				k.h.Look(l.i, level, now)
				break
			}
		}
	}
}
