package broker

import (
	"errors"

	"holdfast/broker/mqtt"
)

// Without a quorum nothing that is acknowledged can be taken. What is on its way may or may not have been
// stored: to say "refused" of it would be a guess. Its publisher is told to go, and sends it again, with
// DUP, to a node that can say.

// noQuorum is why this node stores nothing although its own disk would, or nil.
func (b *Broker) noQuorum() error {
	if b.peers == nil {
		return nil
	}
	for _, p := range []*error{b.peers.trouble.Load(), b.messages.trouble.Load()} {
		if p != nil && errors.Is(*p, errNoQuorum) {
			return *p
		}
	}
	return nil
}

// refusePublish ends the connection of a client that publishes with QoS 1 or 2 while there is no quorum: with a
// reason, and where to go if another node is ready. MQTT 3.1.1 has no words: no acknowledgement, and the end.
func (c *conn) refusePublish(why error) error {
	c.b.stats.storeRefused(why)
	code, server := c.instead(mqtt.ImplementationSpecific)
	c.redirect(code, c.why("not stored: "+why.Error()), server)
	return &mqtt.Error{Code: code, Text: "QoS 1 and 2 are refused: " + why.Error()}
}

// letPublishersGo ends the connections that wait for an answer to a publish, while there is no quorum.
func (b *Broker) letPublishersGo() {
	why := b.noQuorum()
	if why == nil {
		return
	}
	for _, c := range b.conns.waiting() {
		_ = c.refusePublish(why) // its reader says so, when it ends
	}
}

// waiting is the connections that have a publish which is not answered.
func (s *connSet) waiting() (out []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.m {
		c.mu.Lock()
		if c.pending > 0 && !c.ending && !c.closed {
			out = append(out, c)
		}
		c.mu.Unlock()
	}
	return out
}
