package broker

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// This file is about a node of a cluster whose own copy of the logs is not what it was: damaged, partly gone, or that of
// an earlier day. Such a copy must not vote, lead or be copied from, and one that is new must not found anything. So it
// is judged before the engine starts, and the node then only listens until a majority of the cluster, without it, is
// there with whole copies. Then the copy is set aside, and the node joins under a new name among the engines, as a new
// peer that has promised nothing, and copies everything. Without such a majority nothing is set aside, because this
// copy may be needed: the node says so, and what an administrator can do.

// asItIs is a file in the store by which an administrator says that a damaged copy is to be used.
const asItIs = "use-as-it-is"

// verifyFor is how long a start may look for damage; the rest is checked while the node runs.
const verifyFor = 15 * time.Second

// disk is what a node of a cluster knows about its store.
type disk struct {
	began  map[string]uint64     // by group, the last entry when this life began
	life   uint64                // random
	forced bool                  // asItIs
	partly bool                  // not all of it was checked at the start
	rotten atomic.Pointer[error] // damage that was found since
	bad    atomic.Pointer[error] // why this life has to end
	healed atomic.Bool
	empty  atomic.Bool // nodeID.Empty
	chosen atomic.Bool // there is a file asItIs

	mu      sync.Mutex
	mark    storeMark
	written storeMark
	now     map[string]uint64 // as began, now
	held    []string          // streams
	doubts  map[string]doubt
	older   map[string]string // node → the id of its store, which had more once
	termsAt time.Duration
}

func (b *Broker) engineDir() string {
	return filepath.Join(b.cfg.Node.DataDir, "jetstream", "jetstream")
}

// checkStore judges the store of a cluster's node before the engine starts, and replaces one that is not what it was.
func (b *Broker) checkStore(o Options) error {
	dir := b.cfg.Node.DataDir
	b.disk.life = binary.BigEndian.Uint64(b.random(8))
	had, err := readStoreMark(dir)
	if err != nil {
		return err
	}
	others := had.Others
	if had.ID != b.id.ID {
		had = storeMark{}
	}
	began := b.mono()
	scanner := &storeScanner{dir: b.engineDir(), known: had.Streams, loose: b.cfg.Store.Sync == SyncInterval, before: timeLeft(b.mono, verifyFor)}
	scan, err := scanner.scan()
	if err != nil {
		return fmt.Errorf("check the store in %s: %w", b.engineDir(), err)
	}
	why := scan.err
	if why == nil && had.Damaged != "" {
		why = damagedf("%s", had.Damaged)
	}
	if why == nil {
		if why = had.judge(scan, b.engineDir()); why != nil && !errors.Is(why, errStoreDamaged) {
			return why
		}
	}
	b.log.Debug("the store was checked", "took", b.mono()-began, "all", !scan.partly, "err", why)
	if _, err := os.Stat(filepath.Join(dir, "jetstream", asItIs)); why != nil && err == nil {
		b.log.Error("this node's copy of the logs is damaged and is used all the same, because an administrator has said so: remove the file once the others have whole copies",
			"err", why, "file", filepath.Join(dir, "jetstream", asItIs))
		why, b.disk.forced = nil, true
	}
	if why != nil || b.id.Healing {
		if err := b.awaitOthers(o, why); err != nil {
			return err
		}
	}
	if why != nil {
		if err := b.replaceStore(why); err != nil {
			return err
		}
		scan, had = storeScan{}, storeMark{}
	}
	b.disk.begin(scan.entries, had.Entries)
	if others == nil {
		others = map[string]storedThere{}
	}
	b.disk.partly = scan.partly
	b.disk.healed.Store(!b.id.Healing)
	b.disk.mark = storeMark{ID: b.id.ID, Streams: had.Streams, Terms: had.Terms, Entries: had.Entries, Others: others}
	b.disk.written = b.disk.mark
	return b.disk.mark.write(dir, true) // what follows changes the files
}

