package broker

import (
	"context"
	"encoding/json"
	"time"
)

// When a node is gone, the first by name of those that are ready acts for it: it publishes the wills
// of its clients and ends the sessions that expire. What it does counts rather than what the node had said,
// and the node reads it before it begins again.

// orphansEvery is how often the sessions of a node that is gone are looked through: there may be many.
const orphansEvery = 2 * time.Second

// sweepOrphans acts for nodes that are gone, if that is this node's part.
func (b *Broker) sweepOrphans(ctx context.Context) {
	if b.peers == nil || b.Ready() != nil || !b.peers.acts() {
		return
	}
	for _, at := range b.peers.all() {
		if b.peers.members.alive(at.node) {
			at.gone = 0
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, takeTimeout)
		err := b.peers.readDead(ctx, nil)
		cancel()
		if err != nil {
			b.log.Warn("what a node that is gone has left cannot be read yet", "node", at.node, "err", err)
			return
		}
		if at.gone == 0 {
			at.gone = b.mono()
			b.log.Warn("a node is gone: this one publishes its clients' wills and ends what expires", "node", at.node)
			b.adoptWills(at.node)
		}
		if now := b.mono(); now-at.expired >= orphansEvery && b.peers.over(at) {
			at.expired = now
			b.expireOrphans(at.node, at.gone)
		}
	}
}

// acts says whether this node is the first of those that are ready.
func (p *peers) acts() bool {
	for _, m := range p.members.list() {
		if m.Alive && m.Ready {
			return m.Node == p.b.cfg.Node.Name
		}
	}
	return false
}

// expireOrphans ends the sessions of a node that is gone for good which have expired: since their client left,
// or since the node is gone. A claim that is on its way at another node ranks above that: there the client was in time.
func (b *Broker) expireOrphans(node string, gone time.Duration) {
	for _, v := range b.state.versions(sessionKey, false) {
		var r sessionRecord
		if v.node != node || json.Unmarshal(v.value, &r) != nil {
			continue
		}
		away := b.mono() - gone
		if r.Gone != 0 {
			away = max(away, time.Duration(b.steady.now()-r.Gone)*time.Microsecond)
		}
		if !sessionOver(r.Expiry, away) {
			continue
		}
		id := v.key[len(sessionKey):]
		lock := b.sessions.lockOf(id)
		lock.Lock()
		if now, _ := b.state.version(v.key); now.node == node && now.rank == v.rank {
			b.stats.SessionsExpired.Add(1)
			_ = b.state.deleteAsync(v.key, v.rank) // refused only when the broker ends
			_ = b.state.deleteAsync(cursorKey+id, v.rank)
		}
		lock.Unlock()
	}
}
