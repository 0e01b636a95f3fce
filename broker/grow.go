package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A node that ran alone becomes one of a cluster while it serves. The engine cannot take its store over (it
// would delete it), so a second engine, that of the cluster, runs beside the first and gets a copy of all
// logs. The other nodes wait meanwhile: none of them takes a client. When almost everything is copied the node
// stops serving, copies the rest, and begins anew as a node of the cluster, under the same positions. Whatever
// fails on the way, the old store is whole until the new one is.

// ErrGrown is why Run ends when the node has become one of a cluster: a new Broker begins as that.
var ErrGrown = errors.New("the node's logs are in the cluster: it begins anew as one of its nodes")

// errTwoStores is why a node cannot grow.
var errTwoStores = errors.New("two stores cannot be made one")

const (
	growNear   = 200             // batches that may be left for the moment in which nobody is served
	growRounds = 20              // and after so many rounds it is done all the same
	growFinish = 5 * time.Minute // for the last of them
)

// grower brings a node's logs into a cluster.
type grower struct {
	b       *Broker
	dir     string
	cluster *ClusterConfig
	id      nodeID // in the cluster
	engine  *engine
	members *members

	mu     sync.Mutex
	copies []*logCopy
	why    error // what it waits for

	ripe   chan struct{} // closed when the rest can be copied in a moment
	failed chan error    // it can never be done
}

func growthDir(dir string) string { return filepath.Join(dir, "growth") }

// ranAlone says whether the store in dir is that of a node that ran alone.
func ranAlone(dir string) bool {
	id, err := readNodeID(filepath.Join(dir, "node.id"))
	return err == nil && id.Cluster == ""
}

func newGrower(b *Broker, cluster *ClusterConfig) *grower {
	return &grower{b: b, dir: growthDir(b.cfg.Node.DataDir), cluster: cluster, ripe: make(chan struct{}), failed: make(chan error, 1),
		why: errors.New("it begins")}
}

// run copies until almost nothing is left.
func (g *grower) run(ctx context.Context) {
	err := g.copyAll(ctx)
	switch {
	case err == nil:
		close(g.ripe)
	case errors.Is(err, errTwoStores):
		g.failed <- err
	case ctx.Err() == nil:
		g.failed <- fmt.Errorf("bring the logs into the cluster: %w", err)
	}
}

func (g *grower) copyAll(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(g.dir, "jetstream"), 0o700); err != nil {
		return err
	}
	var err error
	b := g.b
	if g.id, err = clusterIdentity(g.dir, b.cfg.Node.Name, g.cluster.Name, b.random, b.log); err != nil {
		return err
	}
	e, err := openEngine(engineConfig{dir: g.dir, node: b.cfg.Node.Name, id: g.id.ID, syncAlways: b.cfg.Store.Sync != SyncInterval,
		reserve: b.reserve, cluster: g.cluster}, b.log)
	if err != nil {
		return err
	}
	m := newMembers(e, b.cfg.Node.Name, b.mono, g.beat, b.log)
	g.mu.Lock()
	g.engine, g.members = e, m
	g.mu.Unlock()
	b.log.Warn("this node ran alone: it goes on serving, and copies its logs into the cluster")
	b.background(func(ctx context.Context) {
		if err := m.run(ctx); err != nil {
			b.log.Error("the other nodes cannot be heard", "err", err)
		}
	})
	if err := m.await(ctx, b.log, func(table []member) error {
		err := growable(b.cfg.Node.Name, table, len(g.cluster.Peers)+1)
		g.waits(err)
		if errors.Is(err, errTwoStores) {
			return nil // said below
		}
		return err
	}); err != nil {
		return err
	}
	if err := growable(b.cfg.Node.Name, m.list(), len(g.cluster.Peers)+1); errors.Is(err, errTwoStores) {
		return err
	}
	if err := g.prepare(ctx); err != nil {
		return err
	}
	for range growRounds {
		before := g.progress().Have
		if err := g.round(ctx); err != nil {
			return err
		}
		if g.progress().Have-before < growNear {
			return nil
		}
	}
	return nil
}

// growable says why the copy cannot begin, or nil: all nodes have to be there, and none may have data of its own.
func growable(self string, table []member, size int) error {
	here := 0
	for _, m := range table {
		if !m.Heard {
			continue
		}
		here++
		switch {
		case m.Node == self:
		case m.Founded:
			return fmt.Errorf("%w: the cluster has node %s with data, and this node ran alone and has data too; give this one an empty data_dir to join (or remove [cluster] to run it alone again)", errTwoStores, m.Node)
		case m.Growing:
			return fmt.Errorf("%w: node %s ran alone as this one did; only one of them may bring its store: give the other an empty data_dir", errTwoStores, m.Node)
		}
	}
	if here < size {
		return fmt.Errorf("waits for the other nodes: %d of %d have been heard", here, size)
	}
	return nil
}

