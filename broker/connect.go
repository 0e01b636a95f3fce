package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// connect answers a CONNECT. After an error the connection ends; the CONNACK has said why.
func (c *conn) connect(ctx context.Context, body []byte) error {
	k, err := mqtt.DecodeConnect(body)
	c.mu.Lock() // end may come from outside at any time
	c.version, c.problems = max(k.Version, mqtt.V311), k.RequestProblem
	if err == nil {
		c.maxPacket = k.MaxPacket
	}
	c.mu.Unlock()
	if err != nil {
		var e *mqtt.Error
		if errors.As(err, &e) && (k.Version == mqtt.V5 || e.Code == mqtt.UnsupportedVersion) {
			return c.refuse(e.Code, e.Text)
		}
		return err
	}
	assigned := ""
	if k.ClientID == "" {
		if c.version != mqtt.V5 && !k.Clean { // 3.1.1 [MQTT-3.1.3-8]
			return c.refuse(mqtt.ClientIDNotValid, "an empty client id needs a clean session")
		}
		if k.Version == mqtt.V31 { // 3.1 section 3.1: 1 to 23 characters
			return c.refuse(mqtt.ClientIDNotValid, "an empty client id needs MQTT 3.1.1 or 5")
		}
		assigned = "auto-" + hex.EncodeToString(c.b.random(8))
		k.ClientID = assigned
	}
	c.id = k.ClientID
	c.watch(body)
	if err := c.unwelcome(); err != nil {
		return err
	}
	if k.AuthMethod != "" {
		return c.refuse(mqtt.BadAuthMethod, "no enhanced authentication here")
	}
	if to := c.b.drainer.turnsAway(); to != nil {
		return c.turnAway(to)
	}
	if err := c.b.takes(); err != nil {
		return c.refuseInstead(err.Error())
	}
	if err := c.bar(ctx, k.ClientID); err != nil {
		return err
	}
	if err := c.enter(ctx, &k); err != nil {
		return err
	}
	if c.will = k.Will; k.Will != nil {
		if text := c.tooLong(k.Will.Topic); text != "" {
			return c.refuse(mqtt.TopicNameInvalid, "will: "+text)
		}
	}
	if k.KeepAlive > 0 {
		c.keepAlive = time.Duration(k.KeepAlive) * time.Second * 3 / 2 // [MQTT-3.1.2-22]
	} else {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	opening, cancel := context.WithTimeout(ctx, c.b.patience)
	s, present, err := c.b.attach(opening, c, &k)
	cancel()
	if ctx.Err() != nil {
		return errStopping
	}
	if err != nil {
		return c.notOpened(err)
	}
	c.b.stats.Connects.Add(1)
	c.b.retrace(c.id)                          // a trace that began while the session was being opened
	present = present && k.Version != mqtt.V31 // 3.1 section 3.2: the byte is reserved
	ack := mqtt.Connack{Version: c.version, SessionPresent: present, ReceiveMax: uint16(c.b.limits.Inflight), TopicAliasMax: aliasMax,
		MaxPacket: uint32(c.b.limits.PacketBytes), AssignedID: assigned}.Append(nil)
	c.mu.Lock()
	c.session = s
	fits := c.fits(ack)
	if fits {
		c.out = append(ack, c.out...)
	}
	c.mu.Unlock()
	if a := c.b.access; a != nil && c.grant.Load() != c.judged { // it changed while the session was opened
		a.apply(c)
	}
	c.client.Store(true)
	if !fits { // [MQTT-3.1.2-24]: there is nothing that it could be told
		return fmt.Errorf("its Maximum Packet Size of %d bytes is too small for a CONNACK", c.maxPacket)
	}
	c.kick()
	if to := c.b.drainer.turnsAway(); to != nil { // it began meanwhile
		c.sendAway(to)
	}
	return nil
}

// fits says whether the client takes a packet of that size ([MQTT-3.1.2-24]).
func (c *conn) fits(packet []byte) bool { return c.maxPacket == 0 || len(packet) <= int(c.maxPacket) }

// fitting is with, or without, which is the same packet without its reason string, if with is
// larger than the client takes ([MQTT-3.4.2-2] and its like); nothing if both are.
func (c *conn) fitting(with []byte, without func() []byte) []byte {
	if c.fits(with) {
		return with
	}
	if with = without(); c.fits(with) {
		return with
	}
	return nil
}

// connectPatience is how long the session of a CONNECT may take to be opened: longer than to read what a node that
// is gone has left, shorter than clients wait.
const connectPatience = 15 * time.Second

// notOpened refuses a client whose session cannot be opened.
func (c *conn) notOpened(err error) error {
	c.b.forgetWill(c)
	c.b.log.Error("a client's session cannot be opened", "client", c.id, "err", err)
	why := "session store: " + err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		if not := c.b.Ready(); not != nil {
			why = not.Error()
		}
		return c.refuseInstead(why)
	}
	return c.refuse(mqtt.ServerUnavailable, why)
}

