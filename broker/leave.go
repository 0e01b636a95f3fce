package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/broker/admin"
)

// A node leaves for good in steps, each of which any node can go on with after a crash, because what is to be
// done stands in the state: member/<node>.
//
//  1. The record says "leaving". Replicas move off the node, where there are nodes enough; the node sends its
//     clients elsewhere, and ends when it has none and stores nothing that others need.
//  2. Its logs are closed by a fence, as those of any dead node. They stay, without it, until retention lets
//     them go: sessions elsewhere may have messages to come from them, and its state goes on to count.
//  3. The first ready node takes it out of the engines' cluster, and the record says "left".
//
// Of a node that is dead and will not come back (--force) only 2 and 3 remain.
const (
	memberPrefix = "member/"
	stayLeaving  = "leaving"
	stayLeft     = "left"
)

// ErrLeft is why Run ends when the node has been taken out of the cluster for good.
var ErrLeft = errors.New("this node has left the cluster for good")

// memberRecord is what member/<node> holds.
type memberRecord struct {
	Stay  string           `json:"stay"` // stayLeaving or stayLeft
	ID    string           `json:"id"`   // of its store
	Drain *admin.DrainNode `json:"drain,omitempty"`
}

// memberRecordOf is what is known of a node's leaving.
func (b *Broker) memberRecordOf(node string) (r memberRecord, is bool) {
	data, ok := b.state.get(memberPrefix + node)
	return r, ok && json.Unmarshal(data, &r) == nil
}

// leavers are the nodes that leave or have left.
func (b *Broker) leavers() (out []string) {
	_ = b.state.Each(memberPrefix, func(key string, _ []byte) error {
		out = append(out, strings.TrimPrefix(key, memberPrefix))
		return nil
	})
	return out
}

func (b *Broker) putMember(ctx context.Context, node string, r memberRecord) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = b.state.Put(ctx, memberPrefix+node, data)
	}
	if err == nil {
		b.noteLeavers("")
	}
	return err
}

// noteLeavers tells the engine who leaves; it is called whenever a record has changed.
func (b *Broker) noteLeavers(string) {
	ids := map[string]string{}
	for _, node := range b.leavers() {
		if r, is := b.memberRecordOf(node); is {
			ids[node] = r.ID
		}
	}
	b.engine.leavers.Store(&ids)
}

// joinAgain: this node was taken out of the cluster once. With the store of then it stays out; with a new one it
// is a new node.
func (b *Broker) joinAgain(ctx context.Context) error {
	r, is := b.memberRecordOf(b.cfg.Node.Name)
	switch {
	case !is || r.Stay == stayLeaving && r.ID == b.id.ID:
	case r.ID == b.id.ID:
		return errors.Join(ErrLeft, b.markLeft())
	default:
		if err := b.state.Delete(ctx, memberPrefix+b.cfg.Node.Name); err != nil {
			return err
		}
		b.log.Info("this node left the cluster once, and joins again with a new store")
	}
	b.noteLeavers("")
	return nil
}

// markLeft keeps this store from joining again.
func (b *Broker) markLeft() error {
	b.id.Left = true
	return writeNodeID(filepath.Join(b.cfg.Node.DataDir, "node.id"), b.id)
}

// left are the nodes that leave or have left and take no part any more, and whose logs are still here.
func (p *peers) left() (out []string) {
	for _, node := range p.b.leavers() {
		if !p.members.alive(node) {
			out = append(out, node)
		}
	}
	return out
}

// leave begins to take a node out. It returns when all ready nodes know.
func (c peerCluster) leave(ctx context.Context, node string, r admin.LeaveCluster) error {
	b := c.b
	own := b.cfg.Node.Name
	m, known := b.peers.members.get(node)
	if node == own {
		m.ID, known = b.id.ID, true
	}
	if !known {
		return errNotMember
	}
	if r.Undo {
		return c.stay(ctx, node)
	}
	alive := b.peers.members.alive(node)
	switch {
	case alive && r.Force:
		return &admin.Error{Status: http.StatusConflict, Message: "node " + node + " is alive", Hint: "without --force it sends its clients elsewhere and leaves in order"}
	case !alive && m.Heard:
		return &admin.Error{Status: http.StatusConflict, Message: "node " + node + " starts at this moment", Hint: "wait until cluster show says that it is ready, or stop it"}
	case !alive && !r.Force:
		return &admin.Error{Status: http.StatusConflict, Message: "node " + node + " is not heard", Hint: "start it, so that it can leave in order; --force if it is dead and will not come back"}
	}
	if err := c.maySpare(node); err != nil {
		return err
	}
	drain := r.Drain
	if drain == nil {
		drain = &admin.DrainNode{}
	}
	if err := b.putMember(ctx, node, memberRecord{Stay: stayLeaving, ID: m.ID, Drain: drain}); err != nil {
		return err
	}
	b.log.Warn("a node leaves the cluster for good", "node", node, "dead", r.Force)
	return nil
}

// stay takes back that a node leaves, for as long as it is there.
func (c peerCluster) stay(ctx context.Context, node string) error {
	r, is := c.b.memberRecordOf(node)
	if !is || r.Stay != stayLeaving || !c.b.peers.members.alive(node) {
		return &admin.Error{Status: http.StatusConflict, Message: "node " + node + " is not leaving", Hint: "holdfast-broker cluster show"}
	}
	if err := c.b.state.Delete(ctx, memberPrefix+node); err != nil {
		return err
	}
	c.b.noteLeavers("")
	if node == c.b.cfg.Node.Name {
		c.b.drainer.undo()
		return nil
	}
	_, err := c.undrain(ctx, node)
	return err
}

