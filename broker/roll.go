package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
)

// SessionInfo is one line of the list of sessions.
type SessionInfo struct {
	Client        string     `json:"client"`
	Node          string     `json:"node"`                      // that has the session
	NodeDown      *time.Time `json:"node_down_since,omitempty"` // that node is not heard: the session goes on where its client comes to
	Connected     bool       `json:"connected"`
	Since         time.Time  `json:"since"` // connected or away since
	Addr          string     `json:"addr,omitempty"`
	Protocol      string     `json:"mqtt,omitempty"`
	Kept          bool       `json:"kept"`                     // on disk: it outlives its connection and a restart
	Expiry        *uint32    `json:"expiry_seconds,omitempty"` // after the connection ends; absent: never
	Ends          *time.Time `json:"ends,omitempty"`           // when it expires, if it is away
	Subscriptions int        `json:"subscriptions"`            // shared ones included
	Window        int        `json:"window,omitempty"`         // how much may be unacknowledged
	Unfinished    int        `json:"unfinished"`               // sent with QoS 1 or 2, not acknowledged
	Queued        int        `json:"queued"`                   // messages in memory, on their way
	Live          bool       `json:"live"`                     // it is handed each message as it comes
	Behind        uint64     `json:"behind_batches"`           // of the log, not read yet
	Lost          uint64     `json:"lost_batches,omitempty"`   // of them trimmed already
	Discarded     uint64     `json:"discarded"`                // messages, since the broker started
}

// SessionList is the body of /v1/sessions.
type SessionList struct {
	Sessions []SessionInfo `json:"sessions"`
	Total    int           `json:"total"`                   // that match, on all pages
	Next     string        `json:"next,omitempty"`          // ask for the next page with after=
	Missing  []string      `json:"missing_nodes,omitempty"` // that did not answer: their sessions are not in here
}

// SessionSub is a subscription of a session.
type SessionSub struct {
	Filter            string            `json:"filter"` // $share/name/… included
	QoS               byte              `json:"qos"`
	NoLocal           bool              `json:"no_local,omitempty"`
	RetainAsPublished bool              `json:"retain_as_published,omitempty"`
	ID                uint32            `json:"subscription_id,omitempty"`
	Since             map[string]string `json:"since"`               // per node's log: the first position that it is about
	Members           int               `json:"members,omitempty"`   // of a shared group, at this node
	Share             *ShareInfo        `json:"share,omitempty"`     // the group
	Suspended         bool              `json:"suspended,omitempty"` // its client may not read it any more
}

// SessionPacket is a message that a client has not finished.
type SessionPacket struct {
	ID       uint16 `json:"packet_id"`
	QoS      byte   `json:"qos"`
	At       string `json:"at,omitempty"`       // position in the log
	Retained string `json:"retained,omitempty"` // topic, if it is a retained message
	Share    string `json:"share,omitempty"`
	Released bool   `json:"released,omitempty"` // QoS 2: PUBREC came
}

