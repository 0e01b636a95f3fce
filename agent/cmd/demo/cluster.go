package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The play with three nodes, a little more than a minute.
const (
	without  = 12 * time.Second // without a node: after 4 to 9 s the others lead its logs
	returned = 4 * time.Second  // after it is ready again
	move     = 20 * time.Second // at most, for the agent or the subscriber to be elsewhere
)

func (a *actors) cluster(setUp func(context.Context) error) []act {
	return []act{
		{"three brokers form a cluster; the key is registered, a subscriber waits", setUp},
		{"readings go to one node, and from another to the subscriber", a.calm},
		{"the agent's node is killed (kill -9): the agent goes to another", a.loseLeader},
		{"it is back: it reads what it missed before it takes anybody", a.heal},
		{"the subscriber's node is emptied (cluster drain): the session moves", a.drain},
		{"all three nodes and the agent are killed (kill -9)", a.blackout},
		{"all are back: the backlog drains", a.restart},
		{"the meter stops; everything that was taken has to arrive", a.ending},
	}
}

// loseLeader kills the node whose log takes the agent's messages.
func (a *actors) loseLeader(ctx context.Context) error {
	victim := a.look.agentAt()
	if victim == nil {
		return errors.New("the agent is connected to no node")
	}
	victim.kill()
	if err := a.until(ctx, "the agent is connected to another node", func() bool {
		n := a.look.agentAt()
		return n != nil && n != victim
	}); err != nil {
		return err
	}
	return a.watch(ctx, without, nil)
}

func (a *actors) heal(ctx context.Context) error {
	for _, n := range a.nodes {
		if !n.runs() {
			if err := a.startNode(n); err != nil {
				return err
			}
		}
	}
	if err := a.allReady(ctx); err != nil {
		return err
	}
	return a.watch(ctx, returned, nil)
}

func (a *actors) drain(ctx context.Context) error {
	from := a.sub.node()
	drained := make(chan error, 1)
	go func() {
		_, err := a.tool(ctx, "holdfast-broker", "cluster", "drain", "--wait", "1s", "--config", a.config(from))
		drained <- err
	}()
	err := errors.New("holdfast-broker cluster drain did not end")
	if e := a.until(ctx, "the node is empty", func() bool {
		select {
		case err = <-drained:
			return true
		default:
			return false
		}
	}); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	if err := a.until(ctx, "the subscriber goes to another node", func() bool { return a.sub.node() != from }); err != nil {
		return err
	}
	return a.drained(ctx)
}

func (a *actors) blackout(ctx context.Context) error {
	for _, n := range a.nodes {
		n.kill()
	}
	return a.death(ctx)
}

func (a *actors) restart(ctx context.Context) error {
	var err error
	if a.agent, err = a.startAgent(); err != nil {
		return err
	}
	for _, n := range a.nodes {
		if err := a.startNode(n); err != nil {
			return err
		}
	}
	if err := a.allReady(ctx); err != nil {
		return err
	}
	return a.drained(ctx)
}

// allReady waits for the nodes as ready does, and shows it.
func (a *actors) allReady(ctx context.Context) error {
	end := time.Now().Add(readiness)
	well := func() bool {
		for _, n := range a.nodes {
			if a.look.state(n) != stateReady {
				return false
			}
		}
		return true
	}
	if err := a.watch(ctx, time.Until(end), well); err != nil || well() {
		return err
	}
	return fmt.Errorf("a node was not ready within %v:%s", readiness, view{nodes: a.lamps()}.nodeWords())
}

// until watches for at most move.
func (a *actors) until(ctx context.Context, what string, is func() bool) error {
	was := false
	if err := a.watch(ctx, move, func() bool { was = is(); return was }); err != nil || was {
		return err
	}
	return fmt.Errorf("within %v it did not come about that %s:%s", move, what, view{nodes: a.lamps()}.nodeWords())
}

// lamps is the cluster for the panel, none with one node.
func (a *actors) lamps() []lamp {
	if len(a.nodes) == 1 {
		return nil
	}
	var out []lamp
	for _, n := range a.nodes {
		l := lamp{name: n.name, on: n.runs()}
		if !l.on {
			l.says = "is dead"
			out = append(out, l)
			continue
		}
		var says []string
		state := a.look.state(n)
		if l.ready = state == stateReady; !l.ready {
			says = append(says, state)
		}
		if a.agent != nil && a.look.agentAt() == n {
			says = append(says, "← agent")
		}
		if a.sub.node() == n {
			says = append(says, "→ subscriber")
		}
		l.says = strings.Join(says, " ")
		out = append(out, l)
	}
	return out
}