// refuseInstead refuses a client that another node may serve: 0x9C with a Server Reference, if one is ready.
func (c *conn) refuseInstead(reason string) error {
	code, server := c.instead(mqtt.ServerUnavailable)
	return c.refuseTo(code, reason, server)
}

// refuse sends a CONNACK with a reason and ends the connection.
func (c *conn) refuse(code byte, reason string) error { return c.refuseTo(code, reason, "") }

// refuseTo is refuse with a server reference.
func (c *conn) refuseTo(code byte, reason, server string) error {
	c.b.stats.Refused.Add(1)
	c.b.stats.ByCode[code].Add(1)
	c.lasting = true
	_ = c.nc.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	ack := mqtt.Connack{Version: c.version, Code: code, Reason: c.why(reason), Server: server}
	packet := c.fitting(ack.Append(nil), func() []byte { ack.Reason = ""; return ack.Append(nil) })
	c.leaving(packet)
	_, _ = c.nc.Write(packet)
	return fmt.Errorf("connection refused: %s (0x%02X)", reason, code)
}

// Bounds of what one client may ask for.
const (
	maxSubBytes = 256 << 10 // of their filters together: they are one record in the state store
	maxStored   = 1 << 16   // retained messages still to be sent, when it subscribes again
)

// subscribe handles a SUBSCRIBE: the subscriptions are on disk, if the session is, before the
// SUBACK says so.
func (c *conn) subscribe(ctx context.Context, p *mqtt.Subscribe) error {
	s, b := c.session, c.b
	codes := make([]byte, len(p.Filters))
	rights, why := c.grant.Load(), ""
	var send []item
	room := s.room(b.limits.Subscriptions)
	if slices.ContainsFunc(p.Filters, func(f mqtt.Filter) bool { return f.RetainHandling < 2 && !strings.HasPrefix(f.Filter, "$share/") }) {
		b.readOnNow(ctx)
	}
	for i, f := range p.Filters {
		share, plain, _ := mqtt.ParseFilter(f.Filter)
		if share != "" && f.NoLocal { // [MQTT-3.8.3-4]
			return &mqtt.Error{Code: mqtt.ProtocolError, Text: "No Local on a shared subscription"}
		}
		if codes[i] = c.barredFilter(f.Filter); codes[i] != 0 {
			continue
		}
		may := c.maySubscribe(plain)
		if !may.Allowed {
			codes[i], why = mqtt.NotAuthorized, may.Short()
			continue
		}
		f.QoS = min(f.QoS, may.MaxQoS)
		if !room.takes(s, f.Filter) {
			codes[i] = mqtt.QuotaExceeded
			b.limits.Hit(limits.Subscriptions, c.id, c.addr, "one more subscription is refused")
			continue
		}
		codes[i] = f.QoS
		sub := &subscription{Filter: f.Filter, QoS: f.QoS, NoLocal: f.NoLocal, RetainAsPublished: f.RetainAsPublished, ID: p.SubscriptionID}
		fresh := b.addSub(s, sub, plain, share != "")
		if share == "" && (f.RetainHandling == 0 || f.RetainHandling == 1 && fresh) {
			send = append(send, b.stored(plain, sub)...)
		}
	}
	for i, f := range p.Filters {
		if err := s.shareSettled(ctx, f.Filter); err != nil {
			b.log.Warn("a shared subscription is refused", "client", c.id, "err", err)
			codes[i] = mqtt.Unspecified
			b.removeSub(s, f.Filter)
		}
	}
	if c.grant.Load() != rights { // they changed meanwhile
		b.access.apply(c)
	}
	if err := c.keepSubs(ctx); err != nil {
		b.log.Error("subscriptions cannot be stored", "client", c.id, "err", err)
		for i := range codes {
			codes[i] = mqtt.Unspecified
		}
		c.send(c.fitting(mqtt.AppendSuback(nil, c.version, p.ID, codes, c.why("session store: "+err.Error())),
			func() []byte { return mqtt.AppendSuback(nil, c.version, p.ID, codes, "") }))
		return nil
	}
	c.send(c.fitting(mqtt.AppendSuback(nil, c.version, p.ID, codes, c.why(why)), func() []byte { return mqtt.AppendSuback(nil, c.version, p.ID, codes, "") }))
	if len(send) > 0 {
		s.mu.Lock()
		if waits := len(s.extra); waits > 0 && waits+len(send) > maxStored {
			s.mu.Unlock()
			return &mqtt.Error{Code: mqtt.QuotaExceeded, Text: fmt.Sprintf("it subscribes again while %d retained messages wait for it", waits)}
		}
		s.extra = append(s.extra, send...)
		s.touch()
		s.mu.Unlock()
		c.kick()
	}
	return nil
}