func (g *grower) waits(err error) {
	g.mu.Lock()
	g.why = err
	g.mu.Unlock()
}

// prepare makes the cluster's streams.
func (g *grower) prepare(ctx context.Context) error {
	names, err := g.b.engine.nodes(ctx)
	if err != nil {
		return err
	}
	for _, node := range names {
		for _, kind := range []string{kindState, kindMessages} {
			from, to := g.b.engine.logOf(kind, node), g.engine.logOf(kind, node)
			limit := int64(stateMax)
			if kind == kindMessages {
				limit = g.b.cfg.Store.engineBytes()
			}
			for {
				if err = to.ensure(ctx, limit); err == nil || !pause(ctx, retryPause) {
					break
				}
				g.waits(err)
			}
			if err != nil {
				return fmt.Errorf("make the log %s of %s in the cluster: %w", kind, node, err)
			}
			g.mu.Lock()
			g.copies = append(g.copies, &logCopy{from: from, to: to, name: kind + " of " + node, log: g.b.log})
			g.mu.Unlock()
		}
	}
	g.waits(nil)
	return nil
}

// round copies what all logs have now.
func (g *grower) round(ctx context.Context) error {
	for _, c := range g.copies {
		if err := c.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (g *grower) progress() (sum copied) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.copies {
		sum = sum.add(c.progress())
	}
	return sum
}

// words says how far it is.
func (g *grower) words() string {
	g.mu.Lock()
	why := g.why
	g.mu.Unlock()
	if why != nil {
		return "it ran alone and joins the cluster: " + why.Error()
	}
	return fmt.Sprintf("it ran alone and joins the cluster: it %s of its logs", g.progress())
}

func (g *grower) beat(out *beat) {
	b := g.b
	out.ID, out.Version, out.Cluster = g.id.ID, b.version, g.cluster.address()
	out.Starting, out.Growing, out.Why = true, true, g.words()
	out.Clients = b.conns.clients()
	out.Copies = map[string]copied{b.cfg.Node.Name: g.progress()}
	for _, a := range b.Addrs() {
		out.Addrs = append(out.Addrs, a.String())
	}
}

// finish copies the rest, when nobody writes any more, and makes the cluster's store this node's. Both engines
// are closed then.
func (g *grower) finish() error {
	ctx, cancel := context.WithTimeout(context.Background(), growFinish)
	defer cancel()
	if err := g.round(ctx); err != nil {
		return fmt.Errorf("copy the end of the logs: %w", err)
	}
	g.close()
	g.b.engine.close()
	g.id.Founded = true
	dir := g.b.cfg.Node.DataDir
	if err := writeNodeID(filepath.Join(dir, "node.id"), g.id); err != nil {
		return err
	}
	return completeGrowth(dir)
}

func (g *grower) close() {
	g.mu.Lock()
	e := g.engine
	g.mu.Unlock()
	if e != nil {
		e.close()
	}
}

// completeGrowth puts the cluster's store in the place of the old one, once node.id says that it is this node's.
// A crash in between leaves it to the next start.
func completeGrowth(dir string) error {
	id, err := readNodeID(filepath.Join(dir, "node.id"))
	if err != nil {
		return nil // there is nothing, or the start says what is wrong
	}
	grown, err := readNodeID(filepath.Join(growthDir(dir), "node.id"))
	if err != nil || grown.ID != id.ID {
		return nil
	}
	store, from := filepath.Join(dir, "jetstream"), filepath.Join(growthDir(dir), "jetstream")
	if _, err := os.Stat(from); err == nil {
		aside := store + ".alone-before-" + id.ID
		if err := os.Rename(store, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set the old store aside: %w", err)
		}
		if err := os.Rename(from, store); err != nil {
			return fmt.Errorf("put the cluster's store in place: %w", err)
		}
	}
	if err := os.RemoveAll(growthDir(dir)); err != nil {
		return fmt.Errorf("end the growth: %w", err)
	}
	return nil
}

// growCluster is the cluster for an administrator while the node grows.
type growCluster struct {
	soloCluster
	g *grower
}

func (c growCluster) name() (string, bool) { return c.g.cluster.Name, c.b.messages.failure() == nil }

func (c growCluster) members() []Member {
	own := c.b.member()
	own.Address, own.Copying = c.g.cluster.address(), c.g.words()
	out := []Member{own}
	c.g.mu.Lock()
	table := c.g.members
	c.g.mu.Unlock()
	if table == nil {
		return out
	}
	for _, m := range table.list() {
		if m.Node != own.Name {
			out = append(out, otherMember(m, c.b.wall()))
		}
	}
	return out
}

// forgetGrowth removes what a growth that was given up has left: the node runs alone again.
func forgetGrowth(dir string) error {
	id, err := readNodeID(filepath.Join(dir, "node.id"))
	if err != nil || id.Cluster != "" {
		return nil
	}
	if _, err := os.Stat(growthDir(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.RemoveAll(growthDir(dir))
}