// maySpare says why the others cannot do without a node, or nil.
func (c peerCluster) maySpare(node string) error {
	names, err := c.b.engine.memberNames()
	if err != nil {
		return &admin.Error{Status: http.StatusConflict, Message: "a node cannot leave now: " + err.Error(), Hint: "wait until cluster show says that all nodes are ready"}
	}
	_, leaving, _ := c.b.engine.membersNow()
	for _, other := range leaving {
		if other != node {
			return &admin.Error{Status: http.StatusConflict, Message: "node " + other + " is leaving already", Hint: "one after the other: cluster show says when it is gone"}
		}
	}
	rest := without(names, []string{node})
	if len(rest) < 2 {
		return &admin.Error{Status: http.StatusConflict, Message: "without node " + node + " one node is left, and a cluster has two or more",
			Hint: "to go back to one node: cluster drain all, backup, stop all, restore without [cluster]"}
	}
	var ready []string
	for _, m := range c.b.peers.members.list() {
		if m.Alive && m.Node != node && slices.Contains(rest, m.Node) {
			ready = append(ready, m.Node)
		}
	}
	if 2*len(ready) <= len(rest) {
		return &admin.Error{Status: http.StatusConflict, Hint: "start those that are down first: cluster show",
			Message: fmt.Sprintf("without node %s the quorum would be lost: of the %d others only %d are there (%s)", node, len(rest), len(ready), strings.Join(ready, ", "))}
	}
	for _, owner := range names {
		on, up := ring(rest, owner, c.b.cfg.Cluster.Replicas), 0
		for _, n := range on {
			if slices.Contains(ready, n) {
				up++
			}
		}
		if 2*up <= len(on) {
			return &admin.Error{Status: http.StatusConflict, Hint: "start those that are down first: cluster show",
				Message: fmt.Sprintf("without node %s the logs of %s would have no quorum: they belong on %s, and only %d of them are there", node, owner, strings.Join(on, ", "), up)}
		}
	}
	return nil
}

// leaves says whether this node is to leave.
func (g *guard) leaves() bool {
	r, is := g.b.memberRecordOf(g.members.self)
	return is && r.Stay == stayLeaving && r.ID == g.b.id.ID
}

// depart is this node's part in its own leaving. It says whether there is nothing left to do.
func (g *guard) depart(ctx context.Context) bool {
	b := g.b
	if !g.leaves() {
		return false
	}
	r, _ := b.memberRecordOf(g.members.self)
	switch b.drainer.state().State {
	case DrainOff:
		in := admin.DrainNode{Moved: true}
		if r.Drain != nil {
			in.Rate, in.Wait, in.Server = r.Drain.Rate, r.Drain.Wait, r.Drain.Server
		}
		if _, err := b.drainer.begin(in); err != nil {
			b.log.Error("the node is to leave and cannot be emptied", "err", err)
		}
		return false
	case DrainDone:
		// Somebody may have died since it was asked.
		return g.storesNothing(ctx) && peerCluster{b}.maySpare(g.members.self) == nil
	}
	return false
}

// storesNothing says whether all replicas that others can hold have moved away from this node.
func (g *guard) storesNothing(ctx context.Context) bool {
	e := g.b.engine
	names, err := e.memberNames()
	if err != nil {
		return false
	}
	nodes, err := e.nodes(ctx)
	if err != nil {
		return false
	}
	for _, node := range nodes {
		for _, kind := range []string{kindMessages, kindState} {
			st, err := e.logOf(kind, node).info(ctx)
			if errors.Is(err, errNoStream) {
				continue
			}
			if err != nil || st.Cluster == nil {
				return false
			}
			if st.Config.Replicas > len(names)-1 {
				continue // nobody could take its place: the others have it
			}
			p := st.placing()
			if !p.done || slices.Contains(p.on, g.members.self) {
				return false
			}
		}
	}
	return true
}

// dismiss takes those out of the engines' cluster who have left, when their logs are closed. The first ready node
// does it.
func (g *guard) dismiss(ctx context.Context) {
	if !g.b.peers.acts() {
		return
	}
	e := g.b.engine
	for _, node := range g.b.peers.left() {
		r, is := g.b.memberRecordOf(node)
		m, heard := g.members.get(node)
		if !is || heard && (m.Heard || m.ID != r.ID && m.ID != "") || !g.closed(ctx, node) {
			continue
		}
		v, err := e.view()
		if err != nil {
			continue
		}
		there := slices.ContainsFunc(v.peers, func(p enginePeer) bool { return p.node == node && p.id == r.ID })
		if there || r.Stay == stayLeaving {
			if err := e.removePeer(ctx, node, r.ID); err != nil && there {
				g.b.log.Warn("a node that has left is not out of the cluster yet", "node", node, "err", err)
				continue
			}
		}
		if r.Stay == stayLeft {
			continue
		}
		if err := g.b.putMember(ctx, node, memberRecord{Stay: stayLeft, ID: r.ID}); err != nil {
			g.b.log.Warn("that a node has left is not stored yet", "node", node, "err", err)
			continue
		}
		g.b.log.Warn("a node has left the cluster", "node", node)
	}
}

// closed says whether a node's logs are fenced, or have nothing in them.
func (g *guard) closed(ctx context.Context, node string) bool {
	for _, kind := range []string{kindMessages, kindState} {
		end, err := findEnd(ctx, g.b.engine.logOf(kind, node), node, g.b.log)
		if err != nil && !errors.Is(err, errNoStream) || err == nil && end.Number > 0 && !end.fenced {
			return false
		}
	}
	return true
}
