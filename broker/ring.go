package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Where logs are stored when there are more nodes than replicas: on the node itself and those that follow it in
// the order of their names, round and round. So a node's two logs are on the same nodes, and of five nodes with
// three replicas any two may die: then one log, never two, has lost its quorum. The engine knows only tags: each
// node has one with its name, and a log's placement names those that it must not be on.

func nodeTag(node string) string { return "node:" + hexName(node) }

// ring is the nodes that hold the logs of owner, which may be no member any more.
func ring(members []string, owner string, replicas int) []string {
	members = slices.Sorted(slices.Values(members))
	at, _ := slices.BinarySearch(members, owner)
	out := []string{}
	for i := range min(replicas, len(members)) {
		out = append(out, members[(at+i)%len(members)])
	}
	return out
}

// awayFrom is the placement that keeps a log on its ring; gone are nodes that are about to leave.
func awayFrom(members, gone []string, owner string, replicas int) []string {
	stay := slices.DeleteFunc(slices.Clone(members), func(n string) bool { return slices.Contains(gone, n) })
	on := ring(stay, owner, replicas)
	var tags []string
	for _, n := range members {
		if !slices.Contains(on, n) {
			tags = append(tags, "!"+nodeTag(n))
		}
	}
	slices.Sort(tags)
	return tags
}

// errStrangers: not all nodes of the cluster are known by name yet.
var errStrangers = errors.New("not all nodes of the cluster have been met since the start")

// memberNames are the nodes of the engines' cluster.
func (e *engine) memberNames() ([]string, error) {
	names, _, err := e.membersNow()
	return names, err
}

// membersNow are the nodes of the engines' cluster, and those of them that are about to leave: nothing is to be stored
// on them any more.
func (e *engine) membersNow() (names, leaving []string, err error) {
	v, err := e.view()
	if err != nil {
		return nil, nil, err
	}
	if v.leader == "" {
		return nil, nil, errNoQuorum
	}
	ids := map[string]string{}
	if p := e.leavers.Load(); p != nil {
		ids = *p
	}
	for _, p := range append(v.peers, enginePeer{node: e.cfg.node, id: e.cfg.id}) {
		if p.node == "" {
			return nil, nil, errStrangers
		}
		names = append(names, p.node)
		if id, leaves := ids[p.node]; leaves && id == p.id {
			leaving = append(leaving, p.node)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), leaving, nil
}

// placement is where a log belongs.
func (s *logStream) placement() (*jetstream.Placement, error) {
	names, leaving, err := s.e.membersNow()
	if err != nil {
		return nil, err
	}
	tags := awayFrom(names, leaving, s.node, s.e.cfg.cluster.Replicas)
	if len(tags) == 0 {
		return nil, nil
	}
	return &jetstream.Placement{Tags: tags}, nil
}

// placing is where a log's replicas are.
type placing struct {
	done   bool              // where they belong, and they have everything
	on     []string          // the nodes, sorted
	copies map[string]copied // how much of it those have that lack something
}

// place moves the log's replicas to where they belong, and says where they are.
func (s *logStream) place(ctx context.Context) (p placing, err error) {
	st, err := s.info(ctx)
	if err != nil {
		return p, err
	}
	if st.Cluster == nil {
		return p, errNoQuorum
	}
	p = st.placing()
	names, leaving, err := s.e.membersNow()
	if err != nil {
		return p, err
	}
	want := awayFrom(names, leaving, s.node, s.e.cfg.cluster.Replicas)
	replicas := min(s.e.cfg.cluster.Replicas, len(names)-len(leaving))
	cfg := s.config(st.Config.MaxBytes, st.Config.Replicas)
	if tags := st.tags(); len(tags) > 0 {
		cfg.Placement = &jetstream.Placement{Tags: tags}
	}
	switch { // the engine does one of them at a time
	case replicas > st.Config.Replicas:
		cfg.Replicas = replicas
	case replicas == st.Config.Replicas && !slices.Equal(want, st.tags()) && (len(want) > 0 || len(st.tags()) > 0):
		cfg.Placement = &jetstream.Placement{Tags: want}
	default:
		return p, nil
	}
	p.done = false
	_, js, err := s.e.conn()
	if err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*s.e.call())
	defer cancel()
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return p, fmt.Errorf("place the %s log of %s: %w", s.kind, s.node, err)
	}
	s.e.log.Info("a log's replicas move", "log", s.kind, "of", s.node, "replicas", cfg.Replicas, "to", ring(without(names, leaving), s.node, cfg.Replicas))
	return p, nil
}

func without(names, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(gone, n) })
}

// tags is the placement that the stream has.
func (st *streamInfo) tags() []string {
	if st.Config.Placement == nil {
		return nil
	}
	return slices.Sorted(slices.Values(st.Config.Placement.Tags))
}

// placing says where the replicas are. They are done when there are as many as there should be, and none of them
// lacks anything.
func (st *streamInfo) placing() placing {
	of := st.State.Last + 1 - min(st.State.First, st.State.Last+1)
	p := placing{copies: map[string]copied{}, done: len(st.Cluster.Replicas)+1 == st.Config.Replicas}
	if leader, _ := splitServer(st.Cluster.Leader); leader != "" {
		p.on = append(p.on, leader)
	}
	for _, r := range st.Cluster.Replicas {
		node, _ := splitServer(r.Name)
		p.on = append(p.on, node)
		p.done = p.done && r.Current
		if !r.Offline && r.Lag > 0 && node != "" {
			p.copies[node] = copied{Have: of - min(of, r.Lag), Of: of}
		}
	}
	slices.Sort(p.on)
	return p
}