// awaitOthers hears the other nodes, without the store, until enough of them have whole copies.
func (b *Broker) awaitOthers(o Options, why error) (err error) {
	size := len(b.cfg.Cluster.Peers) + 1
	need := size/2 + 1
	if why == nil {
		why = fmt.Errorf("%w, and is being made anew", errStoreDamaged)
	}
	why = fmt.Errorf("%w; it is not used, and made anew as soon as %d other nodes are there with whole copies. If they never will be: "+
		"stop the node, make an empty file %s, and start it; it then goes on with what it has, and what is damaged is lost",
		why, need, filepath.Join(b.cfg.Node.DataDir, "jetstream", asItIs))
	b.log.Error("this node does not take part in the cluster yet: look at its disk", "err", why)
	b.starting.waits(why)
	e, err := openEngine(engineConfig{dir: b.cfg.Node.DataDir, node: b.cfg.Node.Name, id: "listens-" + hex.EncodeToString(b.random(4)),
		cluster: b.cfg.Cluster, gate: o.gate, storeless: true}, b.log)
	if err != nil {
		return err
	}
	defer e.close()
	m := newMembers(e, b.cfg.Node.Name, b.mono, func(out *beat) {
		out.ID, out.Version, out.Cluster, out.Founded = b.id.ID, b.version, b.cfg.Cluster.address(), b.id.Founded
		out.FormatOldest, out.Format = b.formats.oldest, b.formats.now
		out.Starting, out.Listens, out.Healing, out.Why, out.Idle, out.Counts = true, true, true, why.Error(), true, []countedNode{}
	}, b.log)
	ctx, cancel := context.WithCancel(b.ctx)
	var hearing sync.WaitGroup
	defer hearing.Wait()
	defer cancel()
	hearing.Go(func() {
		if err := m.run(ctx); err != nil {
			b.log.Error("the other nodes cannot be heard", "err", err)
		}
	})
	return m.await(b.ctx, b.log, func(table []member) error {
		var whole []string
		for _, o := range table {
			if o.Alive && o.hasCopy() && o.Node != b.cfg.Node.Name {
				whole = append(whole, o.Node)
				if o.Chosen {
					return nil
				}
			}
		}
		if len(whole) < need {
			return fmt.Errorf("%d of the %d nodes with whole copies that it takes are there %v: %w", len(whole), need, whole, why)
		}
		return nil
	})
}

// replaceStore sets the damaged store aside and makes an empty one with a new id. One is kept for the administrator: the
// last that was whole before it was damaged, so nothing of a copy that was never finished.
func (b *Broker) replaceStore(why error) error {
	dir := b.cfg.Node.DataDir
	store := filepath.Join(dir, "jetstream")
	id := b.id
	id.ID, id.Replaced, id.Healing = hex.EncodeToString(b.random(8)), id.Replaced+1, true
	if b.id.Healing {
		if err := os.RemoveAll(store); err != nil {
			return fmt.Errorf("remove a copy that was not finished: %w", err)
		}
	} else if asides, err := filepath.Glob(store + ".damaged-before-*"); err == nil {
		for _, old := range asides {
			if err := os.RemoveAll(old); err != nil {
				return fmt.Errorf("remove an older damaged store: %w", err)
			}
		}
	}
	if err := setAside(store, "damaged", id.ID, b.log); err != nil {
		return err
	}
	for _, f := range []string{filepath.Join(store, "holdfast.id"), filepath.Join(dir, "node.id")} {
		if err := writeNodeID(f, id); err != nil {
			return err
		}
	}
	b.id = id
	b.log.Error("this node's copy of the logs was damaged: it is made anew from the others", "err", why, "replaced", id.Replaced)
	return nil
}

// spoil ends this life because the store is not what it was; the next one sees to it.
func (b *Broker) spoil(why error) {
	if b.disk.forced || !b.disk.bad.CompareAndSwap(nil, &why) {
		return
	}
	b.log.Error("this node's copy of the logs is not what it was: it begins anew, and makes its copy anew from the others", "err", why)
	b.disk.mu.Lock()
	b.disk.mark.Damaged = why.Error()
	err := b.disk.mark.write(b.cfg.Node.DataDir, true)
	b.disk.mu.Unlock()
	if err != nil {
		b.log.Error("that it is damaged cannot be noted", "err", err)
	}
	b.beginAgain(why)
	if b.opening.Load() {
		b.stop()
	}
}

