package broker

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// session is a client's subscriptions, its cursor into the log, and what it has not acknowledged.
// feed.mu guards all of it.
type session struct {
	feed
	b         *Broker
	id        string
	epoch     uint64        // a clean start begins another
	claim     uint64        // its rank in the state: that of the node which has it is the highest
	claimedAt atomic.Uint64 // the batch of the state log that has its claim
	moved     bool          // another node has had it last, and this one's claim is not on disk yet
	anew      bool          // it is this node's, which has claimed it again, and that is not on disk yet

	conn     *conn // nil: away
	expiry   uint32
	gone     time.Duration // when it went away, monotonic
	goneWall int64         // µs, for after a restart
	kept     bool          // there is a record of it in the state store
	shares   map[string]membership
	dealt    map[*part]int // of each group, what is in hand and not this client's alone
	starved  bool          // a group had something for it, and it had no room
	ended    bool

	window      int // how much may be unacknowledged (Receive Maximum)
	outstanding int
	inflight    map[uint16]*sent
	nextID      uint16
	order       uint64
	resend      []*sent
	extra       []item // retained messages and a group's, in the order they came
	qos0From    vector // it was away before this: what it gets with QoS 0 begins here

	recv   map[uint16]bool // inbound QoS 2 packet ids not yet released; true: on disk
	recvAt vector          // recv has been restored up to here

	dirty   bool // to be saved with the next round
	saving  bool
	waiters []func(error)
	will    *will
	late    map[uint16]sameness  // what another node stored late of QoS 2, and the client has not sent again yet
	waits   []waitFor            // what a node that is gone waited for; fetch goes on with it
	since   uint64               // that node's log had come here when it began to
	void    map[string]attemptID // other nodes' attempts that were given up for the connection
}

// sent is a message that was sent with QoS 1 or 2 and is not finished.
type sent struct {
	ID       uint16   `json:"id"`
	At       cursor   `json:"at"`
	QoS      byte     `json:"qos"`
	Released bool     `json:"released,omitempty"` // QoS 2: PUBREC came, PUBREL is on disk
	Retain   bool     `json:"retain,omitempty"`
	Stored   string   `json:"stored,omitempty"` // topic, if it is a retained message
	SubIDs   []uint32 `json:"sub_ids,omitempty"`
	Share    string   `json:"share,omitempty"`
	order    uint64
	part     *part // that has to know when it is finished; QoS 2: until it is on disk as this client's
}

// sessionRecord is what a session is, apart from how far it has come.
type sessionRecord struct {
	Epoch  uint64          `json:"epoch"`
	Expiry uint32          `json:"expiry"`
	Gone   int64           `json:"gone,omitempty"` // µs since 1970; 0: connected
	Subs   []*subscription `json:"subs,omitempty"`
}

// cursorRecord is how far a session has come.
type cursorRecord struct {
	Epoch  uint64   `json:"epoch"`
	At     vector   `json:"at"`
	NextID uint16   `json:"next_id"`
	Sent   []*sent  `json:"sent,omitempty"`
	Stored []string `json:"stored,omitempty"` // retained messages still to send
	Recv   []uint16 `json:"recv,omitempty"`
	RecvAt vector   `json:"recv_at"`

	Late  []lateID  `json:"late,omitempty"`  // what came up late of QoS 2, and the client has not sent again yet
	Waits []waitFor `json:"waits,omitempty"` // logs in which more of it may come up
	Since uint64    `json:"since,omitempty"` // the node's own log had come here when it began to wait for them
}

// lateID is a QoS 2 packet id and the content that another node has stored under it.
type lateID struct {
	ID   uint16 `json:"id"`
	Hash []byte `json:"hash"`
}

const (
	sessionKey = "session/"
	cursorKey  = "cursor/"
	shareKey   = "share/"
)

// windows: a client's Receive Maximum, but not beyond what is sensible to keep as unfinished;
// MQTT 3.1.1 has none, and small clients expect little.
const (
	maxWindow = 1024
	window311 = 100
)

func (b *Broker) newSession(id string, epoch uint64) *session {
	s := &session{b: b, id: id, epoch: epoch, window: window311}
	s.feed.client, s.feed.name = id, id
	s.feed.lost = func(at cursor, next uint64, why discardReason) { b.skipped(&s.feed, id, at, next, why) }
	s.feed.bar = func(r *Record, at cursor) { b.discards.one(discardNotAllowed, id, r.Topic, Position(at)) }
	s.feed.subs = map[string]*subscription{}
	s.feed.kick = s.wake
	return s
}

// wake lets the connection's writer look at the feed.
func (s *session) wake() {
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.kick()
	}
}

// record is the present sessionRecord. s.mu is held.
func (s *session) record() []byte {
	r := sessionRecord{Epoch: s.epoch, Expiry: s.expiry}
	if s.conn == nil {
		r.Gone = s.goneWall
	}
	for _, sub := range s.subs {
		r.Subs = append(r.Subs, sub)
	}
	for _, m := range s.shares {
		r.Subs = append(r.Subs, m.sub)
	}
	data, _ := json.Marshal(r) // plain values: it cannot fail
	return data
}

