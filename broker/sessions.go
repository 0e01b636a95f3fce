package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"holdfast/broker/mqtt"
)

// sessions is all sessions by client id.
type sessions struct {
	mu    sync.Mutex
	m     map[string]*session
	locks map[string]*clientLock // of the client ids whose CONNECT goes on
}

func newSessions() *sessions {
	return &sessions{m: map[string]*session{}, locks: map[string]*clientLock{}}
}

func (ss *sessions) get(id string) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.m[id]
}

// clientLock is a lock of one client id: who holds it may wait for another node, so clients must not
// share one.
type clientLock struct {
	ss   *sessions
	id   string
	mu   sync.Mutex
	refs int // under ss.mu
}

// lockOf serialises what changes whose session a client id is.
func (ss *sessions) lockOf(id string) *clientLock { return &clientLock{ss: ss, id: id} }

// Lock implements sync.Locker.
func (l *clientLock) Lock() {
	l.ss.mu.Lock()
	own := l.ss.locks[l.id]
	if own == nil {
		own = &clientLock{ss: l.ss, id: l.id}
		l.ss.locks[l.id] = own
	}
	own.refs++
	l.ss.mu.Unlock()
	own.mu.Lock()
}

// Unlock implements sync.Locker.
func (l *clientLock) Unlock() {
	l.ss.mu.Lock()
	own := l.ss.locks[l.id]
	if own.refs--; own.refs == 0 {
		delete(l.ss.locks, l.id)
	}
	l.ss.mu.Unlock()
	own.mu.Unlock()
}

func (ss *sessions) all() []*session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	all := make([]*session, 0, len(ss.m))
	for _, s := range ss.m {
		all = append(all, s)
	}
	return all
}

// attach gives a connection its session: an earlier connection of the same client is ended first.
// present is what the CONNACK has to say.
func (b *Broker) attach(ctx context.Context, c *conn, k *mqtt.Connect) (s *session, present bool, err error) {
	lock := b.sessions.lockOf(k.ClientID)
	lock.Lock()
	defer lock.Unlock()
	s = b.sessions.get(k.ClientID)
	if s != nil {
		if err := b.takeOver(ctx, s); err != nil {
			return nil, false, err
		}
		s = b.sessions.get(k.ClientID) // it may have ended with its connection
	}
	var got fetched
	if b.peers != nil {
		defer b.attempts.end(k.ClientID)
		if got, err = b.take(ctx, k.ClientID, s); err != nil {
			return nil, false, err
		}
		s = got.session
	}
	if s != nil && (k.Clean || b.expired(s)) {
		b.endSession(s)
		s = nil
	}
	if present = s != nil; !present {
		s = b.newSession(k.ClientID, b.newEpoch())
		if k.SessionExpiry > 0 {
			if s.claim, err = b.claim(ctx, s.id, 0, &got); err != nil {
				return nil, false, err
			}
		}
	}
	s.mu.Lock()
	s.void = got.void
	s.mu.Unlock()
	err = b.keepWill(ctx, c)
	if err == nil {
		err = b.enlist(ctx, s, c, k)
	}
	if err != nil {
		return nil, false, err
	}
	return s, present, nil
}

// take brings a client's session here, if there is one, and raises the claim to it. Mine is what this node has of it. The attempt
// ends with attempts.end.
func (b *Broker) take(ctx context.Context, id string, mine *session) (fetched, error) {
	got, err := b.fetch(ctx, id, mine)
	if err == nil && got.session != nil {
		err = b.claimAnew(ctx, got.session, &got)
	}
	return got, err
}

// claimAnew raises the claim to a session that comes from elsewhere, or that a node which does not answer may have claimed:
// when this one did not answer it, for instance. What that node stores of it from then on does not count.
func (b *Broker) claimAnew(ctx context.Context, s *session, got *fetched) error {
	s.mu.Lock()
	due, had := s.moved || s.anew || s.kept && len(got.silent) > 0, s.claim
	s.mu.Unlock()
	if !due {
		return nil
	}
	rank, err := b.claim(ctx, s.id, had, got)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.claim, s.anew = rank, !s.moved
	s.mu.Unlock()
	return nil
}

// takeOver ends the connection that a session has and waits for its end ([MQTT-3.1.4-3]).
func (b *Broker) takeOver(ctx context.Context, s *session) error {
	s.mu.Lock()
	old := s.conn
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	b.log.Info("a client connected again while it was connected: the older connection is closed",
		"client", s.id, "older", old.addr)
	old.end(mqtt.SessionTakenOver, "another connection with this client id")
	select {
	case <-old.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("take over session %q: %w", s.id, ctx.Err())
	}
}