// keepMark notes what this node's replicas have now.
func (b *Broker) keepMark() error {
	has, err := b.engine.extents()
	entries, err2 := b.engine.agreed()
	if err != nil || err2 != nil {
		return nil //nolint:nilerr // the store has failed, which is said elsewhere
	}
	d := &b.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = slices.Sorted(maps.Keys(has))
	if b.cfg.Store.Sync == SyncInterval { // a power cut may take the last second
		has, entries = nil, nil
	}
	d.now = entries
	d.mark.Streams, d.mark.Entries = has, entries
	if now := b.mono(); d.mark.Terms == nil || now-d.termsAt > listEvery {
		d.mark.Terms, d.termsAt = b.terms(), now
	}
	if d.mark.sameAs(d.written) {
		return nil
	}
	d.written = d.mark.clone()
	return d.mark.write(b.cfg.Node.DataDir, false)
}

// terms are those of the groups that vote here.
func (b *Broker) terms() map[string]uint64 {
	out := map[string]uint64{}
	names, _ := folders(filepath.Join(b.engineDir(), "$SYS", "_js_")) // what cannot be read is not noted
	for _, name := range names {
		if tav, err := optional(filepath.Join(b.engineDir(), "$SYS", "_js_", name, "tav.idx")); err == nil && len(tav) >= 8 {
			out[name] = binary.LittleEndian.Uint64(tav)
		}
	}
	return out
}

// closeMark notes the files as they are when the engine has ended.
func (b *Broker) closeMark() {
	d := &b.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mark.ID == "" || d.mark.Damaged != "" {
		return
	}
	files, err := markFiles(b.engineDir())
	if err == nil {
		d.mark.Terms, d.mark.Files = b.terms(), files
		err = d.mark.write(b.cfg.Node.DataDir, true)
	}
	if err != nil {
		b.log.Warn("what the store has cannot be noted: the next start trusts its checksums alone", "err", err)
	}
}

// heal looks whether the new copy is complete.
func (g *guard) heal(ctx context.Context) {
	b := g.b
	if err := b.keepMark(); err != nil {
		b.log.Warn("what the store has cannot be noted", "err", err)
	}
	healing := !b.disk.healed.Load()
	if !healing && !b.disk.empty.Load() {
		return
	}
	lacks, err := b.engine.lacks(ctx)
	if (err != nil || len(lacks) > 0) && !healing {
		return // a new node takes clients all the same: a quorum has what it lacks
	}
	if err != nil || len(lacks) > 0 {
		why := fmt.Errorf("%w, and is made anew from the others: %d logs are not complete yet", errStoreDamaged, len(lacks))
		if err != nil {
			why = fmt.Errorf("%w, and is made anew from the others: %w", errStoreDamaged, err)
		}
		b.peers.heals.Store(&why)
		return
	}
	id := b.id
	id.Healing, id.Empty = false, false
	if err := writeNodeID(filepath.Join(b.cfg.Node.DataDir, "node.id"), id); err != nil {
		b.log.Error("that the copy is complete cannot be noted", "err", err)
		return
	}
	b.disk.empty.Store(false)
	if !healing {
		return
	}
	b.disk.healed.Store(true)
	b.peers.heals.Store(nil)
	b.log.Info("this node's copy of the logs is complete again; what was set aside can be removed", "at", filepath.Join(b.cfg.Node.DataDir, "jetstream.damaged-before-"+id.ID))
}

// lacks are the logs that this node is to hold and does not hold in full.
func (e *engine) lacks(ctx context.Context) (out []string, err error) {
	nodes, err := e.nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		for _, kind := range []string{kindMessages, kindState} {
			st, err := e.logOf(kind, node).info(ctx)
			if errors.Is(err, errNoStream) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if !st.heldBy(e.serverName(), e.cfg.node) {
				out = append(out, kind+" of "+node)
			}
		}
	}
	return out, nil
}

// heldBy says that a server has all of the log, or none of it by right.
func (st *streamInfo) heldBy(server, node string) bool {
	if st.Cluster == nil {
		return false
	}
	if st.Cluster.Leader == server {
		return true
	}
	old := false
	for _, r := range st.Cluster.Replicas {
		if r.Name == server {
			return r.Current && r.Lag == 0
		}
		was, _ := splitServer(r.Name)
		old = old || was == node
	}
	return !old && st.Cluster.Leader != "" && len(st.Cluster.Replicas)+1 >= st.Config.Replicas
}
