package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/eclipse/paho.golang/packets"
	paholog "github.com/eclipse/paho.golang/paho/log"
	"github.com/eclipse/paho.golang/paho/session"
)

// line is paho's session: the state that MQTT 5 §4.1 wants kept across connections.
// For a client that only publishes with QoS 1 that is which packet id carries which
// message; the messages themselves are the Source's.
var _ session.SessionManager = (*line)(nil)

var (
	errConnected    = errors.New("not connected")
	errNoIdentifier = errors.New("all packet identifiers for requests are in use")
	errPublish      = errors.New("the uplink publishes what its Source holds, nothing else")
)

// request is a SUBSCRIBE or UNSUBSCRIBE that waits for its answer.
type request struct{ answer chan<- packets.ControlPacket }

// ConAckReceived starts a connection. The send quota is new (§4.9: Receive Maximum is
// not kept across connections). With a session present, what is in flight is to be
// sent again with its packet ids (§4.4), which the pump does before anything else and
// within the new quota; without one the server has forgotten (§3.2.2.1.1), the packet
// ids are free and the messages are read anew from the Source.
func (l *line) ConAckReceived(w io.Writer, _ *packets.Connect, ack *packets.Connack) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	window, maxPacket := maxWindow, maxRemaining // absent: 65,535 and no limit, §3.2.2.3.3 and .6
	if p := ack.Properties; p != nil {
		if p.ReceiveMaximum != nil {
			window = int(*p.ReceiveMaximum)
		}
		if p.MaximumPacketSize != nil {
			maxPacket = int(min(*p.MaximumPacketSize, maxRemaining))
		}
		if p.MaximumQOS != nil && *p.MaximumQOS == 0 {
			return errNoQoS1
		}
	}
	if window == 0 {
		return errors.New("server sent Receive Maximum 0, a protocol error (§3.2.2.3.3)")
	}
	ours := len(l.fl.slots) - 1
	if l.limit >= l.window { // not in doubt
		l.limit = ours
	}
	l.w, l.goodbye = w, nil
	l.window, l.maxPacket = min(window, ours), maxPacket
	l.limit = min(l.limit, l.window)
	l.present, l.succeeded, l.probe = ack.SessionPresent, false, 0
	l.holdTill, l.stopped = 0, "" // another server, login or set of rules, perhaps
	l.n.Connects++
	if ack.SessionPresent {
		l.fl.reconnected()
	} else {
		l.forget()
	}
	return nil
}

// forget lets go of everything that is not settled; it will be read again.
func (l *line) forget() {
	l.fl.each(func(id uint16, f *flight) {
		delete(l.held, f.pos)
		l.fl.remove(id)
	})
	for _, t := range append(l.retry, l.aside...) {
		delete(l.held, t.pos)
	}
	l.retry, l.aside = nil, nil
	clear(l.troubles)
}

// ConnectionLost ends a connection, with the server's DISCONNECT (§3.14) if it sent
// one. It may be called again for the same end. Requests do not outlast a connection
// (§4.1 lists no SUBSCRIBE); publications stay in flight.
func (l *line) ConnectionLost(d *packets.Disconnect) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d != nil && l.goodbye == nil {
		l.goodbye = d
	}
	l.w = nil
	l.failRequests()
	return nil
}

func (l *line) failRequests() {
	for id, r := range l.requests {
		delete(l.requests, id)
		answer(r, packets.ControlPacket{})
	}
}

// answer never blocks: paho hands in channels with room for the one answer.
func answer(r request, p packets.ControlPacket) {
	select {
	case r.answer <- p:
	default:
	}
}

// AddToSession gives a request one of the reserved packet identifiers (§2.2.1).
// Publications do not come this way: they are the Source's, and the pump's turn.
func (l *line) AddToSession(_ context.Context, p session.Packet, resp chan<- packets.ControlPacket) error {
	if p.Type() != packets.SUBSCRIBE && p.Type() != packets.UNSUBSCRIBE {
		return errPublish
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return errConnected
	}
	for id := firstReserved; id <= 65535; id++ {
		if _, used := l.requests[uint16(id)]; !used {
			l.requests[uint16(id)] = request{resp}
			p.SetIdentifier(uint16(id))
			return nil
		}
	}
	return errNoIdentifier
}

// PacketReceived takes every packet that carries a packet id. A PUBACK settles its
// message here, reason code and all (§3.4.2.1). We subscribe to nothing: what the server
// publishes nevertheless is refused, so that it does not wait for us (§4.3).
func (l *line) PacketReceived(p *packets.ControlPacket, _ chan<- *packets.Publish) error {
	switch c := p.Content.(type) {
	case *packets.Puback:
		words := ""
		if c.Properties != nil {
			words = c.Properties.ReasonString
		}
		l.mu.Lock()
		l.ackedAt = l.now()
		l.puback(c.PacketID, c.ReasonCode, words)
		l.mu.Unlock()
	case *packets.Suback:
		l.answered(c.PacketID, p)
	case *packets.Unsuback:
		l.answered(c.PacketID, p)
	case *packets.Publish:
		return l.refuse(c)
	case *packets.Pubrel: // §3.7.2.1: 0x92, packet identifier not found
		return l.reply(&packets.Pubcomp{PacketID: c.PacketID, ReasonCode: 0x92})
	}
	return nil
}

// acknowledged takes PUBACKs that the conn found to say success, many at once.
func (l *line) acknowledged(ids []uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ackedAt = l.now()
	for _, id := range ids {
		l.puback(id, 0, "")
	}
}

func (l *line) answered(id uint16, p *packets.ControlPacket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.requests[id]; ok {
		delete(l.requests, id)
		answer(r, *p)
	}
}

// refuse answers a PUBLISH to us: 0x83, valid but not accepted (§3.4.2.1, §3.5.2.1).
func (l *line) refuse(p *packets.Publish) error {
	switch p.QoS {
	case 1:
		return l.reply(&packets.Puback{PacketID: p.PacketID, ReasonCode: 0x83})
	case 2:
		return l.reply(&packets.Pubrec{PacketID: p.PacketID, ReasonCode: 0x83})
	}
	return nil
}

func (l *line) reply(p interface {
	WriteTo(io.Writer) (int64, error)
}) error {
	l.mu.Lock()
	w := l.w
	l.mu.Unlock()
	if w == nil {
		return errConnected
	}
	if _, err := p.WriteTo(w); err != nil {
		return fmt.Errorf("answer the server: %w", err)
	}
	return nil
}

// Ack would acknowledge a message to the server (§4.3.2). PacketReceived has done so.
func (l *line) Ack(*packets.Publish) error { return nil }

// Close forgets the session. paho calls it only on sessions that it made itself.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failRequests()
	l.forget()
	return nil
}

// SetErrorLogger and SetDebugLogger change nothing: the uplink logs with its own slog.
func (l *line) SetErrorLogger(paholog.Logger) {}

// SetDebugLogger: see SetErrorLogger.
func (l *line) SetDebugLogger(paholog.Logger) {}