// enlist connects session and connection. A session that is to outlive its connection is on
// disk before the CONNACK says so.
func (b *Broker) enlist(ctx context.Context, s *session, c *conn, k *mqtt.Connect) error {
	end := b.tail.end()
	s.mu.Lock()
	fresh := !s.kept && s.at == nil
	if fresh {
		s.at = end
	}
	s.expiry = k.SessionExpiry
	first := s.expiry > 0 && !s.kept
	keep := first || s.moved || s.anew
	s.window = window311
	if k.Version == mqtt.V5 {
		s.window = min(int(k.ReceiveMax), maxWindow)
	}
	s.outstanding, s.online, s.qos0From = 0, true, end
	s.will = nil
	s.resend = s.resend[:0]
	for _, f := range s.inflight {
		s.resend = append(s.resend, f)
	}
	sortSent(s.resend)
	c.came, c.cameAt = end, b.messages.stored.Load()+1
	if b.access != nil {
		c.judged = c.rights()
		s.judge(c.judged, end)
	}
	s.conn = c // which sends nothing of the session before its CONNACK
	var record, progress []byte
	if keep || s.kept {
		record, progress = s.record(), s.progress(end)
	}
	s.mu.Unlock()
	if keep {
		store := b.state.put
		if first { // its next node has to know of it, whatever happens to this one
			store = b.state.putEverywhere
		}
		if err := store(ctx, pair{sessionKey + s.id, record, s.claim}, pair{cursorKey + s.id, progress, s.claim}); err != nil {
			b.notEnlisted(s)
			return fmt.Errorf("store session %q: %w", s.id, err)
		}
		s.claimedAt.Store(b.state.w.stored.Load())
		s.mu.Lock()
		if s.moved {
			b.stats.Moved.Add(1)
		}
		s.kept, s.moved, s.anew = true, false, false
		s.mu.Unlock()
		if b.peers != nil {
			b.ranks.settled(s.id, s.claim)
		}
		if b.peers != nil && b.lost(s) { // it took so long that another node has claimed it since
			b.dropSession(s)
			return fmt.Errorf("store session %q: %w", s.id, errElsewhere)
		}
	} else if s.kept { // only says that it is connected
		if err := b.state.w.submitWithin(ctx, putEntry(pair{sessionKey + s.id, record, s.claim})); err != nil {
			b.notEnlisted(s)
			return fmt.Errorf("store session %q: %w", s.id, err)
		}
	}
	b.sessions.mu.Lock()
	b.sessions.m[s.id] = s
	b.sessions.mu.Unlock()
	if len(s.subs) > 0 {
		b.tail.mu.Lock()
		for _, sub := range s.subs {
			b.tail.tree.add(sub.Filter, &s.feed, sub)
		}
		b.tail.mu.Unlock()
	}
	b.enterShares(s)
	return nil
}

// notEnlisted leaves a session without a connection. It stays here: nobody else has it any more, and the claim may be on its
// way to the disk.
func (b *Broker) notEnlisted(s *session) {
	s.mu.Lock()
	s.conn, s.online = nil, false
	kept := s.kept
	s.mu.Unlock()
	if !kept {
		return
	}
	b.sessions.mu.Lock()
	b.sessions.m[s.id] = s
	b.sessions.mu.Unlock()
}

// parts is the groups that the session is a member of.
func (s *session) parts() []*part {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partsHeld()
}

// partsHeld is parts for who holds s.mu.
func (s *session) partsHeld() []*part {
	ps := make([]*part, 0, len(s.shares))
	for _, m := range s.shares {
		if m.part != nil {
			ps = append(ps, m.part)
		}
	}
	return ps
}

// detach is the end of a connection: the session stays behind in the log, or ends.
func (b *Broker) detach(c *conn) {
	s := c.session
	b.tail.mu.Lock()
	end := b.tail.endHeld()
	for _, sub := range s.subs {
		b.tail.tree.remove(sub.Filter, &s.feed)
	}
	s.mu.Lock()
	s.looseLost()
	s.rewind(end)
	s.conn, s.online = nil, false
	s.gone, s.goneWall = b.mono(), b.steady.now()
	back := s.giveBack()
	b.tail.mu.Unlock()
	ends := s.expiry == 0
	kept := s.kept
	var record []byte
	if kept && !ends {
		record = s.record()
	}
	s.mu.Unlock()
	returnAll(back)
	for _, p := range s.parts() {
		p.settle()
	}
	if ends {
		if !b.alone() {
			b.departed.add(s.id)
		}
		b.endSession(s)
		return
	}
	if kept {
		_ = b.state.putNow(pair{sessionKey + s.id, record, s.claim}, nil) // refused only when the broker ends
		s.save(nil)
	}
}

// endSession forgets a session that nobody is connected to.
func (b *Broker) endSession(s *session) {
	s.mu.Lock()
	s.ended = true
	kept, w := s.kept, s.will
	s.kept, s.will = false, nil
	s.mu.Unlock()
	if w != nil { // the will's delay ends with the session ([MQTT-3.1.3-9])
		w.fire()
	}
	for _, p := range s.parts() {
		b.leaveGroup(s, p)
	}
	if kept { // before the session cannot be found here any more: who looks for it waits for what is on its way
		_ = b.state.deleteAsync(sessionKey+s.id, s.claim)
		_ = b.state.deleteAsync(cursorKey+s.id, s.claim)
	}
	b.sessions.mu.Lock()
	if b.sessions.m[s.id] == s {
		delete(b.sessions.m, s.id)
	}
	b.sessions.mu.Unlock()
	if kept {
		b.countEnded(s)
	}
}

// expired: it was away for longer than its expiry.
func (b *Broker) expired(s *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn == nil && sessionOver(s.expiry, b.mono()-s.gone)
}

// sessionOver says whether a session has expired whose client has been away for so long.
func sessionOver(expiry uint32, away time.Duration) bool {
	return expiry != mqtt.NeverExpires && away >= time.Duration(expiry)*time.Second
}

// sweep ends sessions that have expired and fires wills whose delay is over.
func (b *Broker) sweep() {
	for _, s := range b.sessions.all() {
		s.mu.Lock()
		w := s.will
		due := w != nil && s.conn == nil && b.mono() >= w.due
		if due {
			s.will = nil
		}
		s.mu.Unlock()
		if due {
			w.fire()
		}
		if b.expired(s) {
			lock := b.sessions.lockOf(s.id)
			lock.Lock()
			if b.expired(s) {
				b.stats.SessionsExpired.Add(1)
				b.endSession(s)
			}
			lock.Unlock()
		}
	}
}