// SessionBacklog is what waits in the log for a session, counted up to a bound.
type SessionBacklog struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`    // of payloads
	Complete bool   `json:"complete"` // false: there is more than was looked at
}

// SessionDetail is the body of /v1/sessions/{id}.
type SessionDetail struct {
	SessionInfo
	NoSession  bool              `json:"no_session,omitempty"` // it has ended: only what was discarded is known
	Cursor     map[string]string `json:"cursor"`               // per node's log: the position that is read next
	End        map[string]string `json:"end"`                  // per node's log: the end
	Subs       []SessionSub      `json:"subscribed"`
	Packets    []SessionPacket   `json:"unfinished_packets"` // in the order in which they were sent
	Receiving  []uint16          `json:"receiving"`          // inbound QoS 2 packet ids that are not released
	Backlog    SessionBacklog    `json:"backlog"`
	Will       string            `json:"will,omitempty"` // topic of a will that waits
	KeepAlive  float64           `json:"keep_alive_seconds,omitempty"`
	MaxPacket  uint32            `json:"max_packet_bytes,omitempty"`
	In         *Traffic          `json:"in,omitempty"` // of this connection
	Out        *Traffic          `json:"out,omitempty"`
	Traced     bool              `json:"traced,omitempty"`
	Discards   ClientDiscards    `json:"discards"` // since the broker started
	ListenedOn string            `json:"listener,omitempty"`
}

// SessionKicked says what a kick did.
type SessionKicked struct {
	Client       string `json:"client"`
	Node         string `json:"node"`
	Disconnected bool   `json:"disconnected"`
	Forgotten    bool   `json:"forgotten"` // the session has ended too
}

// info is a session in one line. s.mu is held; end and oldest, the place behind all that is trimmed,
// were read before.
func (s *session) info(end, oldest vector) SessionInfo {
	i := SessionInfo{Client: s.id, Node: s.b.cfg.Node.Name, Connected: s.conn != nil, Kept: s.kept,
		Subscriptions: len(s.subs) + len(s.shares), Unfinished: len(s.inflight), Queued: len(s.queue) + len(s.extra) + len(s.loose), Live: s.live}
	if s.expiry != mqtt.NeverExpires {
		expiry := s.expiry
		i.Expiry = &expiry
	}
	if c := s.conn; c != nil {
		i.Since, i.Addr, i.Protocol, i.Window = time.UnixMicro(c.since).UTC(), c.addr, protocolName(c.version), s.window
	} else {
		i.Since = time.UnixMicro(s.goneWall).UTC()
		if i.Expiry != nil {
			ends := i.Since.Add(time.Duration(s.expiry) * time.Second)
			i.Ends = &ends
		}
	}
	if len(s.subs) > 0 {
		i.Behind = s.position(end).batchesTo(end)
		if !s.live {
			i.Lost = s.at.batchesTo(oldest)
		}
	}
	return i
}

// batchesTo is how many batches of all logs lie between two places.
func (v vector) batchesTo(end vector) (n uint64) {
	for _, c := range end {
		if from := v.of(c.Node); from.Batch < c.Batch {
			n += c.Batch - from.Batch
		}
	}
	return n
}

// start is the place behind all that is trimmed.
func (t *tail) start() vector {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := make(vector, 0, len(t.logs))
	for _, l := range t.logs {
		v = append(v, cursor{Node: l.node, Batch: min(l.first, l.next)})
	}
	return v
}

// positions is a place as people read it, by node.
func (v vector) positions() map[string]string {
	out := make(map[string]string, len(v))
	for _, c := range v {
		out[c.Node] = c.String()
	}
	return out
}

// listSessions lists this node's sessions.
func (b *Broker) listSessions(q admin.SessionQuery) SessionList {
	out := SessionList{Sessions: []SessionInfo{}}
	end, oldest := b.tail.end(), b.tail.start()
	var ids []string
	for _, s := range b.sessions.all() {
		s.mu.Lock()
		wanted := strings.HasPrefix(s.id, q.Prefix) && (q.Connected == nil || *q.Connected == (s.conn != nil)) &&
			(!q.Behind || len(s.subs) > 0 && s.position(end).batchesTo(end) > 0)
		s.mu.Unlock()
		if wanted {
			ids = append(ids, s.id)
		}
	}
	out.Total = len(ids)
	slices.Sort(ids)
	from, found := slices.BinarySearch(ids, q.After)
	if found {
		from++
	}
	ids = ids[from:]
	if len(ids) > q.Limit {
		ids = ids[:q.Limit]
		out.Next = ids[len(ids)-1]
	}
	for _, id := range ids {
		s := b.sessions.get(id)
		if s == nil {
			continue // it ended meanwhile
		}
		s.mu.Lock()
		i := s.info(end, oldest)
		s.mu.Unlock()
		d, _ := b.discards.of(id)
		for _, n := range d.Messages {
			i.Discarded += n
		}
		out.Sessions = append(out.Sessions, i)
	}
	return out
}

// showSession shows one session of this node; false: it has none of that name.
func (b *Broker) showSession(ctx context.Context, id string) (SessionDetail, bool) {
	s := b.sessions.get(id)
	if s == nil {
		return SessionDetail{}, false
	}
	end, oldest := b.tail.end(), b.tail.start()
	d := SessionDetail{End: end.positions(), Subs: []SessionSub{}, Packets: []SessionPacket{}, Receiving: []uint16{}}
	s.mu.Lock()
	d.SessionInfo = s.info(end, oldest)
	at := s.position(end)
	d.Cursor = at.positions()
	for _, sub := range s.subs {
		d.Subs = append(d.Subs, subInfo(sub))
	}
	for _, m := range s.shares {
		d.Subs = append(d.Subs, subInfo(m.sub))
	}
	unfinished := slices.Collect(maps.Values(s.inflight))
	sortSent(unfinished)
	for _, f := range unfinished {
		d.Packets = append(d.Packets, f.packet())
	}
	d.Receiving = slices.AppendSeq(d.Receiving, maps.Keys(s.recv))
	if s.will != nil {
		d.Will = s.will.msg.Topic
	}
	if c := s.conn; c != nil {
		in, out := c.got.load(), c.gave.load()
		d.In, d.Out, d.Traced, d.KeepAlive, d.MaxPacket = &in, &out, c.traced.Load(), (c.keepAlive * 2 / 3).Seconds(), c.maxPacket
		d.ListenedOn = c.nc.LocalAddr().String()
	}
	subs := maps.Clone(s.subs)
	s.mu.Unlock()
	slices.Sort(d.Receiving)
	slices.SortFunc(d.Subs, func(a, b SessionSub) int { return cmp.Compare(a.Filter, b.Filter) })
	for i := range d.Subs {
		if d.Subs[i].Members = b.members(d.Subs[i].Filter); d.Subs[i].Members > 0 {
			share := b.shareInfo(ctx, d.Subs[i].Filter)
			d.Subs[i].Share = &share
		}
	}
	d.Backlog = b.backlog(ctx, id, subs, at.higher(oldest))
	d.Discards, _ = b.discards.of(id)
	for _, n := range d.Discards.Messages {
		d.Discarded += n
	}
	return d, true
}

func subInfo(s *subscription) SessionSub {
	return SessionSub{Filter: s.Filter, QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, ID: s.ID, Since: s.Since.positions(), Suspended: s.barred}
}

// members is how many sessions of this node share a subscription; 0 if it is not a shared one.
func (b *Broker) members(filter string) int {
	p := b.shares.get(filter)
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.order)
}

// What showing a session may read of the log to count what waits for it.
const (
	backlogBytes   = 64 << 20
	backlogTimeout = 2 * time.Second
)

// backlog counts what the logs hold for a session, from a place on.
func (b *Broker) backlog(ctx context.Context, client string, subs map[string]*subscription, from vector) SessionBacklog {
	out := SessionBacklog{Complete: true}
	ctx, cancel := context.WithTimeout(ctx, backlogTimeout)
	defer cancel()
	size, end := 0, b.tail.end()
	for known := (clocks{}); len(subs) > 0 && from.batchesTo(end) > 0; {
		if size > backlogBytes || ctx.Err() != nil {
			out.Complete = false
			return out
		}
		batch, at, err := b.tail.nextBatch(ctx, from, &known)
		if errors.Is(err, errAtEnd) {
			break
		}
		if from = from.with(cursor{Node: at.Node, Batch: at.Batch + 1}); err != nil {
			continue // trimmed meanwhile, or damaged
		}
		size += batch.Size
		for i := range batch.Records {
			here := cursor{at.Node, at.Batch, uint32(i)}
			if r, ok := batch.Records[i].delivers(); ok && !here.before(at) && wanted(subs, r, here, client) {
				out.Messages++
				out.Bytes += uint64(len(r.Payload))
			}
		}
	}
	return out
}

// wanted says whether any of a session's subscriptions wants a record.
func wanted(subs map[string]*subscription, r *Record, at cursor, client string) bool {
	for _, s := range subs {
		if mqtt.Match(s.Filter, r.Topic) && s.wants(r, at, client) {
			return true
		}
	}
	return false
}

// kickSession ends a client's connection, and with forget its session too.
func (b *Broker) kickSession(ctx context.Context, id string, forget bool) (SessionKicked, error) {
	out := SessionKicked{Client: id, Node: b.cfg.Node.Name}
	lock := b.sessions.lockOf(id)
	lock.Lock() // no CONNECT of this client in between
	defer lock.Unlock()
	s := b.sessions.get(id)
	if s == nil {
		return out, errNoSession(id)
	}
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c == nil && !forget {
		return out, &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("client %q is not connected", id), Hint: "--forget ends its session"}
	}
	if c != nil {
		b.log.Info("an administrator ends a connection", "client", id, "addr", c.addr, "forget", forget)
		c.end(mqtt.AdministrativeAction, "an administrator ended this connection")
		select {
		case <-c.done:
		case <-ctx.Done():
			return out, fmt.Errorf("wait for the connection of %q to end: %w", id, ctx.Err())
		}
		out.Disconnected = true
	}
	if s = b.sessions.get(id); forget && s != nil { // it may have ended with its connection
		b.endSession(s)
		if err := b.state.sync(ctx); err != nil {
			return out, fmt.Errorf("forget session %q: %w", id, err)
		}
	}
	out.Forgotten = b.sessions.get(id) == nil
	return out, nil
}

func errNoSession(id string) error {
	return &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no session of client %q", id), Hint: "holdfast-broker session list shows those that are"}
}

// detail is showSession, or what was discarded for a client that has no session any more.
func (b *Broker) detail(ctx context.Context, id string) (SessionDetail, error) {
	if d, found := b.showSession(ctx, id); found {
		return d, nil
	}
	lost, known := b.discards.of(id)
	if !known {
		return SessionDetail{}, errNoSession(id)
	}
	return SessionDetail{SessionInfo: SessionInfo{Client: id, Node: b.cfg.Node.Name}, NoSession: true, Discards: lost,
		Cursor: map[string]string{}, End: b.tail.end().positions(), Subs: []SessionSub{}, Packets: []SessionPacket{}, Receiving: []uint16{}}, nil
}
