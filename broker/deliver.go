package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/broker/door"
	"holdfast/broker/mqtt"
)

// Bounds of one round of a connection's writer.
const (
	pullItems = 256
	pullBytes = 64 << 10

	pullBatches = 32 // read from the logs before what was found is sent
)

// pick is an item that is to be sent now.
type pick struct {
	item
	id uint16
}

// pull appends to buf what the session may send now. more says that there may be more at once.
func (s *session) pull(ctx context.Context, c *conn, buf []byte) ([]byte, bool, error) {
	if out, again, err := s.pullAgain(ctx, c, buf); again || err != nil {
		return out, again, err
	}
	s.mu.Lock()
	picks, behind := s.choose(c.picks[:0])
	parts := s.hungry()
	s.mu.Unlock()
	for _, p := range parts {
		p.kick()
	}
	if len(picks) == 0 {
		if !behind {
			return buf, false, nil
		}
		return buf, true, s.readOn(ctx)
	}
	exactly := false
	for i := range picks {
		buf = s.encode(c, buf, &picks[i], false)
		exactly = exactly || picks[i].qos == 2
	}
	clear(picks)
	c.picks = picks
	if exactly { // packet id → position is on disk, and known everywhere, before the PUBLISH leaves
		done := make(chan error, 1)
		s.saveKnown(func(err error) { done <- err })
		if err := waitAll(ctx, done, 1); err != nil {
			return nil, false, fmt.Errorf("store QoS 2 packet identifiers: %w", err)
		}
	}
	return buf, true, nil
}

// hungry is the groups that had something for this session when it had no room, if it has room now. s.mu
// is held.
func (s *session) hungry() []*part {
	if !s.starved || s.outstanding+len(s.extra) >= s.window { // a share is smaller than that: then it is looked at in vain
		return nil
	}
	s.starved = false
	return s.partsHeld()
}

// readOn reads in the logs until there is enough for a write that is worth its system call, or a few batches have had nothing.
func (s *session) readOn(ctx context.Context) error {
	w := s.wish(s.b.tail)
	for range pullBatches {
		more, err := s.refillTo(ctx, s.b.tail, w, s.b.log)
		if err != nil || !more {
			return err
		}
		s.mu.Lock()
		enough := len(s.queue) >= pullItems/8
		s.mu.Unlock()
		if enough {
			break
		}
	}
	return nil
}

// choose takes what may be sent now. behind says that the log has to be read. s.mu is held.
func (s *session) choose(picks []pick) (_ []pick, behind bool) {
	size := 0
	for len(s.loose) > 0 && len(picks) < pullItems {
		picks = append(picks, pick{item: s.loose[0]})
		s.loose[0] = item{}
		s.loose = s.loose[1:]
	}
	for len(picks) < pullItems && size < pullBytes {
		var it item
		switch extra := len(s.extra) > 0; {
		case extra:
			it = s.extra[0]
		case len(s.queue) > 0:
			it = s.queue[0]
		default:
			return picks, !s.live
		}
		if it.qos > 0 && s.outstanding >= s.window {
			return picks, false // the next acknowledgement wakes us
		}
		if len(s.extra) > 0 {
			s.extra[0] = item{}
			s.extra = s.extra[1:]
		} else {
			s.pop()
		}
		if s.skips(&it) {
			continue
		}
		p := pick{item: it}
		if it.qos > 0 {
			p.id = s.assign(&it)
		}
		size += len(it.rec.Payload) + len(it.rec.Topic)
		picks = append(picks, p)
		s.touch()
	}
	return picks, false
}

// skips: what need not be sent any more.
func (s *session) skips(it *item) bool {
	if it.qos == 0 && !it.stored && !it.must && it.at != (cursor{}) && s.qos0From.past(it.at) {
		s.b.discards.one(discardAway, s.id, it.rec.Topic, Position(it.at))
		return true // it came while the client was away; QoS 0 does not wait for it
	}
	if _, expired := s.b.remaining(it.rec); expired {
		s.b.stats.Expired.Add(1)
		s.b.discards.one(discardExpired, s.id, it.rec.Topic, Position(it.at))
		if it.part != nil {
			s.less(it.part)
			it.part.finished(it.at)
		}
		return true
	}
	return false
}

// remaining is the message expiry interval to send, or says that it is over (3.3.2.3.3).
func (b *Broker) remaining(r *Record) (seconds uint32, expired bool) {
	if !r.HasExpiry {
		return 0, false
	}
	waited := max(0, b.steady.now()-r.Arrival) / 1e6
	if waited >= int64(r.Expiry) {
		return 0, true
	}
	return r.Expiry - uint32(waited), false
}

// assign gives an item a packet identifier. There is one: the window is smaller than their
// number. s.mu is held.
func (s *session) assign(it *item) uint16 {
	for {
		s.nextID++
		if _, used := s.inflight[s.nextID]; s.nextID != 0 && !used {
			break
		}
	}
	s.order++
	f := &sent{ID: s.nextID, At: it.at, QoS: it.qos, Retain: it.retain, SubIDs: it.ids, order: s.order, part: it.part}
	if it.stored {
		f.Stored = it.rec.Topic
	}
	if it.part != nil {
		f.Share = it.part.name
	}
	s.remember(f)
	s.outstanding++
	return f.ID
}

