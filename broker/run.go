package broker

// This file is how a broker serves, and how it ends.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"holdfast/broker/listen"
)

// Run serves clients until ctx ends, then stops in the order that loses nothing.
func (b *Broker) Run(ctx context.Context) error {
	defer b.Close()
	f, err := listen.Open(ctx, b.cfg.Listen, listen.Env{Log: b.log, Mono: b.mono, Wall: b.wall, Limits: b.limits, Counts: &b.stats.Front,
		Ready: func() bool { return len(NewConsole(b, "").Ready()) == 0 }})
	if err != nil {
		return err
	}
	est, err := b.listenEnrol(ctx, f.Files)
	if err != nil {
		f.Close()
		return err
	}
	b.opened(f)
	b.tasks.Go(func() { b.house(b.ctx) })
	b.background(b.enrol.run) // not before the state of all nodes is read: a list without their revocations would be a lie
	b.notReady.Store(nil)     // before the first client is served, or it would be refused
	if b.growth != nil {
		b.background(b.growth.run)
	}
	var serving sync.WaitGroup
	serving.Go(func() { f.Serve(ctx, b.serve) })
	asking, deaf := context.WithCancel(ctx)
	defer deaf()
	if est != nil {
		serving.Go(func() { est.serve(asking) })
	}
	b.log.Info("ready", "node", b.cfg.Node.Name, "listeners", b.Addrs())

	err = b.untilEnd(ctx)
	b.unready(errStopping)
	f.Close()
	deaf()
	serving.Wait()
	release := time.AfterFunc(endTimeout, b.stop)
	b.conns.endAll()
	release.Stop()
	b.releaseGroups()
	return err
}

// endTimeout is how long the connections of a node that stops may wait for the disks of the others: a QoS 2 message may be about to
// leave, and without a quorum what has to be stored before never will be.
const endTimeout = 5 * time.Second

// Stuck is why the node makes no progress, for whoever can start its program again; none: it does, or it waits for something outside. The
// beats of a node of a cluster need no disk and no other node, and go through every lock that a message goes through: where they end the others
// go on without it, but for what only it could tell them.
func (b *Broker) Stuck() []string {
	if b.peers == nil {
		return nil
	}
	if silent := b.peers.members.paused(); silent > stuckAfter {
		return []string{fmt.Sprintf("it has told the other nodes nothing for %v", silent.Round(time.Second))}
	}
	return nil
}

// ErrFenced is why Run ends when another node has closed this one's logs, because it was silent for too
// long. Nothing that was acknowledged is lost: a new Broker begins behind the fence.
var ErrFenced = errForeign

// ErrNoAnswer is why New gives up when the storage engine does not answer. In a cluster that may pass: a log has no
// leader while its nodes come and go.
var ErrNoAnswer = errEngine

// untilEnd waits until ctx ends or the logs take nothing more.
func (b *Broker) untilEnd(ctx context.Context) error {
	w := b.messages
	var ripe <-chan struct{}
	var failed <-chan error
	if b.growth != nil {
		ripe, failed = b.growth.ripe, b.growth.failed
	}
	select {
	case <-ctx.Done():
		return nil
	case <-ripe:
		b.switching = true
		return ErrGrown
	case err := <-failed:
		return err
	case err := <-b.leaves:
		return errors.Join(ErrLeft, err)
	case <-b.messages.ended:
	case <-b.state.w.ended:
		w = b.state.w
	case err := <-b.again:
		b.messages.cancel()
		b.state.w.cancel()
		return fmt.Errorf("node %s: %w", b.cfg.Node.Name, err)
	}
	if err := w.failure(); err != nil {
		return fmt.Errorf("node %s can write no more: %w", b.cfg.Node.Name, err)
	}
	return nil
}

// closeTimeout bounds how long a stopping broker waits for its disk.
const closeTimeout = 10 * time.Second

// Close ends what New opened: messages first, because their ends are in the state. Run calls it.
func (b *Broker) Close() {
	b.unready(errStopping)
	b.stop()
	if b.peers != nil {
		b.peers.stop()
	}
	b.tasks.Wait()
	b.closeAccess()
	if b.peers != nil {
		b.peers.goodbye()
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	b.seal(ctx)
	b.messages.stop(ctx)
	if b.state != nil {
		b.saveDirty()
		b.freeGroups()
		b.state.w.stop(ctx)
		b.tasks.Wait() // what the last batches have begun
	}
	if b.switching {
		if err := b.growth.finish(); err != nil {
			b.log.Error("the node could not become one of the cluster yet, and goes on alone", "err", err)
		}
	}
	if b.growth != nil {
		b.growth.close()
	}
	if b.engine != nil {
		b.engine.close()
		b.closeMark()
	}
	for _, m := range b.marks {
		m.close()
	}
}

// sealTimeout is for the last record of a node that stops.
const sealTimeout = time.Second

// seal closes the own log of a node that stops in order, so that nobody has to wait until others have: who
// comes from here to another node is known to have nothing more in it.
func (b *Broker) seal(ctx context.Context) {
	if b.peers == nil || b.messages == nil || b.messages.ended == nil || b.messages.failure() != nil || b.peers.trouble.Load() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	err := b.messages.sync(ctx)
	if err == nil && len(b.held.list(b.cfg.Node.Name)) == 0 { // else who fences it ends the holds, too
		err = b.messages.put(ctx, &Record{Kind: KindFence, Arrival: b.steady.now(), At: Position{Node: b.cfg.Node.Name}})
	}
	if err != nil {
		b.log.Info("the log is left open: another node will close it", "err", err)
	}
}

func (b *Broker) opened(f *listen.Front) {
	var addrs []net.Addr
	for _, d := range f.Doorways {
		addrs = append(addrs, d.Addr)
	}
	b.doorway.Store(&f.Doorways)
	b.addrs.Store(&addrs)
	b.files.Store(f.Files)
	b.book.Store(f.Book)
}
