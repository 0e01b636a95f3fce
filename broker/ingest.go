package broker

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/ledger"
	"holdfast/broker/mqtt"
	"holdfast/uplink/wire"
)

// publish handles a PUBLISH: door, ledger, log. The answer leaves when the log has it on disk,
// in the order of the PUBLISHes ([MQTT-4.6.0-2]): everything with an answer goes through the
// log's queue, refusals too.
func (c *conn) publish(p *mqtt.Publish) error {
	if err := c.alias(p); err != nil {
		return err
	}
	if p.QoS > 0 {
		if err := c.b.noQuorum(); err != nil {
			return c.refusePublish(err)
		}
		if err := c.begin(); err != nil {
			return err
		}
	}
	c.b.stats.Received.Add(1)
	if p.QoS == 2 && c.repeated(p) {
		id := p.ID // what a function keeps of p, all of p would be kept for, of each message
		return c.answerLater(mqtt.PUBREC, id, func() (again bool, reject *mqtt.Error) { return false, c.session.taken(id) })
	}
	reject := c.barred(p.Topic, p.QoS, p.Retain, len(p.Payload))
	if reject != nil && c.b.access.cut {
		return reject
	}
	var r *Record
	if reject == nil {
		r, reject = c.b.admit(c, p)
	}
	switch {
	case reject != nil && p.QoS == 0:
		return nil
	case reject != nil:
		return c.answer(entry{}, ackOf(p.QoS), p.ID, reject)
	case p.QoS == 0 && !p.Retain && r.Identity == nil:
		c.b.direct(r) // QoS 0 does not wait for the disk
		return nil
	}
	return c.append(r, p)
}

func ackOf(qos byte) byte {
	if qos == 2 {
		return mqtt.PUBREC
	}
	return mqtt.PUBACK
}

// alias resolves a topic alias (3.3.2.3.4): the log knows only topics.
func (c *conn) alias(p *mqtt.Publish) error {
	switch {
	case p.Alias == 0:
		return nil
	case p.Alias > aliasMax:
		return &mqtt.Error{Code: mqtt.TopicAliasInvalid, Text: fmt.Sprintf("topic alias %d; at most %d", p.Alias, aliasMax)}
	case p.Topic != "":
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		p.Topic = strings.Clone(p.Topic)
		c.aliases[p.Alias] = p.Topic
	default:
		if p.Topic = c.aliases[p.Alias]; p.Topic == "" {
			return &mqtt.Error{Code: mqtt.ProtocolError, Text: fmt.Sprintf("topic alias %d is not defined", p.Alias)}
		}
	}
	return nil
}

// begin counts a publish that will be acknowledged (our Receive Maximum, 3.3.4).
func (c *conn) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending++
	if c.pending+c.unreleased > c.b.limits.Inflight && c.version == mqtt.V5 { // QoS 2 counts until PUBCOMP (4.9)
		return &mqtt.Error{Code: mqtt.ReceiveMaximumExceeded, Text: fmt.Sprintf("more than %d publishes without acknowledgement", c.b.limits.Inflight)}
	}
	return nil
}

// repeated: the client sends a QoS 2 message again that is being or has been received.
func (c *conn) repeated(p *mqtt.Publish) bool {
	s, id := c.session, p.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.recv[id]; known {
		return true
	}
	if s.cameLate(p.Topic, p.Payload, id) {
		s.received(id, true)
		s.touch()
		return true
	}
	s.received(id, false)
	return false
}