// progress is the present cursorRecord. s.mu is held; end was read before that.
func (s *session) progress(end vector) []byte {
	r := cursorRecord{Epoch: s.epoch, At: s.position(end), NextID: s.nextID, RecvAt: end}
	for _, f := range s.inflight {
		if f.part == nil || f.QoS == 2 { // what the group can give to another, the group remembers
			r.Sent = append(r.Sent, f)
		}
	}
	slices.SortFunc(r.Sent, func(a, b *sent) int { return int(int64(a.order - b.order)) })
	for i := range s.extra {
		if s.extra[i].stored {
			r.Stored = append(r.Stored, s.extra[i].rec.Topic)
		}
	}
	for id, stored := range s.recv {
		if stored {
			r.Recv = append(r.Recv, id)
		}
	}
	for id, same := range s.late {
		r.Late = append(r.Late, lateID{id, same.hash[:]})
	}
	r.Since, r.Waits = s.b.holds.waitsOf(s.id)
	data, _ := json.Marshal(r)
	return data
}

// save writes how far the session has come; done, if any, is called when that is on disk. Saves
// of one session are never on their way twice: what comes meanwhile shares the next one.
func (s *session) save(done func(error)) {
	if done == nil {
		done = func(error) {} // a round that is on its way has not seen what this one is for
	}
	s.mu.Lock()
	s.waiters = append(s.waiters, done)
	start := !s.saving && s.kept
	ended := !s.kept
	if start {
		s.saving = true
	}
	var waiters []func(error)
	var owned []*sent
	if ended { // nothing of it is kept on disk: what it promises ends with the process
		waiters, s.waiters, owned = s.waiters, nil, s.unowned()
	}
	s.mu.Unlock()
	s.own(owned)
	callAll(waiters, nil)
	if start {
		s.saveRound()
	}
}

// saveKnown is save for what the session's next node has to know whatever happens to this one: done is called
// when every node that is ready has read it.
func (s *session) saveKnown(done func(error)) {
	s.mu.Lock()
	kept := s.kept
	s.mu.Unlock()
	if !kept || s.b.peers == nil {
		s.save(done)
		return
	}
	s.save(func(err error) {
		if err != nil {
			done(err)
			return
		}
		s.b.whenKnown(s.b.state.w.stored.Load(), func() { done(nil) })
	})
}

func callAll(fns []func(error), err error) {
	for _, fn := range fns {
		fn(err)
	}
}

func (s *session) saveRound() {
	end := s.b.tail.end()
	s.mu.Lock()
	data, rank := s.progress(end), s.claim
	waiters, owned := s.waiters, s.unowned()
	s.waiters, s.dirty = nil, false
	s.mu.Unlock()
	err := s.b.state.putNow(pair{key: cursorKey + s.id, value: data, rank: rank}, func(err error) { s.saved(waiters, owned, err) })
	if err != nil {
		s.saved(waiters, owned, err)
	}
}

// unowned is the QoS 2 messages of groups that are this client's alone as soon as that is on disk. s.mu is
// held.
func (s *session) unowned() (out []*sent) {
	if len(s.shares) == 0 {
		return nil
	}
	for _, f := range s.inflight {
		if f.part != nil && f.QoS == 2 {
			out = append(out, f)
		}
	}
	return out
}

// own ends a group's part in messages that are the client's now.
func (s *session) own(fs []*sent) {
	for _, f := range fs {
		s.mu.Lock()
		p := f.part
		if f.part = nil; p != nil {
			s.less(p)
		}
		s.mu.Unlock()
		if p != nil {
			p.finished(f.At)
		}
	}
}

func (s *session) saved(waiters []func(error), owned []*sent, err error) {
	if err == nil {
		s.own(owned)
	}
	callAll(waiters, err)
	s.mu.Lock()
	if err != nil {
		s.touch() // to be tried again
	}
	again := len(s.waiters) > 0 && err == nil
	s.saving = again
	rest := s.waiters
	if !again {
		s.waiters = nil
	}
	s.mu.Unlock()
	if again {
		s.saveRound()
		return
	}
	callAll(rest, err)
}

// touch marks the session for the next round of saves. s.mu is held.
func (s *session) touch() {
	if s.kept && !s.dirty {
		s.dirty = true
		s.b.dirty.add(s)
	}
}

// dirtySet is the sessions that moved since the last round.
type dirtySet struct {
	mu  sync.Mutex
	set []*session
}

func (d *dirtySet) add(s *session) {
	d.mu.Lock()
	d.set = append(d.set, s)
	d.mu.Unlock()
}

func (d *dirtySet) take() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	set := d.set
	d.set = nil
	return set
}

