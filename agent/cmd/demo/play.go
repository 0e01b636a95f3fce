package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// The play, about a minute. The acts are long enough to be watched.
const (
	calm       = 10 * time.Second // everything is well
	outage     = 15 * time.Second // without a broker
	after      = 8 * time.Second  // after its return, and after the agent's
	dead       = 3 * time.Second  // without an agent
	drainWait  = 25 * time.Second // at most, for a backlog
	wireWindow = 50 * time.Millisecond
)

// actors is who is on the stage.
type actors struct {
	*stage
	panel  *panel
	tally  *tally
	sub    *subscriber
	look   *lookout
	meter  *feed
	agent  *child
	begun  time.Time
	deaths []time.Duration // when the agent was killed, and gone: pairs
}

// act is a part of the play.
type act struct {
	says string
	do   func(context.Context) error
}

// play runs the whole story and returns what came of it.
func play(ctx context.Context, st *stage, p *panel) (*verdict, error) {
	a := &actors{stage: st, panel: p, tally: newTally(), look: newLookout(st), begun: time.Now()}
	clients, disconnect := context.WithCancel(ctx)
	defer disconnect()
	setUp := func(ctx context.Context) error { return a.setUp(ctx, clients) }
	acts := a.oneNode(setUp)
	if len(a.nodes) > 1 {
		go a.look.run(clients)
		acts = a.cluster(setUp)
	}
	for i, act := range acts {
		p.act(i+1, len(acts), act.says)
		if err := act.do(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, err
		}
	}
	return a.judge(ctx)
}

func (a *actors) oneNode(setUp func(context.Context) error) []act {
	return []act{
		{"the broker starts, the gateway's key is registered, a subscriber waits", setUp},
		{"readings go from the wire to the subscriber", a.calm},
		{"the broker is killed: readings stay in the agent's buffer", a.outage},
		{"the broker is back: the backlog drains", a.comeback},
		{"the agent is killed (kill -9) in mid-stream", a.death},
		{"the agent is back: it finds what it had, and goes on", a.rebirth},
		{"the meter stops; everything that was taken has to arrive", a.ending},
	}
}

func (a *actors) setUp(ctx, clients context.Context) error {
	if err := a.startNodes(ctx, a.nodes...); err != nil {
		return err
	}
	k, err := a.enroll(ctx)
	if err != nil {
		return err
	}
	key, err := k.public()
	if err != nil {
		return err
	}
	a.sub = newSubscriber(a.stage, key, a.tally)
	if err := a.sub.subscribe(clients); err != nil {
		return err
	}
	if a.meter, err = a.startMeter(); err != nil {
		return err
	}
	if a.agent, err = a.startAgent(); err != nil {
		return err
	}
	return a.ready(ctx, a.agent, a.status)
}

func (a *actors) calm(ctx context.Context) error {
	if err := a.meter.command("go"); err != nil {
		return err
	}
	return a.watch(ctx, calm, nil)
}

func (a *actors) outage(ctx context.Context) error {
	a.nodes[0].kill()
	return a.watch(ctx, outage, nil)
}

func (a *actors) comeback(ctx context.Context) error {
	if err := a.startNodes(ctx, a.nodes[0]); err != nil {
		return err
	}
	return a.drained(ctx)
}

// drained waits until the backlog is, and goes on for a while.
func (a *actors) drained(ctx context.Context) error {
	// What is under way is never nothing while the meter writes: a second's worth is.
	if err := a.watch(ctx, drainWait, func() bool { return a.pending() < 2*rate }); err != nil {
		return err
	}
	return a.watch(ctx, after, nil)
}

func (a *actors) death(ctx context.Context) error {
	from := bootTime()
	a.agent.kill()
	a.agent = nil
	a.deaths = append(a.deaths, from, bootTime())
	return a.watch(ctx, dead, nil)
}

func (a *actors) rebirth(ctx context.Context) error {
	var err error
	if a.agent, err = a.startAgent(); err != nil {
		return err
	}
	if err := a.ready(ctx, a.agent, a.status); err != nil {
		return err
	}
	return a.watch(ctx, after, nil)
}

func (a *actors) ending(ctx context.Context) error {
	if err := a.meter.command("stop"); err != nil {
		return err
	}
	select {
	case <-a.meter.ended:
	case <-time.After(5 * time.Second):
		return fmt.Errorf("the meter did not stop: %+v", a.meter.state())
	}
	if err := a.watch(ctx, drainWait, func() bool { return a.account().missing == 0 }); err != nil {
		return err
	}
	// Of the lines that were on the wire when the agent was killed some may come yet.
	if err := a.watch(ctx, 3*time.Second, func() bool { return a.pending() <= 0 }); err != nil {
		return err
	}
	// What comes late would be duplicates: let them come.
	return a.watch(ctx, time.Second, nil)
}

// pending is the readings that were written and have not arrived.
func (a *actors) pending() int {
	return int(2*a.meter.state().Line) - int(a.tally.counts().readings)
}

// watch shows what happens for d, or until the condition holds. A process that ends by
// itself ends the play.
func (a *actors) watch(ctx context.Context, d time.Duration, until func() bool) error {
	end := time.After(d)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		a.show()
		if until != nil && until() {
			return nil
		}
		if err := a.gone(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
		}
	}
}

// gone is who has ended by itself.
func (a *actors) gone() error {
	running := []*child{a.agent}
	for _, n := range a.nodes {
		running = append(running, n.child)
	}
	for _, c := range running {
		if c == nil {
			continue
		}
		select {
		case <-c.done:
			return fmt.Errorf("the %s ended by itself: %v", c.name, c.err)
		default:
		}
	}
	return nil
}

func (a *actors) show() {
	c := a.tally.counts()
	a.panel.show(view{
		elapsed: time.Since(a.begun), broker: slices.ContainsFunc(a.nodes, (*node).runs), agent: a.agent != nil, nodes: a.lamps(),
		written: 2 * a.meter.state().Line, counts: c,
	})
}
