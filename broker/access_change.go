package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"holdfast/broker/auth"
	"holdfast/broker/mqtt"
)

// This file is how a change of users and rules reaches the clients that are connected, within seconds.

// How often it is looked which clients are to be asked about again, and how many at once.
const (
	renewEvery  = time.Second
	renewAtOnce = 16
)

// changed notes that a source knows something new. It does not block.
func (a *access) changed(label string) {
	a.generation.Add(1)
	a.mu.Lock()
	a.due[label] = struct{}{}
	a.mu.Unlock()
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// run asks again about the clients that are connected when a source has changed.
func (a *access) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.news:
		}
		a.mu.Lock()
		labels := slices.Collect(maps.Keys(a.due))
		clear(a.due)
		a.mu.Unlock()
		for _, label := range labels {
			a.renewAll(ctx, label, func(*conn, *auth.Grant) bool { return true })
		}
	}
}

// revisit asks again about each client when it is due: its source does not say by itself that something has changed.
func (a *access) revisit(ctx context.Context) {
	for pause(ctx, renewEvery) {
		now := a.b.mono()
		a.renewAll(ctx, "", func(c *conn, g *auth.Grant) bool {
			every := g.Every()
			return every > 0 && now-time.Duration(c.renewed.Load()) >= every
		})
	}
}

// renewAll renews the connections that are due. A source that does not answer is left alone for the rest of the round.
func (a *access) renewAll(ctx context.Context, label string, due func(*conn, *auth.Grant) bool) {
	slots := make(chan struct{}, renewAtOnce)
	var renewing sync.WaitGroup
	defer renewing.Wait()
	var silent sync.Map
	for _, c := range a.b.conns.all() {
		g := c.grant.Load()
		if g == nil || !due(c, g) {
			continue
		}
		if _, is := silent.Load(g.Source); is {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		renewing.Go(func() {
			defer func() { <-slots }()
			if a.renew(ctx, c, label) != nil {
				silent.Store(g.Source, true)
			}
		})
	}
}

// renew asks again about one client, and does what follows. An error: nobody could say.
func (a *access) renew(ctx context.Context, c *conn, label string) error {
	c.renewing.Lock()
	defer c.renewing.Unlock()
	old := c.grant.Load()
	a.counts.Refreshed.Add(1)
	g, err := a.chain.Refresh(ctx, old, label)
	var no *auth.Refusal
	switch {
	case errors.As(err, &no):
		a.counts.Ended.Add(1)
		a.b.log.Warn("a client may not stay: its connection is closed", "client", c.id, "addr", c.addr, "user", old.User, "why", no.Error())
		c.grant.Store(&nobody)
		c.end(mqtt.NotAuthorized, "not authorized any more")
		return nil
	case err != nil:
		if ctx.Err() == nil {
			a.counts.Unrefreshed.Add(1)
			a.say("refresh\x00"+old.Source, "it cannot be asked again what clients may do: what they may stays as it was", c, "source", old.Source, "err", err)
		}
		return err
	}
	c.renewed.Store(int64(a.b.mono()))
	if g != old {
		c.grant.Store(g)
		c.endAt(g)
		a.apply(c)
	}
	return nil
}

// apply gives the subscriptions of a connected client what its rights are now: those that lost it get nothing more from
// here on, and those that got it again go on with what comes now.
func (a *access) apply(c *conn) {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return // who opens the session looks again
	}
	a.b.tail.mu.Lock()
	end := a.b.tail.endHeld()
	s.mu.Lock()
	if s.conn != c {
		s.mu.Unlock()
		a.b.tail.mu.Unlock()
		return
	}
	lost, back := s.judge(c.rights(), end)
	s.mu.Unlock()
	a.b.tail.mu.Unlock()
	for _, f := range lost {
		a.b.log.Warn("a subscription has lost its right: it gets nothing", "client", c.id, "filter", f)
	}
	returnAll(back)
	for _, p := range s.parts() {
		p.settle()
	}
}

// judge marks each subscription of a session that its client may not have (barred), takes what is for such a one alone
// out of what is waiting to be sent, and returns the filters that lost their right and what goes back to groups. s.mu is
// held, and the tail, unless the session is not in its tree.
func (s *session) judge(g *auth.Grant, end vector) (lost []string, back map[*part][]item) {
	counts := &s.b.access.counts
	look := func(sub *subscription) {
		v := g.MaySubscribe(plainFilter(sub.Filter))
		switch was := sub.barred; {
		case !v.Allowed && !was:
			counts.Suspended.Add(1)
			lost = append(lost, sub.Filter)
		case v.Allowed && was:
			counts.Resumed.Add(1)
			sub.Since = end // what came meanwhile was not for it
		}
		if sub.barred = !v.Allowed; v.Allowed {
			sub.QoS = min(sub.QoS, v.MaxQoS)
		}
	}
	for _, sub := range s.subs {
		look(sub)
	}
	for _, m := range s.shares {
		look(m.sub)
	}
	if len(lost) > 0 {
		back = s.sift(g)
	}
	return lost, back
}

// sift takes out of what is waiting to be sent what no subscription may have any more. s.mu is held.
func (s *session) sift(g *auth.Grant) map[*part][]item {
	sieve := func(its []item) []item {
		kept := its[:0]
		for i := range its {
			if again, wanted := s.wanted(its[i].rec, its[i].at); wanted { // else it has been counted
				kept = append(kept, again)
			}
		}
		clear(its[len(kept):])
		return kept
	}
	s.queue, s.loose, s.bytes = sieve(s.queue), sieve(s.loose), 0
	for i := range s.queue {
		s.bytes += len(s.queue[i].rec.Payload) + len(s.queue[i].rec.Topic)
	}
	back := map[*part][]item{}
	s.extra = slices.DeleteFunc(s.extra, func(it item) bool {
		if it.part != nil {
			barred := s.barred(it.part.name)
			if barred {
				back[it.part] = append(back[it.part], it)
				s.less(it.part)
			}
			return barred
		}
		if it.stored {
			_, wanted := s.wanted(it.rec, cursor{})
			return !wanted
		}
		allowed := g.MayRead(it.rec.Topic).Allowed // a group's, with QoS 0
		if !allowed {
			s.b.discards.one(discardNotAllowed, s.id, it.rec.Topic, Position(it.at))
		}
		return !allowed
	})
	return back
}

// barred says whether a subscription has lost its right. s.mu is held.
func (s *session) barred(filter string) bool {
	if sub := s.subs[filter]; sub != nil {
		return sub.barred
	}
	m := s.shares[filter]
	return m.sub != nil && m.sub.barred
}

// forbids says whether a client may not be sent again what it has not finished.
func (c *conn) forbids(topic string) bool {
	return c.b.access != nil && !c.rights().MayRead(topic).Allowed
}
