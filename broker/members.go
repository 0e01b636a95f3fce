package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"holdfast/broker/admin"
)

// Member is one node of the cluster as the node that answers sees it.
type Member struct {
	Name     string      `json:"name"`
	This     bool        `json:"this,omitempty"` // the node that answers
	Address  string      `json:"address,omitempty"`
	Listen   []string    `json:"listen"` // where it takes clients
	Version  string      `json:"version,omitempty"`
	Role     string      `json:"role"` // one of the Role constants
	Ready    bool        `json:"ready"`
	NotReady []string    `json:"not_ready"` // why
	Seen     *time.Time  `json:"last_seen,omitempty"`
	Clients  int         `json:"clients"`
	Logs     []MemberLog `json:"logs"` // its own
	Drain    *Drain      `json:"drain,omitempty"`
	Leaving  bool        `json:"leaving,omitempty"` // for good (cluster leave)
	Copying  string      `json:"copying,omitempty"` // how much of the logs that it is to hold it has, unless all
}

// The values of Member.Role.
const (
	RoleAlone  = "alone"  // a cluster of one, without Raft
	RoleVoter  = "voter"  // it counts towards the quorum
	RoleLeader = "leader" // … and leads the group that places streams
)

// MemberLog is one of a node's two logs.
type MemberLog struct {
	Name   string            `json:"name"` // messages or state
	First  uint64            `json:"first_batch"`
	Last   uint64            `json:"last_batch"`
	Leader string            `json:"leader,omitempty"`    // of its stream; it should be the node itself
	Lag    map[string]uint64 `json:"lag,omitempty"`       // batches that another node has not read yet, by node
	On     []string          `json:"stored_on,omitempty"` // the nodes that hold it
}

// ClusterBody is the body of /v1/cluster.
type ClusterBody struct {
	Cluster string   `json:"cluster,omitempty"` // name; absent: this node runs alone
	Node    string   `json:"node"`              // that answers
	Quorum  bool     `json:"quorum"`            // enough nodes to store messages
	Members []Member `json:"members"`
}

// Errors of clusterAdmin, for errors.Is.
var (
	errAlone     = errors.New("this node runs alone: its settings have no [cluster]")
	errNotMember = errors.New("there is no such node in the cluster")
)

// clusterAdmin is what the cluster's engine tells and does for an administrator. A node that runs
// alone answers with soloCluster.
type clusterAdmin interface {
	// members lists the nodes, this one too, with what their beats said last.
	members() []Member
	// name is the cluster's name, and whether it has its quorum.
	name() (name string, quorum bool)
	// join adds a node by the address of its cluster listener.
	join(ctx context.Context, address string) error
	// leave begins to take a node out for good; force: it is dead.
	leave(ctx context.Context, node string, r admin.LeaveCluster) error
	// drain, drainState and undrain act on another node; errNotMember if it is none.
	drain(ctx context.Context, node string, r admin.DrainNode) (Drain, error)
	drainState(ctx context.Context, node string) (Drain, error)
	undrain(ctx context.Context, node string) (Drain, error)
	// reference is where a client of this node should go instead that came by a listener, "" if nobody has
	// said where; ready is whether another node takes clients.
	reference(listener string) (server string, ready bool)
}

// soloCluster is the cluster of one.
type soloCluster struct{ b *Broker }

func (c soloCluster) members() []Member                                       { return []Member{c.b.member()} }
func (c soloCluster) name() (string, bool)                                    { return "", c.b.messages.failure() == nil }
func (c soloCluster) join(context.Context, string) error                      { return errAlone }
func (c soloCluster) leave(context.Context, string, admin.LeaveCluster) error { return errAlone }
func (c soloCluster) reference(string) (string, bool)                         { return "", false }
func (c soloCluster) drainState(context.Context, string) (Drain, error)       { return Drain{}, errNotMember }
func (c soloCluster) undrain(context.Context, string) (Drain, error)          { return Drain{}, errNotMember }
func (c soloCluster) drain(context.Context, string, admin.DrainNode) (Drain, error) {
	return Drain{}, errNotMember
}