// admit asks the door and makes the record; or says why not.
func (b *Broker) admit(c *conn, p *mqtt.Publish) (*Record, *mqtt.Error) {
	if strings.HasPrefix(p.Topic, "$SYS/") || p.Topic == "$SYS" {
		return nil, b.refused(c, p.Topic, mqtt.TopicNameInvalid, "$SYS is the broker's own")
	}
	if e := c.tooMuch(p); e != nil {
		b.stats.Rejected.Add(1)
		return nil, b.refused(c, p.Topic, e.Code, e.Text)
	}
	m := wire.Message{Topic: p.Topic, ContentType: p.ContentType, JWS: p.JWS, Payload: p.Payload}
	if p.JWSCount > 1 {
		m.JWS = "ambiguous" // exactly one is allowed: this is no signature
	}
	v := b.door.Check(m, door.Publisher{Client: c.id, Addr: c.addr, Protocol: c.version})
	if v.Code != 0 {
		b.stats.Rejected.Add(1)
		return nil, b.refused(c, p.Topic, v.Code, v.Reason)
	}
	r := &Record{Kind: KindMessage, QoS: p.QoS, Retain: p.Retain, HasExpiry: p.HasExpiry, Expiry: p.Expiry, Arrival: b.steady.now(),
		Topic: p.Topic, Client: c.id, Mark: v.Mark, Payload: p.Payload, Properties: p.Properties, Identity: v.Verified, control: v.Control}
	if len(p.Properties) > len(door.PropertyVerified) {
		r.Properties = mqtt.WithoutUserProperty(p.Properties, door.PropertyVerified)
	}
	return r, nil
}

// refused counts a message that its publisher may not publish.
func (b *Broker) refused(c *conn, topic string, code byte, text string) *mqtt.Error {
	b.discards.add(discard{reason: discardRefused, client: c.id, topic: topic, note: text, messages: 1})
	return &mqtt.Error{Code: code, Text: text}
}

// append offers a record to the ledger and hands it to the log.
func (c *conn) append(r *Record, p *mqtt.Publish) error {
	b := c.b
	if p.QoS == 2 {
		r.PacketID, r.Epoch = p.ID, c.session.epoch
	}
	offered := false
	if v := r.Identity; v != nil {
		switch b.ledger.Offer(v) {
		case ledger.Duplicate:
			b.stats.Duplicates.Add(1)
			if p.QoS == 0 {
				return nil
			}
			return c.answer(entry{}, ackOf(p.QoS), p.ID, nil)
		case ledger.Pending: // acknowledged when the identical one is stored, and only then
			b.stats.Duplicates.Add(1)
			if p.QoS == 0 {
				return nil
			}
			return c.answerLater(ackOf(p.QoS), p.ID, func() (again bool, reject *mqtt.Error) {
				stored, pending := b.ledger.Stored(v)
				if !stored && !pending {
					reject = storeRefusal(errOriginal)
				}
				return pending, reject
			})
		case ledger.Conflict:
			b.stats.Conflicts.Add(1)
			b.door.Conflicting(v, door.Publisher{Client: c.id, Addr: c.addr, Protocol: c.version})
			r.Conflict = true
		}
		offered = true
	}
	e := entry{rec: r}
	if offered {
		e.done = func(_ Position, err error) {
			if err != nil {
				b.ledger.Abort(r.Identity)
			}
		}
	}
	return c.answer(e, ackOf(p.QoS), p.ID, nil)
}

// answer hands an entry to the log and sends the acknowledgement when it is stored.
func (c *conn) answer(e entry, kind byte, id uint16, reject *mqtt.Error) error {
	first, rec := e.done, e.rec
	done := func(at Position, err error) {
		if first != nil {
			first(at, err)
		}
		if err != nil {
			c.b.notStored(rec)
		}
		if id != 0 {
			c.answerOnceRead(kind, id, at.Batch, reject, err)
		}
		c.passed(-1)
	}
	c.passed(1)
	if err := c.b.hand(entry{rec, done}); err != nil {
		c.passed(-1)
		if first != nil {
			first(Position{}, err)
		}
		return &mqtt.Error{Code: mqtt.ServerShuttingDown, Text: err.Error()}
	}
	return nil
}

// passed counts the entries of this connection that are on their way through the log.
func (c *conn) passed(n int) {
	c.mu.Lock()
	c.logged += n
	c.nudge()
	c.mu.Unlock()
}

// errOriginal: a copy came while the original was on its way to the disk, and that failed.
var errOriginal = errors.New("the same message, sent before, was not stored")

