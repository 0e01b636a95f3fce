package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/auth"
	"holdfast/broker/limitlog"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// access is who may come in, and what they may do. A broker without [[auth]] has none, and everybody may everything; what
// is promised of it is in docs/AUTH.md.
type access struct {
	b     *Broker
	chain *auth.Chain
	log   *limitlog.Log
	cut   bool          // a refused publish ends its connection
	delay time.Duration // that a refused client waits for its answer

	delayed    atomic.Int64  // clients that wait for a refusal
	generation atomic.Uint64 // of what the sources know
	mu         sync.Mutex
	due        map[string]struct{} // labels of sources that have changed
	news       chan struct{}
	counts     accessCounts
}

// accessCounts counts since the start.
type accessCounts struct {
	Publishes     atomic.Uint64 // refused
	Subscriptions atomic.Uint64 // refused
	Wills         atomic.Uint64 // refused, with their CONNECTs or when they were due
	Undelayed     atomic.Uint64 // refused clients that were not delayed, because too many others were
	Ended         atomic.Uint64 // connections that ended because their right did
	Suspended     atomic.Uint64 // subscriptions that lost their right
	Resumed       atomic.Uint64 // … and got it again
	Refreshed     atomic.Uint64 // clients that were asked about again
	Unrefreshed   atomic.Uint64 // … in vain: their source did not answer
}

// maxDelayed is how many refused clients wait for their answer at once: each holds a socket.
const maxDelayed = 2048

// openAccess makes the chain and starts its sources.
func (b *Broker) openAccess() error {
	if len(b.cfg.Auth) == 0 {
		return nil
	}
	a := &access{b: b, log: limitlog.New(b.log, b.wall), cut: b.cfg.Access.OnRefusedPublish == refusedDisconnect,
		delay: b.cfg.Access.RefusedDelay, due: map[string]struct{}{}, news: make(chan struct{}, 1)}
	a.chain = auth.NewChain(b.cfg.Auth, auth.Env{Log: b.log, Now: b.mono, Wall: b.wall, Rand: b.rand}, a.changed)
	if err := a.chain.Start(b.ctx); err != nil {
		return err
	}
	b.access = a
	b.background(a.run)
	b.background(a.revisit)
	return nil
}

// closeAccess ends the sources.
func (b *Broker) closeAccess() {
	if b.access == nil {
		return
	}
	if err := b.access.chain.Close(); err != nil {
		b.log.Warn("a source of users did not end in order", "err", err)
	}
}

// enter says whether a client may come in, as its CONNECT asks, and gives the connection its rights.
func (c *conn) enter(ctx context.Context, k *mqtt.Connect) error {
	a := c.b.access
	if a == nil {
		return nil
	}
	settled, err := c.guarded(ctx, k)
	if err != nil {
		return err
	}
	began, generation := c.b.mono(), a.generation.Load()
	client := &auth.Client{ID: k.ClientID, Username: k.User, Addr: addrPort(c.nc.RemoteAddr()), Listener: c.b.listenerOf(c.nc), Certificate: listen.CertificateOf(c.nc)}
	if k.HasPassword {
		client.Password = append([]byte{}, k.Password...) // never nil: an empty one is one
	}
	asking, cancel := context.WithTimeout(ctx, c.b.patience)
	grant, err := a.chain.Admit(asking, client)
	cancel()
	clear(client.Password)
	clear(k.Password)
	if ctx.Err() != nil {
		return errStopping
	}
	settled(err)
	if err != nil {
		return a.refuse(ctx, c, client, began, err)
	}
	c.renewed.Store(int64(c.b.mono()))
	c.grant.Store(grant)
	if w := k.Will; w != nil {
		if v := grant.MayCarry(grant.MayPublish(w.Topic, w.QoS, w.Retain), len(w.Payload)); !v.Allowed {
			a.counts.Wills.Add(1)
			a.say("will\x00"+c.id, "a client is refused because of its will", c, "topic", w.Topic, "why", grant.Why(v))
			a.hold(ctx, began)
			return c.refuse(mqtt.NotAuthorized, "the will: "+v.Short())
		}
	}
	c.endAt(grant)
	if a.generation.Load() != generation { // who went through the connections meanwhile did not see this one's
		_ = a.renew(ctx, c, "") // what it could not be told stays as it was said a moment ago
	}
	return nil
}

