package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
)

// What a node that is down kept of its sessions is in its state log, which every other node has read: any of
// them can say it, and the sessions go on at whatever node their clients come to.

// down says which of the other nodes are not heard, and since when. One that was not heard since this node started
// is down since then, as far as this node knows.
func (b *Broker) down() map[string]time.Time {
	out := map[string]time.Time{}
	if b.peers == nil {
		return out
	}
	for _, at := range b.peers.all() {
		switch m, known := b.peers.members.get(at.node); {
		case known && m.Alive:
		case known:
			out[at.node] = b.wall().Add(-m.Age).UTC()
		default:
			out[at.node] = b.wall().Add(b.began - b.mono()).UTC()
		}
	}
	return out
}

// saved is a session as the state has it.
type saved struct {
	id     string
	claim  uint64
	node   string
	record sessionRecord
	cursor cursorRecord
}

// savedAt decodes a session of a node that is down; false if there is no such.
func (b *Broker) savedAt(v keyed, down map[string]time.Time) (*saved, bool) {
	s := &saved{id: strings.TrimPrefix(v.key, sessionKey), claim: v.rank, node: v.node}
	if _, is := down[v.node]; !is || v.gone || json.Unmarshal(v.value, &s.record) != nil {
		return nil, false
	}
	if data, ok := b.state.get(cursorKey + s.id); ok && (json.Unmarshal(data, &s.cursor) != nil || s.cursor.Epoch != s.record.Epoch) {
		s.cursor = cursorRecord{}
	}
	s.cursor.At = s.cursor.At.named(s.node)
	return s, true
}

// savedOf is the session of a client, if its node is down.
func (b *Broker) savedOf(id string) (*saved, bool) {
	v, known := b.state.version(sessionKey + id)
	if !known {
		return nil, false
	}
	return b.savedAt(keyed{sessionKey + id, v}, b.down())
}

func (s *saved) info(down time.Time, end, oldest vector) SessionInfo {
	i := SessionInfo{Client: s.id, Node: s.node, NodeDown: &down, Kept: true, Since: down, Subscriptions: len(s.record.Subs), Unfinished: len(s.cursor.Sent)}
	if s.record.Gone != 0 {
		i.Since = time.UnixMicro(s.record.Gone).UTC()
	}
	if s.record.Expiry != mqtt.NeverExpires {
		ends := i.Since.Add(time.Duration(s.record.Expiry) * time.Second)
		i.Expiry, i.Ends = &s.record.Expiry, &ends
	}
	if len(s.record.Subs) > 0 {
		i.Behind, i.Lost = s.cursor.At.batchesTo(end), s.cursor.At.batchesTo(oldest)
	}
	return i
}

// listSaved lists the sessions of nodes that are down.
func (b *Broker) listSaved(q admin.SessionQuery, down map[string]time.Time) []SessionInfo {
	if len(down) == 0 || q.Connected != nil && *q.Connected {
		return nil
	}
	end, oldest := b.tail.end(), b.tail.start()
	var out []SessionInfo
	for _, v := range b.state.versions(sessionKey+q.Prefix, false) {
		s, ok := b.savedAt(v, down)
		if !ok || b.sessions.get(s.id) != nil {
			continue
		}
		if i := s.info(down[s.node], end, oldest); !q.Behind || i.Behind > 0 {
			out = append(out, i)
		}
	}
	return out
}

// detail is the session in full.
func (s *saved) detail(ctx context.Context, b *Broker) SessionDetail {
	end, oldest := b.tail.end(), b.tail.start()
	d := SessionDetail{SessionInfo: s.info(b.down()[s.node], end, oldest), Cursor: s.cursor.At.positions(), End: end.positions(),
		Subs: []SessionSub{}, Packets: []SessionPacket{}, Receiving: append([]uint16{}, s.cursor.Recv...)}
	subs := map[string]*subscription{}
	for _, sub := range s.record.Subs {
		sub.Since = sub.Since.named(s.node)
		d.Subs = append(d.Subs, subInfo(sub))
		if share, _, ok := mqtt.ParseFilter(sub.Filter); ok && share == "" {
			subs[sub.Filter] = sub
		}
	}
	slices.SortFunc(d.Subs, func(a, b SessionSub) int { return strings.Compare(a.Filter, b.Filter) })
	for _, f := range s.cursor.Sent {
		d.Packets = append(d.Packets, f.packet())
	}
	if data, ok := b.state.get(willKey + s.id); ok {
		var r willRecord
		if json.Unmarshal(data, &r) == nil && r.Will != nil {
			d.Will = r.Will.Topic
		}
	}
	d.Backlog = b.backlog(ctx, s.id, subs, s.cursor.At.higher(oldest))
	d.Discards, _ = b.discards.of(s.id)
	return d
}

// packet is an unfinished message as people see it.
func (f *sent) packet() SessionPacket {
	p := SessionPacket{ID: f.ID, QoS: f.QoS, Retained: f.Stored, Share: f.Share, Released: f.Released}
	if f.Stored == "" {
		p.At = f.At.String()
	}
	return p
}

// kick is what an administrator may do with it: end it for good.
func (s *saved) kick(ctx context.Context, b *Broker, forget bool) (SessionKicked, error) {
	out := SessionKicked{Client: s.id, Node: s.node, Forgotten: forget}
	if !forget {
		return out, &admin.Error{Status: http.StatusConflict, Hint: "--forget ends its session",
			Message: fmt.Sprintf("client %q is not connected: its node %s is down since %s", s.id, s.node, b.down()[s.node].Format(time.RFC3339))}
	}
	lock := b.sessions.lockOf(s.id)
	lock.Lock()
	defer lock.Unlock()
	if b.sessions.get(s.id) != nil {
		return out, &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("client %q has just come to node %s", s.id, b.cfg.Node.Name), Hint: "try again"}
	}
	defer b.attempts.end(s.id)
	got, err := b.take(ctx, s.id, nil) // as a client would that begins anew: one that connects elsewhere goes before, or comes behind
	switch {
	case errors.Is(err, errElsewhere):
		return out, &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("client %q connects to another node at this moment", s.id), Hint: "try again"}
	case err != nil:
		return out, &admin.Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("the session of client %q cannot be ended now: %v", s.id, err), Hint: "try again"}
	}
	if got.session != nil {
		b.endSession(got.session)
	}
	if v, known := b.state.version(willKey + s.id); known && !v.gone {
		if err := b.state.deleteAsync(willKey+s.id, v.rank+1); err != nil {
			return out, err
		}
	}
	if err := b.state.sync(ctx); err != nil {
		return out, fmt.Errorf("forget session %q: %w", s.id, err)
	}
	return out, nil
}

// downWords says which nodes are down, for people.
func downWords(down map[string]time.Time) string {
	var out []string
	for node, since := range down {
		out = append(out, fmt.Sprintf("%s since %s", node, since.Format(time.RFC3339)))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