// answerLater answers when everything before it in the log's queue is settled, as verdict then
// says. While verdict says again, it waits for what has come meanwhile.
func (c *conn) answerLater(kind byte, id uint16, verdict func() (again bool, reject *mqtt.Error)) error {
	var done func(Position, error)
	done = func(_ Position, err error) {
		again, reject := verdict()
		if again && err == nil && c.b.messages.submitNow(entry{done: done}) == nil {
			return
		}
		if reject != nil && c.version != mqtt.V5 {
			err = errOriginal // 3.1.1 has no refusal
		}
		c.answerOnceRead(kind, id, c.b.messages.stored.Load(), reject, err)
	}
	if err := c.b.store(entry{done: done}); err != nil {
		return &mqtt.Error{Code: mqtt.ServerShuttingDown, Text: err.Error()}
	}
	return nil
}

// answerOnceRead is answered as soon as the answer may leave: a PUBACK at once, without a function that would have to be kept for it.
func (c *conn) answerOnceRead(kind byte, id uint16, batch uint64, reject *mqtt.Error, err error) {
	if kind == mqtt.PUBACK {
		c.answered(kind, id, reject, err)
		return
	}
	c.whenRead(batch, func() { c.answered(kind, id, reject, err) })
}

// taken says what became of a QoS 2 message that came again while the first was on its way.
func (s *session) taken(id uint16) *mqtt.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recv[id] {
		return nil
	}
	return storeRefusal(errOriginal)
}

// answered runs in log order.
func (c *conn) answered(kind byte, id uint16, reject *mqtt.Error, err error) {
	if err != nil {
		reject = storeRefusal(err)
		c.b.stats.storeRefused(err)
	}
	if kind == mqtt.PUBREC {
		c.session.accepted(id, reject == nil || err == nil && c.version != mqtt.V5)
	}
	c.mu.Lock()
	c.pending--
	if kind == mqtt.PUBREC && reject == nil {
		c.unreleased++
	}
	switch {
	case c.closed || c.ending:
	case reject == nil:
		c.out = mqtt.AppendAck(c.out, kind, c.version, id, 0, "")
	case c.version == mqtt.V5:
		c.out = append(c.out, c.fitting(mqtt.AppendAck(nil, kind, c.version, id, reject.Code, c.why(reject.Text)),
			func() []byte { return mqtt.AppendAck(nil, kind, c.version, id, reject.Code, "") })...)
	case err != nil:
		// 3.1.1 has no words for "not stored": no acknowledgement, and the connection ends,
		// so that the client sends it again (3.3.5).
		c.mu.Unlock()
		c.end(mqtt.QuotaExceeded, "")
		return
	default:
		// 3.1.1 section 3.3.5: what is refused is acknowledged, or the connection ends. A client
		// that is cut off comes back with the same message for ever.
		c.out = mqtt.AppendAck(c.out, kind, c.version, id, 0, "")
		c.b.stats.SilentlyRefused.Add(1)
	}
	c.mu.Unlock()
	c.kick()
}

// accepted: a QoS 2 publish gets a PUBREC that a PUBREL will follow, or not.
func (s *session) accepted(id uint16, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		s.received(id, true)
	} else {
		delete(s.recv, id)
	}
}

// storeRefusal is a store's error as the client is told.
func storeRefusal(err error) *mqtt.Error {
	if errors.Is(err, errStoreFull) {
		return &mqtt.Error{Code: mqtt.QuotaExceeded, Text: "not stored: " + err.Error()}
	}
	return &mqtt.Error{Code: mqtt.ImplementationSpecific, Text: "not stored: " + err.Error()}
}

