package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ShareInfo is what is known of a shared subscription's group.
type ShareInfo struct {
	Owner     string         `json:"owner,omitempty"` // node; absent: nobody who is connected is a member, or it is being claimed
	Epoch     uint64         `json:"epoch"`           // of the owner's claim
	Connected map[string]int `json:"connected"`       // members, by node
	InHand    map[string]int `json:"unacknowledged"`  // messages that were dealt and are not finished, by node
	Back      int            `json:"returned"`        // messages that came back, to be dealt again
	Behind    uint64         `json:"behind_batches"`  // of the logs, not read yet
}

// info is the group as its owner sees it.
func (g *group) info() ShareInfo {
	own, end := g.b.cfg.Node.Name, g.b.tail.end()
	i := ShareInfo{Owner: own, Epoch: g.epoch, Connected: map[string]int{}, InHand: map[string]int{}}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.local.weight(); n > 0 {
		i.Connected[own] = n
	}
	for _, l := range g.links {
		if l.online > 0 {
			i.Connected[l.node] = l.online
		}
	}
	for _, l := range g.out {
		if l == nil {
			i.InHand[own]++
		} else {
			i.InHand[l.node]++
		}
	}
	i.Back, i.Behind = len(g.back)+len(g.again), g.position(end).batchesTo(end)
	return i
}

// ownShare is what this node knows of a group as its owner; false: it is not.
func (b *Broker) ownShare(name string) (ShareInfo, bool) {
	b.groupsMu.Lock()
	g := b.groups[name]
	b.groupsMu.Unlock()
	if g == nil {
		return ShareInfo{}, false
	}
	return g.info(), true
}

// shareInfo asks the owner of a group, wherever it is.
func (b *Broker) shareInfo(ctx context.Context, name string) ShareInfo {
	if i, ok := b.ownShare(name); ok {
		return i
	}
	var out ShareInfo
	if p := b.shares.get(name); p != nil {
		p.mu.Lock()
		out.Owner, out.Epoch = p.up.owner, p.up.epoch
		p.mu.Unlock()
	}
	if v, known := b.state.version(shareKey + name); out.Owner == "" && known && !v.gone && b.peers != nil && b.peers.members.alive(v.node) {
		out.Owner = v.node // it may have an owner that no member here has heard of
	}
	if out.Owner == "" || out.Owner == b.cfg.Node.Name {
		return ShareInfo{}
	}
	var told ShareInfo
	if err := b.peers.question(ctx, out.Owner, question{Do: askShare, Topic: name}, &told); err == nil {
		return told
	}
	return out
}

// shareSums are of all groups that this node owns.
func (b *Broker) shareSums() (unfinished int, behind uint64) {
	for _, g := range b.owned() {
		i := g.info()
		unfinished += i.Back
		for _, n := range i.InHand {
			unfinished += n
		}
		behind = max(behind, i.Behind)
	}
	return unfinished, behind
}

// String is the group in words.
func (i ShareInfo) String() string {
	if i.Owner == "" {
		return "nobody owns the group now"
	}
	return fmt.Sprintf("node %s deals, connected members: %s, unacknowledged: %s, returned: %d", i.Owner, byNode(i.Connected), byNode(i.InHand), i.Back)
}

func byNode(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	var out []string
	for _, node := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%d at %s", m[node], node))
	}
	return strings.Join(out, ", ")
}