// subRoom is how many subscriptions a session may still add.
type subRoom struct{ subs, bytes int }

func (s *session) room(most int) subRoom {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := subRoom{most - len(s.subs) - len(s.shares), maxSubBytes}
	for f := range s.subs {
		r.bytes -= len(f)
	}
	for f := range s.shares {
		r.bytes -= len(f)
	}
	return r
}

// takes says whether there is room for this one too; what the session has it may change.
func (r *subRoom) takes(s *session, filter string) bool {
	s.mu.Lock()
	_, has := s.shares[filter]
	has = has || s.subs[filter] != nil
	s.mu.Unlock()
	if has {
		return true
	}
	if r.subs < 1 || r.bytes < len(filter) {
		return false
	}
	r.subs, r.bytes = r.subs-1, r.bytes-len(filter)
	return true
}

// addSub enters a subscription from the end of the log on; true if there was none for the filter.
func (b *Broker) addSub(s *session, sub *subscription, plain string, shared bool) bool {
	if shared {
		s.mu.Lock()
		_, had := s.shares[sub.Filter]
		s.mu.Unlock()
		sub.Since = b.tail.end()
		b.joinGroup(s, sub, true)
		return !had
	}
	b.tail.mu.Lock()
	defer b.tail.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.subs[sub.Filter]
	sub.Since = b.tail.endHeld()
	if old != nil {
		sub.Since = old.Since
	}
	s.subs[sub.Filter] = sub
	b.tail.tree.add(plain, &s.feed, sub)
	return old == nil
}

// stored is the retained messages that a subscription asks for.
func (b *Broker) stored(filter string, sub *subscription) []item {
	its := append(b.retained.matching(filter), b.sysStored(filter)...)
	for i := range its {
		its[i].qos = min(its[i].rec.QoS, sub.QoS)
		if sub.ID != 0 {
			its[i].ids = []uint32{sub.ID}
		}
	}
	return its
}

// keepSubs stores the session's subscriptions if the session is kept.
func (c *conn) keepSubs(ctx context.Context) error {
	s := c.session
	end := c.b.tail.end()
	s.mu.Lock()
	kept, record, progress := s.kept, s.record(), s.progress(end)
	s.mu.Unlock()
	if !kept {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.b.patience)
	defer cancel()
	return c.b.state.putEverywhere(ctx, pair{sessionKey + s.id, record, s.claim}, pair{cursorKey + s.id, progress, s.claim})
}

// unsubscribe handles an UNSUBSCRIBE.
func (c *conn) unsubscribe(ctx context.Context, id uint16, filters []string) error {
	codes := make([]byte, len(filters))
	for i, f := range filters {
		if !c.b.removeSub(c.session, f) {
			codes[i] = mqtt.NoSubscriptionExisted
		}
	}
	if err := c.keepSubs(ctx); err != nil {
		c.b.log.Error("subscriptions cannot be stored", "client", c.id, "err", err)
		for i := range codes {
			codes[i] = mqtt.Unspecified
		}
	}
	c.send(mqtt.AppendUnsuback(nil, c.version, id, codes))
	return nil
}

func (b *Broker) removeSub(s *session, filter string) bool {
	s.mu.Lock()
	m, shared := s.shares[filter]
	s.mu.Unlock()
	if shared {
		b.leaveGroup(s, m.part)
		return true
	}
	b.tail.mu.Lock()
	defer b.tail.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs[filter] == nil {
		return false
	}
	delete(s.subs, filter)
	b.tail.tree.remove(filter, &s.feed)
	return true
}
