package broker

import (
	"fmt"

	"holdfast/broker/auth"
)

// rightsOf is what a client that is connected to this node may do; known is false if it is not.
func (b *Broker) rightsOf(client string) (g *auth.Grant, known bool) {
	s := b.sessions.get(client)
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c == nil {
		return nil, false
	}
	return c.rights(), true
}

// explainRights says what the rules say about a publish, and which one decides.
func (b *Broker) explainRights(client, topic string) Verdicts {
	if b.access == nil {
		return Verdicts{ExplainYes, []string{"there is no [[auth]]: whoever reaches a listener, which are all on loopback, may publish"}}
	}
	g, known := b.rightsOf(client)
	if !known {
		return Verdicts{ExplainUnknown, []string{"it is not connected: the sources of users ([[auth]]) say what it may do when it connects"}}
	}
	v := g.MayPublish(topic, 0, false)
	out := Verdicts{ExplainYes, []string{"let in by " + g.Source + userWords(g), g.Why(v)}}
	switch {
	case !v.Allowed:
		out.Answer = ExplainNo
		out.Why = append(out.Why, "the answer is 0x87 on MQTT 5; on 3.1.1 it is acknowledged and not stored")
	case v.MaxQoS < 2:
		out.Why = append(out.Why, fmt.Sprintf("… with QoS %d at most", v.MaxQoS))
	}
	if v.Allowed && !g.MayPublish(topic, 0, true).Allowed {
		out.Why = append(out.Why, "… without the retain flag")
	}
	return out
}

func userWords(g *auth.Grant) string {
	if g.User == "" {
		return ", without a user name"
	}
	return fmt.Sprintf(", as user %q", g.User)
}

// explainFilter says which rule decides about a subscription; "" without [[auth]].
func (b *Broker) explainFilter(client, filter string) string {
	if b.access == nil {
		return ""
	}
	g, known := b.rightsOf(client)
	if !known {
		return "it is asked again when it connects"
	}
	return g.Why(g.MaySubscribe(plainFilter(filter)))
}