// encode appends a PUBLISH, unless the client takes no packet of that size ([MQTT-3.1.2-25]).
func (s *session) encode(c *conn, buf []byte, p *pick, dup bool) []byte {
	r := p.rec
	o := mqtt.Outgoing{Version: c.version, QoS: p.qos, Dup: dup, Retain: p.retain, Topic: r.Topic, ID: p.id,
		SubIDs: p.ids, Properties: r.Properties, Payload: r.Payload}
	if r.HasExpiry {
		o.Expiry, _ = s.b.remaining(r)
		o.HasExpiry = true
	}
	if r.Mark != "" {
		o.Properties = mqtt.AppendUserProperty(slices.Clone(r.Properties), door.PropertyVerified, r.Mark)
	}
	if c.maxPacket > 0 && o.Size() > int(c.maxPacket) {
		s.b.stats.TooLarge.Add(1)
		s.b.discards.one(discardTooLarge, s.id, r.Topic, Position(p.at))
		s.mu.Lock()
		s.finish(p.id)
		s.mu.Unlock()
		return buf
	}
	s.b.stats.Sent.Add(1)
	return o.Append(buf)
}

// pullAgain sends what was unfinished when the client went away, in the old order ([MQTT-4.4.0-1]).
func (s *session) pullAgain(ctx context.Context, c *conn, buf []byte) (_ []byte, more bool, err error) {
	s.mu.Lock()
	n := min(len(s.resend), 32, max(0, s.window-s.outstanding))
	todo := slices.Clone(s.resend[:n])
	s.resend = s.resend[n:]
	blocked := len(s.resend) > 0 && n == 0
	s.outstanding += n
	s.mu.Unlock()
	if blocked {
		return buf, false, nil
	}
	for _, f := range todo {
		if f.Released {
			buf = mqtt.AppendAck(buf, mqtt.PUBREL, c.version, f.ID, 0, "")
			continue
		}
		r, err := s.b.recordAt(ctx, f)
		if err != nil && !errors.Is(err, errTrimmed) && !errors.Is(err, errDamaged) {
			return buf, false, fmt.Errorf("read a message again for %q: %w", s.id, err)
		}
		if r == nil { // trimmed meanwhile, or damaged
			s.mu.Lock()
			s.gaps++
			s.finish(f.ID)
			s.mu.Unlock()
			s.b.lostUnread(s.id, f.At, err)
			continue
		}
		if c.forbids(r.Topic) {
			s.mu.Lock()
			s.finish(f.ID)
			s.mu.Unlock()
			s.b.discards.one(discardNotAllowed, s.id, r.Topic, Position(f.At))
			continue
		}
		p := pick{item: item{rec: r, at: f.At, qos: f.QoS, retain: f.Retain, ids: f.SubIDs}, id: f.ID}
		buf = s.encode(c, buf, &p, true)
	}
	return buf, n > 0, nil
}

// recordAt finds the record of an unfinished message; nil if it is gone.
func (b *Broker) recordAt(ctx context.Context, f *sent) (*Record, error) {
	if f.Stored != "" {
		it, _ := b.retained.get(f.Stored)
		return it.rec, nil
	}
	return b.recordOf(ctx, f.At)
}

func (b *Broker) recordOf(ctx context.Context, at cursor) (*Record, error) {
	batch, err := b.tail.batch(ctx, at.Node, at.Batch)
	if err != nil {
		return nil, err
	}
	if int(at.Index) >= len(batch.Records) {
		return nil, nil
	}
	r, _ := batch.Records[at.Index].delivers()
	return r, nil
}

// finish ends an unfinished message. s.mu is held.
func (s *session) finish(id uint16) {
	f := s.inflight[id]
	if f == nil {
		return
	}
	delete(s.inflight, id)
	if s.outstanding > 0 {
		s.outstanding--
	}
	if f.part != nil {
		s.less(f.part)
		f.part.finished(f.At)
	}
	s.touch()
}

// acked handles PUBACK, PUBREC and PUBCOMP of the client; one that does not belong to the message's
// QoS, or comes before its turn, is a protocol error (4.3.2, 4.3.3).
func (s *session) acked(c *conn, kind byte, id uint16, code byte) error {
	s.mu.Lock()
	f := s.inflight[id]
	switch {
	case f == nil:
		s.mu.Unlock()
		s.strange(c, kind, id)
		return nil
	case (kind == mqtt.PUBACK) != (f.QoS == 1), kind == mqtt.PUBCOMP && !f.Released:
		s.mu.Unlock()
		return &mqtt.Error{Code: mqtt.ProtocolError, Text: fmt.Sprintf("packet type %d does not answer message %d of QoS %d", kind, id, f.QoS)}
	case kind == mqtt.PUBREC && code < 0x80:
		f.Released = true
		s.mu.Unlock()
		s.saveKnown(func(err error) { // the release is on disk, and known everywhere, before PUBREL leaves
			if err == nil {
				c.send(mqtt.AppendAck(nil, mqtt.PUBREL, c.version, id, 0, ""))
			}
		})
		return nil
	}
	p := f.part
	full := s.outstanding >= s.window // only then the writer has left something for want of room
	s.finish(id)
	parts := s.hungry()
	s.mu.Unlock()
	if full {
		c.kick()
	}
	if p != nil {
		p.kick()
	}
	for _, p := range parts {
		p.kick()
	}
	return nil
}

// strange answers an acknowledgement of something that is not unfinished (4.3.3, 3.6.2.1).
func (s *session) strange(c *conn, kind byte, id uint16) {
	if kind == mqtt.PUBREC {
		c.send(mqtt.AppendAck(nil, mqtt.PUBREL, c.version, id, mqtt.PacketIDNotFound, ""))
	}
}

func sortSent(fs []*sent) {
	slices.SortFunc(fs, func(a, b *sent) int { return int(int64(a.order - b.order)) })
}