// restoreSessions makes the sessions that the state store remembers as this node's. Nobody is
// connected yet. Those of other nodes come when their clients do.
func (b *Broker) restoreSessions() error {
	for _, v := range b.state.versions(sessionKey, false) {
		if v.node != b.cfg.Node.Name && !b.alone() {
			continue
		}
		s, err := b.parseSession(v.key[len(sessionKey):], v.value)
		if err != nil {
			b.log.Error("a session's record cannot be read: it begins anew", "key", v.key, "err", err)
			continue
		}
		s.claim = v.rank
		b.sessions.m[s.id] = s
	}
	for _, v := range b.state.versions(cursorKey, false) {
		if v.node != b.cfg.Node.Name && !b.alone() {
			continue
		}
		s := b.sessions.m[v.key[len(cursorKey):]]
		if s == nil { // its session ended while this was on its way
			if err := b.state.deleteAsync(v.key, v.rank); err != nil {
				return err
			}
			continue
		}
		if err := b.parseCursor(s, v.value, b.tail.end().of(b.cfg.Node.Name)); err != nil {
			b.log.Error("a session's cursor cannot be read: it gets what the log still has", "key", v.key, "err", err)
		}
	}
	for _, s := range b.sessions.m {
		b.enterShares(s)
	}
	if !b.alone() {
		return nil
	}
	return b.state.Each(shareKey, func(key string, _ []byte) error {
		if b.shares.get(key[len(shareKey):]) == nil { // its last member has just ended
			return b.state.deleteAsync(key, 0)
		}
		return nil
	})
}

// enterShares makes a session that is this node's a member of the groups that it has subscribed to.
func (b *Broker) enterShares(s *session) {
	s.mu.Lock()
	shares := slices.Collect(maps.Values(s.shares))
	s.mu.Unlock()
	for _, m := range shares {
		if m.part == nil {
			b.joinGroup(s, m.sub, false)
		} else {
			m.part.settle()
		}
	}
}

// parseSession makes a session of its record.
func (b *Broker) parseSession(id string, value []byte) (*session, error) {
	var r sessionRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("session %q: %w", id, err)
	}
	s := b.newSession(id, r.Epoch)
	s.expiry, s.kept, s.goneWall, s.gone = r.Expiry, true, r.Gone, b.mono()
	if r.Gone != 0 { // the time away counts by the wall clock, but never more than it says
		away := max(0, time.Duration(b.steady.now()-r.Gone)*time.Microsecond)
		s.gone -= away
	} else {
		s.goneWall = b.steady.now()
	}
	for _, sub := range r.Subs {
		sub.Since = sub.Since.named(b.cfg.Node.Name)
		if !isShare(sub.Filter) {
			s.subs[sub.Filter] = sub
			continue
		}
		if s.shares == nil {
			s.shares = map[string]membership{}
		}
		s.shares[sub.Filter] = membership{sub: sub} // it joins when the session is this node's for good
	}
	return s, nil
}

// parseCursor takes how far a session had come. End is that of the own log.
func (b *Broker) parseCursor(s *session, value []byte, end cursor) error {
	var r cursorRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return fmt.Errorf("cursor of session %q: %w", s.id, err)
	}
	if r.Epoch != s.epoch {
		return nil
	}
	own := b.cfg.Node.Name
	// Where the own log lost its end, other records will stand.
	s.at, s.nextID, s.recvAt = r.At.named(own).cut(end), r.NextID, r.RecvAt.named(own).cut(end)
	for _, f := range r.Sent {
		if f.At = f.At.named(own); f.Stored == "" && f.At.Node == own && !f.At.before(end) {
			continue
		}
		s.order++
		f.order = s.order
		s.remember(f)
	}
	for _, id := range r.Recv {
		s.received(id, true)
	}
	for _, l := range r.Late {
		same := sameness{epoch: strconv.FormatUint(s.epoch, 16), number: uint64(l.ID)}
		copy(same.hash[:], l.Hash)
		s.cameUp(l.ID, same)
	}
	s.waits, s.since = r.Waits, r.Since
	for _, topic := range r.Stored {
		if it, ok := b.retained.get(topic); ok {
			it.qos = it.rec.QoS
			s.extra = append(s.extra, it)
		}
	}
	return nil
}

func (s *session) remember(f *sent) {
	if s.inflight == nil {
		s.inflight = map[uint16]*sent{}
	}
	s.inflight[f.ID] = f
}

func (s *session) received(id uint16, stored bool) {
	if s.recv == nil {
		s.recv = map[uint16]bool{}
	}
	s.recv[id] = stored
}

// enterQoS2 follows the inbound packet ids in log order. It is done before the tail moves on: what
// a save says up to the tail's end must be true, or a packet id that was let go would come back
// after a crash and swallow another message.
func (s *session) enterQoS2(r *Record, at cursor, replay bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != r.Epoch || replay && s.recvAt.past(at) {
		return
	}
	delete(s.late, r.PacketID) // the id has been used
	if r.Kind == KindRelease {
		delete(s.recv, r.PacketID)
	} else {
		s.received(r.PacketID, true)
	}
	s.touch()
}
