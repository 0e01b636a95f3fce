package broker

// This file is how a broker comes up: its store, what follows from the logs, and its writers.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/broker/door"
)

// open opens the engine, reads the state stream, and makes what needs nothing but that.
func (b *Broker) open(o Options) error {
	dir := b.cfg.Node.DataDir
	if err := os.MkdirAll(filepath.Join(dir, "jetstream"), 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	err := b.readIdentity()
	if err != nil {
		return err
	}
	if !b.alone() {
		b.starting.begin("check the store")
		if err := b.checkStore(o); err != nil {
			return err
		}
	}
	b.starting.begin("open the store")
	b.engine, err = openEngine(engineConfig{dir: dir, node: b.cfg.Node.Name, id: b.id.ID, syncAlways: b.cfg.Store.Sync != SyncInterval,
		reserve: b.reserve, cluster: b.cfg.Cluster, gate: o.gate, waits: b.starting.waits, doubt: b.doubtful}, b.log)
	if err != nil {
		return err
	}
	if b.cfg.Store.Sync == SyncInterval {
		b.log.Warn(`[store] sync = "interval": a power cut may cost what was acknowledged in the last second`)
	}
	if err = b.identify(); err != nil {
		return err
	}
	if !b.alone() {
		if err = b.found(); err != nil {
			return err
		}
	}
	b.starting.begin("open this node's logs")
	if b.stream, err = b.engine.open(b.ctx, "messages", b.cfg.Store.engineBytes()); err != nil {
		return err
	}
	stateStream, err := b.engine.open(b.ctx, "state", stateMax)
	if err != nil {
		return err
	}
	for _, s := range []*logStream{b.stream, stateStream} {
		b.starting.begin("bring the %s log home", s.kind)
		if err := s.bringHome(b.ctx); err != nil {
			return err
		}
	}
	var others []string // of a node that runs alone
	if b.alone() {
		if others, err = b.otherLogs(); err != nil {
			return err
		}
	}
	b.starting.begin("read the state")
	b.state = newState(b.cfg.Node.Name, stateStream, b.alone() && len(others) == 0, b.log)
	if _, err = b.state.load(b.ctx, stateStream); err != nil {
		return err
	}
	if err = b.readOthersState(others); err != nil {
		return err
	}
	for _, err := range b.state.damaged {
		b.damaged(0, err)
	}
	if b.state.w, err = b.openWriter("state", stateStream, b.state.apply); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if b.messages, err = b.openWriter("messages", b.stream, b.commit); err != nil {
		return fmt.Errorf("messages: %w", err)
	}
	if err = b.sign(); err != nil {
		return err
	}
	if b.registry, err = door.OpenRegistry(b.state, b.wall); err != nil {
		return err
	}
	b.state.watch(door.RegistryPrefix, b.reloadDevice)
	b.state.watch(sessionKey, b.claimed)
	b.state.watch(shareKey, b.shares.heardShare)
	b.state.watch(memberPrefix, b.noteLeavers)
	b.state.watch(checkPrefix, b.inbound.settled(b.state))
	b.door = door.New(b.cfg.Verify, b.registry, b.log)
	if err = b.openAccess(); err != nil {
		return err
	}
	if err = b.openEnrol(); err != nil {
		return err
	}
	return b.recover(others)
}

// chooseGrowth decides whether the node goes on alone, to become one of a cluster.
func (b *Broker) chooseGrowth() error {
	dir := b.cfg.Node.DataDir
	if err := completeGrowth(dir); err != nil {
		return err
	}
	switch {
	case b.cfg.Cluster == nil:
		return forgetGrowth(dir)
	case ranAlone(dir):
		if id, _ := readNodeID(filepath.Join(dir, "node.id")); id.NotWith != "" && id.NotWith == secretPrint(b.cfg.Cluster) {
			return errSameSecret
		}
		b.growth = newGrower(b, b.cfg.Cluster)
		b.cluster, b.cfg.Cluster = growCluster{soloCluster{b}, b.growth}, nil
	}
	return nil
}

func (b *Broker) openWriter(kind string, s *logStream, commit func(*Batch)) (*writer, error) {
	m, number, err := openMark(filepath.Join(b.cfg.Node.DataDir, kind+".mark"))
	if err != nil {
		return nil, err
	}
	b.marks = append(b.marks, m)
	w, err := openWriter(b.ctx, s, writerConfig{node: b.cfg.Node.Name, incarnation: binary.BigEndian.Uint64(b.random(8)),
		batchBytes: batchBytes, window: batchWindow, pending: pendingBytes, timeout: b.engine.patience(), room: b.engine.room, begin: b.engine.roomToBegin,
		reopen: b.engine.reopen, mark: m.set, commit: commit, announce: b.engine.announcer(kind), why: b.engine.whyNot, wall: b.steady.time, mono: b.mono, log: b.log})
	if err == nil && w.number < number {
		b.damaged(w.number+1, fmt.Errorf("%w: the %s stream ends at batch %d and had %d: the engine cut it off at something that it could not read",
			errDamaged, kind, w.number, number))
	}
	return w, err
}

// recover brings what follows from the log up to its end, and starts the writers.
func (b *Broker) recover(others []string) error {
	first, _, _, err := b.stream.bounds(b.ctx)
	if err != nil {
		return err
	}
	b.openTail(first)
	if err := b.addOthersLogs(others); err != nil {
		return err
	}
	if !b.alone() {
		if err := b.joinPeers(); err != nil {
			return err
		}
		b.ranks.begin(max(b.messages.heard.Load(), b.messages.lamport, b.state.w.lamport)) // the writers have not begun
	}
	b.starting.begin("restore the ledger")
	if err := b.knowsFormat(); err != nil {
		return err
	}
	from, err := b.restoreLedger()
	if err != nil { // everything can still be counted from what the log has
		b.damaged(0, fmt.Errorf("the ledger is rebuilt from the log; what was trimmed is not in it: %w", err))
		from = nil
	}
	b.starting.begin("begin a new life of the state log")
	b.state.w.start()
	if err := b.state.w.begin(b.ctx); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if !b.alone() {
		if err := b.joinAgain(b.ctx); err != nil {
			return err
		}
	}
	b.starting.begin("restore the sessions")
	for _, restore := range []func() error{b.restoreRetained, b.restoreSessions} {
		if err := restore(); err != nil {
			return err
		}
	}
	b.starting.begin("read the logs")
	if err := b.replay(b.ctx, from); err != nil {
		return err
	}
	b.starting.begin("begin a new life of the messages log")
	for _, node := range append(others, b.cfg.Node.Name) {
		b.adoptWills(node)
	}
	b.messages.start()
	if err := b.messages.begin(b.ctx); err != nil {
		return fmt.Errorf("messages: %w", err)
	}
	b.background(b.own.run)
	if b.alone() {
		if err := b.letGoAlone(b.ctx); err != nil {
			return fmt.Errorf("messages: %w", err)
		}
	}
	b.starting.begin("open the listeners")
	if b.peers == nil {
		return nil
	}
	if err := b.peers.start(); err != nil {
		return err
	}
	return b.holds.restore(b.ctx)
}

// joinPeers finds the other nodes that have been here, and reads what their state logs have. It tries
// until there are enough nodes to say so, or the broker ends.
func (b *Broker) joinPeers() error {
	b.cluster = peerCluster{b}
	b.state.everywhere = func(ctx context.Context, batch uint64) error { return b.peers.everywhere(ctx, kindState, batch) }
	var names []string
	err := b.insist("find the other nodes", func() (err error) {
		names, err = b.engine.nodes(b.ctx)
		return err
	})
	for _, node := range names {
		if err == nil && node != b.cfg.Node.Name {
			err = b.insist("read the logs of node "+node, func() error {
				err := b.peers.add(b.ctx, node, true)
				if errors.Is(err, errNoStream) { // it has never begun
					return nil
				}
				return err
			})
		}
	}
	return err
}

// insist tries something that needs the other nodes until it is done, or the broker ends.
func (b *Broker) insist(what string, fn func() error) error {
	b.starting.begin("%s", what)
	for n := 0; ; n++ {
		err := fn()
		if err == nil {
			return nil
		}
		b.starting.waits(err)
		if n%20 == 0 {
			b.log.Info("waiting for the cluster", "to", what, "err", err)
		}
		if !pause(b.ctx, retryPause) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// reloadDevice takes what another node has stored about a gateway.
func (b *Broker) reloadDevice(key string) {
	value, there := b.state.get(key)
	if !there {
		value = nil
	}
	if err := b.registry.Reload(key[len(door.RegistryPrefix):], value); err != nil {
		b.log.Error("another node stored a gateway's keys and they cannot be read", "err", err)
	}
}

// openTail makes the tail of the messages logs; first is the first slot of the own one.
func (b *Broker) openTail(first uint64) {
	node, offset := b.cfg.Node.Name, b.messages.offset
	own := newTailLog(node, slotSource{b.stream, offset, &behindFence{}}, b.messages.number+1, first-min(first, offset))
	b.tail = newTail(own, b.damaged)
	b.tail.drop = func(name string, r *Record) { b.discards.one(discardNoRoom, name, r.Topic, Position{}) }
	b.tail.bar = func(name string, r *Record, at cursor) {
		b.discards.one(discardNotAllowed, name, r.Topic, Position(at))
	}
	b.own = b.follow(own, func(batch *Batch) bool {
		done := b.tail.distribute(own, batch)
		if !done && b.peers != nil {
			b.peers.hurry(batch)
		}
		return done
	})
}

// follow makes the follower that brings a log into the tail.
func (b *Broker) follow(l *tailLog, take func(*Batch) bool) *follower {
	f := newFollower(l.node, l.src, l.next, take, b.log)
	f.more, f.fill = b.tail.news, b.tail.fill
	f.lost = func(from, next uint64, err error) {
		if !errors.Is(err, errTrimmed) {
			b.damaged(from, fmt.Errorf("the log of node %q: %w", l.node, err))
		}
		b.tail.jump(l, next)
	}
	return f
}
