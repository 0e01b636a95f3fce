package broker

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/broker/admin"
)

// peerCluster is the cluster for an administrator, by what the beats say.
type peerCluster struct{ b *Broker }

func (c peerCluster) name() (string, bool) {
	v, err := c.b.engine.view()
	return c.b.cfg.Cluster.Name, err == nil && v.leader != "" && c.b.messages.failure() == nil
}

// members is the table of the beats. A node in the engine's view that was never heard is there too.
func (c peerCluster) members() []Member {
	b := c.b
	own := b.cfg.Node.Name
	view, _ := b.engine.view() // without it the roles are not known
	table := b.peers.members.list()
	var out []Member
	for _, m := range table {
		n := otherMember(m, b.wall())
		if m.Node == own {
			n = b.member()
			n.Role, n.Address = RoleVoter, b.cfg.Cluster.address()
		} else {
			n.Logs = []MemberLog{{Name: kindMessages, First: b.tail.oldest(m.Node), Last: m.Messages}, {Name: kindState, First: 1, Last: m.State}}
		}
		if r, is := b.memberRecordOf(m.Node); is && r.ID == m.ID {
			n.Leaving = true
		}
		for i := range n.Logs {
			n.Logs[i].On = m.On[n.Logs[i].Name]
		}
		lagOf(&n, table)
		if c := copiesOf(m.Node, table); c.Of > c.Have {
			n.Copying = c.String()
		}
		if m.Node == view.leader {
			n.Role = RoleLeader
		}
		out = append(out, n)
	}
	for _, p := range view.peers {
		if r, is := b.memberRecordOf(p.node); is && r.Stay == stayLeft && r.ID == p.id {
			continue
		}
		if !slices.ContainsFunc(out, func(m Member) bool { return m.Name == p.node }) {
			out = append(out, Member{Name: p.node, Role: RoleVoter, Listen: []string{}, NotReady: []string{"not heard since this node started"}, Logs: []MemberLog{}})
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// otherMember is another node as its last beat showed it.
func otherMember(m member, now time.Time) Member {
	seen := now.Add(-m.Age).UTC()
	n := Member{Name: m.Node, Listen: m.Addrs, Version: m.Version, Role: RoleVoter, Address: m.Cluster, Ready: m.Ready && m.Alive,
		NotReady: []string{}, Clients: m.Clients, Seen: &seen, Logs: []MemberLog{}}
	if n.Listen == nil {
		n.Listen = []string{}
	}
	switch {
	case !m.Heard:
		n.NotReady = append(n.NotReady, fmt.Sprintf("not heard for %v", m.Age.Round(time.Second)))
	case m.Why != "":
		n.NotReady = append(n.NotReady, m.Why)
	}
	if m.Draining {
		n.Drain = &Drain{Node: m.Node, State: DrainDraining, Connected: m.Clients}
	}
	return n
}

// copiesOf is how much a node has of the logs whose replica it is.
func copiesOf(node string, table []member) (sum copied) {
	for _, m := range table {
		if m.Alive {
			sum = sum.add(m.Copies[node])
		}
	}
	return sum
}

// lagOf says how much of a node's logs each other node that lives has still to read.
func lagOf(n *Member, table []member) {
	for i := range n.Logs {
		l := &n.Logs[i]
		l.Lag = map[string]uint64{}
		for _, r := range table {
			if !r.Alive || r.Node == n.Name {
				continue
			}
			read := r.Read[n.Name]
			if l.Name == kindState {
				read = r.ReadSt[n.Name]
			}
			l.Lag[r.Node] = l.Last - min(l.Last, read)
		}
	}
}

// join says whether the node at an address is one of the cluster. It joins by itself, as soon as it runs and knows
// the secret and one of the others.
func (c peerCluster) join(_ context.Context, address string) error {
	for _, m := range c.b.peers.members.list() {
		if m.Heard && m.Cluster == address {
			return nil
		}
	}
	return &admin.Error{Status: http.StatusConflict, Message: "no node at " + address + " has been heard: a node joins by itself, when it starts",
		Hint: "start it with [cluster] peers that name these nodes, the same name and secret_file, an empty data_dir and a name of its own"}
}

func (c peerCluster) other(ctx context.Context, node string, q question) (out Drain, err error) {
	if _, known := c.b.peers.members.get(node); !known {
		return out, errNotMember
	}
	err = c.b.peers.question(ctx, node, q, &out)
	return out, err
}

func (c peerCluster) drain(ctx context.Context, node string, r admin.DrainNode) (Drain, error) {
	return c.other(ctx, node, question{Do: askDrain, Drain: r})
}

func (c peerCluster) drainState(ctx context.Context, node string) (Drain, error) {
	return c.other(ctx, node, question{Do: askShowDrain})
}

func (c peerCluster) undrain(ctx context.Context, node string) (Drain, error) {
	return c.other(ctx, node, question{Do: askUndrain})
}