// refuse answers a client that does not get in, after a while: most come again at once.
func (a *access) refuse(ctx context.Context, c *conn, client *auth.Client, began time.Duration, err error) error {
	code, text := byte(mqtt.BadUserOrPassword), "bad user name or password"
	switch {
	case errors.Is(err, auth.ErrForbidden):
		code, text = mqtt.NotAuthorized, "not authorized"
	case errors.Is(err, auth.ErrBusy):
		code, text = mqtt.ServerBusy, "too many clients log in at once, come again"
	case errors.Is(err, auth.ErrUnavailable):
		code, text = mqtt.ServerUnavailable, "it cannot be checked now who you are, come again"
	}
	a.say("connect\x00"+client.Addr.Addr().String()+"\x00"+client.ID, "a client is refused", c, "user", client.Username, "listener", client.Listener, "why", err.Error())
	a.hold(ctx, began)
	return c.refuse(code, text)
}

// hold waits until a refused client has waited long enough, which also hides how long the refusal took. There is room for so many.
func (a *access) hold(ctx context.Context, began time.Duration) {
	defer a.delayed.Add(-1)
	if a.delayed.Add(1) > maxDelayed {
		a.counts.Undelayed.Add(1)
		return
	}
	if rest := a.delay - (a.b.mono() - began); rest > 0 {
		pause(ctx, rest)
	}
}

// say writes a line of a kind, at most once a minute.
func (a *access) say(kind, text string, c *conn, more ...any) {
	a.log.Warn(kind, func(to *slog.Logger, repeated uint64) {
		to.Warn(text, append([]any{"client", c.id, "addr", c.addr, "repeated", repeated}, more...)...)
	})
}

// barred says why a client may not publish, if so. Everything that it needs is in memory.
func (c *conn) barred(topic string, qos byte, retain bool, size int) *mqtt.Error {
	a := c.b.access
	if a == nil {
		return nil
	}
	g := c.rights()
	v := g.MayCarry(g.MayPublish(topic, qos, retain), size)
	if v.Allowed {
		return nil
	}
	a.counts.Publishes.Add(1)
	a.say("publish\x00"+c.id, "a publish is refused", c, "user", g.User, "source", g.Source, "topic", topic, "qos", qos, "retain", retain, "bytes", size, "why", g.Why(v))
	return c.b.refused(c, topic, mqtt.NotAuthorized, v.Short())
}

// maySubscribe says whether a client may subscribe to a filter (without $share/name/).
func (c *conn) maySubscribe(filter string) auth.Verdict {
	a := c.b.access
	if a == nil {
		return (*auth.Grant)(nil).MaySubscribe(filter)
	}
	g := c.rights()
	v := g.MaySubscribe(filter)
	if !v.Allowed {
		a.counts.Subscriptions.Add(1)
		a.say("subscribe\x00"+c.id, "a subscription is refused", c, "user", g.User, "source", g.Source, "filter", filter, "why", g.Why(v))
	}
	return v
}

// rights is what the client may do, if there is access: nothing, as long as nobody has said so.
func (c *conn) rights() *auth.Grant {
	if g := c.grant.Load(); g != nil {
		return g
	}
	return &nobody
}

var nobody auth.Grant

// endAt ends the connection when the right to it does.
func (c *conn) endAt(g *auth.Grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until != nil {
		c.until.Stop()
		c.until = nil
	}
	if g.Until.IsZero() || c.closed {
		return
	}
	c.until = time.AfterFunc(max(0, g.Until.Sub(c.b.wall())), func() {
		c.b.access.counts.Ended.Add(1)
		c.end(mqtt.NotAuthorized, "what it came with has expired")
	})
}

// listenerOf is the name of the listener that a connection came to.
func (b *Broker) listenerOf(nc net.Conn) string {
	to := addrPort(nc.LocalAddr()).Port()
	for _, d := range b.doorways() {
		if addrPort(d.Addr).Port() == to {
			return d.Name
		}
	}
	return ""
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
	}
	return netip.AddrPort{}
}