// member is this node as it sees itself.
func (b *Broker) member() Member {
	m := Member{Name: b.cfg.Node.Name, This: true, Version: b.version, Role: RoleAlone, NotReady: b.whyNotReady(), Listen: []string{}, Clients: b.conns.clients(),
		Logs: []MemberLog{
			{Name: "messages", First: b.tail.oldest(b.cfg.Node.Name), Last: b.messages.stored.Load()},
			{Name: "state", First: 1, Last: b.state.w.stored.Load()},
		}}
	m.Ready = len(m.NotReady) == 0
	for _, a := range b.Addrs() {
		m.Listen = append(m.Listen, a.String())
	}
	if d := b.drainer.state(); d.State != DrainOff {
		m.Drain = &d
	}
	return m
}

// whyNotReady lists everything that keeps this node from taking clients and storing messages.
func (b *Broker) whyNotReady() []string {
	out := []string{}
	add := func(err error) {
		if err != nil {
			out = append(out, err.Error())
		}
	}
	add(b.drainer.refusal())
	taken := b.takes()
	add(taken)
	if err := b.messages.failure(); err != nil && !errors.Is(taken, err) {
		add(err)
	}
	add(b.state.w.failure())
	if err := b.Damage(); err != nil { // it serves, but somebody has to look
		add(fmt.Errorf("the store is damaged: %w", err))
	}
	return out
}

// ShowCluster implements admin.Cluster.
func (c *Console) ShowCluster(context.Context) (any, error) {
	out := ClusterBody{Node: c.b.cfg.Node.Name, Members: c.b.cluster.members()}
	out.Cluster, out.Quorum = c.b.cluster.name()
	return out, nil
}

// JoinCluster implements admin.Cluster.
func (c *Console) JoinCluster(ctx context.Context, r admin.JoinCluster) (any, error) {
	if err := c.b.cluster.join(ctx, r.Address); err != nil {
		return nil, explainCluster(err)
	}
	return c.ShowCluster(ctx)
}

// LeaveCluster implements admin.Cluster.
func (c *Console) LeaveCluster(ctx context.Context, node string, r admin.LeaveCluster) (any, error) {
	if node == "" {
		node = c.b.cfg.Node.Name
	}
	if err := c.b.cluster.leave(ctx, node, r); err != nil {
		return nil, explainCluster(err)
	}
	return c.ShowCluster(ctx)
}

// DrainNode implements admin.Cluster.
func (c *Console) DrainNode(ctx context.Context, node string, r admin.DrainNode) (any, error) {
	if c.here(node) {
		return c.b.drainer.begin(r)
	}
	d, err := c.b.cluster.drain(ctx, node, r)
	return d, explainCluster(err)
}

// ShowDrain implements admin.Cluster.
func (c *Console) ShowDrain(ctx context.Context, node string) (any, error) {
	if c.here(node) {
		return c.b.drainer.state(), nil
	}
	d, err := c.b.cluster.drainState(ctx, node)
	return d, explainCluster(err)
}

// UndrainNode implements admin.Cluster.
func (c *Console) UndrainNode(ctx context.Context, node string) (any, error) {
	if c.here(node) {
		return c.b.drainer.undo(), nil
	}
	d, err := c.b.cluster.undrain(ctx, node)
	return d, explainCluster(err)
}

func (c *Console) here(node string) bool { return node == "" || node == c.b.cfg.Node.Name }

// explainCluster gives an error of the cluster its HTTP status and what to do next.
func explainCluster(err error) error {
	for _, e := range []struct {
		is     error
		status int
		hint   string
	}{
		{errAlone, http.StatusConflict, "a node joins by [cluster] in its settings: name, listen, peers and secret_file"},
		{errNotMember, http.StatusNotFound, "holdfast-broker cluster show names the nodes"},
	} {
		if errors.Is(err, e.is) {
			return &admin.Error{Status: e.status, Message: err.Error(), Hint: e.hint}
		}
	}
	return err
}