// release handles PUBREL: the packet id is free when that is on disk.
func (c *conn) release(id uint16) error {
	s := c.session
	s.mu.Lock()
	stored, known := s.recv[id]
	kept := s.kept
	s.mu.Unlock()
	if !known {
		c.wasReleased()
		c.send(mqtt.AppendAck(nil, mqtt.PUBCOMP, c.version, id, mqtt.PacketIDNotFound, ""))
		return nil
	}
	if err := c.b.noQuorum(); err != nil {
		return c.refusePublish(err)
	}
	if !stored {
		return &mqtt.Error{Code: mqtt.ProtocolError, Text: "PUBREL before PUBREC"}
	}
	var rec *Record
	if kept {
		rec = &Record{Kind: KindRelease, Client: c.id, PacketID: id, Epoch: s.epoch, Arrival: c.b.steady.now()}
	}
	err := c.b.store(entry{rec, func(at Position, err error) {
		if err != nil {
			c.end(mqtt.ImplementationSpecific, "not stored: "+err.Error())
			return
		}
		if rec == nil { // else it was let go when the record was entered
			s.accepted(id, false)
		}
		c.whenRead(at.Batch, func() { // the id may be used again at any node
			c.wasReleased()
			c.send(mqtt.AppendAck(nil, mqtt.PUBCOMP, c.version, id, 0, ""))
		})
	}})
	if err != nil {
		return &mqtt.Error{Code: mqtt.ServerShuttingDown, Text: err.Error()}
	}
	return nil
}

// wasReleased: a QoS 2 publish is over, and its place in our Receive Maximum free. One that an earlier
// connection began has none (4.9).
func (c *conn) wasReleased() {
	c.mu.Lock()
	c.unreleased = max(0, c.unreleased-1)
	c.mu.Unlock()
}

// notStored counts a message that the store did not take. With QoS 1 and 2 its publisher knows.
func (b *Broker) notStored(r *Record) {
	if r != nil && r.Kind == KindMessage {
		b.discards.one(discardNotStored, r.Client, r.Topic, Position{})
	}
}

// commit enters a batch of the own log that has been stored, in log order: first what follows from
// the log, then the tail, and after that the publishers are told.
func (b *Broker) commit(batch *Batch) {
	for err := b.tail.fill(b.ctx, batch); err != nil && pause(b.ctx, followWait); err = b.tail.fill(b.ctx, batch) {
		b.log.Warn("held messages cannot be read yet", "batch", batch.Number, "err", err)
	}
	b.enterAll(batch, false)
	b.own.offer(batch)
}

func (b *Broker) enterAll(batch *Batch, replay bool) {
	b.held.read(batch)
	for i := range batch.Records {
		b.enter(batch, i, replay)
	}
}

// enter applies one record to the ledger, the retained messages and the QoS 2 packet ids.
func (b *Broker) enter(batch *Batch, i int, replay bool) {
	r := &batch.Records[i]
	at := cursor{batch.Node, batch.Number, uint32(i)}
	if r.Identity != nil {
		b.enterLedger(r, Position(at))
	}
	b.held.enter(r, at, batch.Lamport)
	if m, ok := r.delivers(); ok {
		b.retain(m, at, batch.Lamport)
	}
	if r.Kind == KindTrim && !replay && batch.Node != b.cfg.Node.Name {
		b.trimmedElsewhere(batch.Node, r.Through)
	}
	if r.PacketID == 0 {
		return
	}
	if batch.Node != b.cfg.Node.Name { // of a session that this node has now it is what an earlier node stored late
		b.inbound.add(r, at)
	} else if s := b.sessions.get(r.Client); s != nil {
		s.enterQoS2(r, at, replay)
	}
}

// enterLedger commits a verified record; a control message that was read from a log has to be
// decoded again.
func (b *Broker) enterLedger(r *Record, p Position) {
	if r.control == nil && r.Identity.Type != wire.TypeData && !b.ledger.Knew(p) {
		pack, err := wire.Decode(recordMessage(r))
		if err != nil {
			b.log.Error("a stored control message cannot be read", "position", p.String(), "err", err)
		} else {
			r.control = &pack
		}
	}
	b.ledger.Commit(r.Identity, r.control, p, time.UnixMicro(r.Arrival))
	r.control = nil
}

// recordMessage is a record as the message that was published.
func recordMessage(r *Record) wire.Message {
	s := mqtt.SignedOf(r.Properties)
	return wire.Message{Topic: r.Topic, ContentType: s.ContentType, JWS: s.JWS, Payload: r.Payload}
}

// Message returns the published message of a record, for whoever wants to verify it again.
func (r *Record) Message() wire.Message { return recordMessage(r) }
