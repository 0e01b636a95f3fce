// Package broker is the broker node: an MQTT 5 and 3.1.1 broker whose queue is a log on disk.
//
// # What it is
//
// A PUBLISH is framed and decoded (front.go, conn.go, the pure codec in broker/mqtt), verified
// at the door (door.go), offered to the ledger (ingest.go, ledger.go), packed with what else is
// waiting into one batch (log.go, writer.go), stored and synced by an embedded JetStream
// (stream.go), and only then acknowledged. A session is a cursor into that log plus its
// subscriptions (session.go, feed.go, deliver.go).
//
// # What it promises
//
//   - A PUBACK or PUBREC with success means: on disk, synced ([store] sync = "always").
//   - What was acknowledged survives kill -9 and a power cut of the node.
//   - Per publisher and topic, QoS 1 and 2 messages are delivered in the order they were sent.
//   - A slow or absent subscriber with a session falls behind on the log; nothing is dropped for
//     it before retention trims the log, and then the gap is counted.
//   - A bad packet ends its connection, never the process.
//
// # What it will not do
//
// It does not keep QoS 0 for those who are away or too slow. It does not order messages by any
// wall clock. It does not replicate: one node, one disk.
package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Options is what a broker gets from its surroundings. Everything has a default.
type Options struct {
	Log  *slog.Logger
	Now  func() time.Duration // monotonic; orders and ages
	Wall func() time.Time     // for message expiry and for people; orders nothing
	Rand io.Reader

	Version string // of the program, for people

	// Starting ends New, which waits for the other nodes of a cluster for as long as it has to. It does not end the
	// broker. nil: never.
	Starting context.Context

	// For tests.
	formats formats       // what the program knows
	reserve int64         // free bytes to leave on the disk, instead of diskReserve
	hurry   time.Duration // house, checkpoints and $SYS this often
	gate    func()        // called before anything is sent to or taken from the other nodes; it may wait
}

// Broker is one node.
type Broker struct {
	cfg  Config
	log  *slog.Logger
	mono func() time.Duration
	wall func() time.Time
	rand io.Reader

	id      nodeID
	formats formats
	founded atomic.Bool // id.Founded, for other goroutines
	reserve int64
	every   time.Duration // house
	check   time.Duration // checkpoints
	marks   []*mark

	leaves    chan error // this node has left the cluster
	switching bool       // Close ends with what makes this node one of a cluster

	engine   *engine
	stream   *logStream // messages
	messages *writer
	state    *stateStore
	door     *Door
	ledger   *Ledger
	registry *Registry
	retained *retained
	tail     *tail
	own      *follower // of this node's messages log
	peers    *peers    // nil: there are none
	growth   *grower   // nil: the node is what its settings say; else it runs alone and becomes one of a cluster
	attempts attempts
	departed departed
	wills    pendingWills
	inbound  inboundIDs
	held     heldBack
	holds    holds
	sessions *sessions
	groupsMu sync.Mutex
	groups   map[string]*group // that this node owns
	shares   *shares
	conns    connSet
	buffers  bufferPool
	stats    Stats
	discards *discards
	tracer   *tracer
	drainer  *drainer
	cluster  clusterAdmin
	version  string
	sys      *sysTopics
	sysEvery time.Duration // $SYS
	began    time.Duration // monotonic

	dirty       dirtySet
	dirtyGroups sync.Map // *group → struct{}
	unsaved     sync.Map // topic of a retained message that the state store refused
	checked     vector   // what the newest checkpoint has; house only
	checkedAt   time.Duration
	generation  uint64

	ctx      context.Context // ends when the broker stops
	stop     context.CancelFunc
	tasks    tasks // house, group pumps
	notReady atomic.Pointer[error]
	again    chan error            // has room for one: why this life has to end
	full     atomic.Pointer[error] // the disk is, in a cluster
	damage   atomic.Pointer[error]
	loud     atomic.Int64 // second in which damage was last logged
	addrs    atomic.Pointer[[]net.Addr]
	doorway  atomic.Pointer[[]doorway]
	patience time.Duration              // of a CONNECT
	breath   breath                     // house only
	cert     atomic.Pointer[serverCert] // nil without TLS
}

// depart ends Run, because this node has left the cluster for good; err is what is wrong besides.
func (b *Broker) depart(err error) {
	select {
	case b.leaves <- err:
	default:
	}
}

// errStopping is why a broker that ends is not ready.
var errStopping = errors.New("the broker stops")

// diskReserve is what is left free on the disk: for compaction, checkpoints and the engine.
const diskReserve = 64 << 20

// New opens the store in cfg.Node.DataDir. It serves nobody until Run; a Broker that is not run
// must be closed.
func New(cfg Config, o Options) (*Broker, error) {
	b := &Broker{cfg: cfg, log: o.Log, mono: o.Now, wall: o.Wall, rand: o.Rand, ledger: NewLedger(cfg.Node.Name), retained: newRetained(),
		sessions: newSessions(), groups: map[string]*group{}, leaves: make(chan error, 1), again: make(chan error, 1), conns: connSet{m: map[*conn]struct{}{}}}
	b.defaults()
	b.holds.b = b
	b.shares = newShares(b)
	b.discards, b.tracer, b.drainer = newDiscards(b.wall), newTracer(b.cfg.Node.Name, b.wall), newDrainer(b)
	b.cluster, b.version = soloCluster{b}, o.Version
	b.reserve, b.every, b.check, b.sysEvery = diskReserve, houseEvery, checkEvery, sysEvery
	b.patience = connectPatience
	b.formats = formats{formatOldest, formatNow}
	if o.formats.now > 0 {
		b.formats = o.formats
	}
	b.sys, b.began = &sysTopics{b: b}, b.mono()
	if o.reserve != 0 {
		b.reserve = o.reserve
	}
	if o.Starting == nil {
		o.Starting = context.Background()
	}
	if o.hurry > 0 {
		b.every, b.check, b.sysEvery = o.hurry, o.hurry, o.hurry
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.unready(errors.New("the broker starts"))
	if err := b.chooseGrowth(); err != nil {
		return nil, err
	}
	begun := context.AfterFunc(o.Starting, b.stop)
	err := b.open(o)
	if !begun() {
		err = errors.Join(o.Starting.Err(), err)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Broker) defaults() {
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.mono == nil {
		start := time.Now()
		b.mono = func() time.Duration { return time.Since(start) }
	}
	if b.wall == nil {
		b.wall = time.Now
	}
	if b.rand == nil {
		b.rand = rand.Reader
	}
	if b.cfg.Node.Name == "" {
		b.cfg.Node.Name, _ = os.Hostname()
	}
}

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
	b.engine, err = openEngine(engineConfig{dir: dir, node: b.cfg.Node.Name, id: b.id.ID, syncAlways: b.cfg.Store.Sync != SyncInterval,
		reserve: b.reserve, cluster: b.cfg.Cluster, gate: o.gate}, b.log)
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
	if b.stream, err = b.engine.open(b.ctx, "messages", b.cfg.Store.engineBytes()); err != nil {
		return err
	}
	stateStream, err := b.engine.open(b.ctx, "state", stateMax)
	if err != nil {
		return err
	}
	for _, s := range []*logStream{b.stream, stateStream} {
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
	if b.registry, err = OpenRegistry(b.state, b.wall); err != nil {
		return err
	}
	b.state.watch(registryPrefix, b.reloadDevice)
	b.state.watch(sessionKey, b.claimed)
	b.state.watch(shareKey, b.shares.heardShare)
	b.state.watch(memberPrefix, b.noteLeavers)
	b.state.watch(checkPrefix, b.inbound.settled(b.state))
	b.door = NewDoor(b.cfg.Verify, b.registry, b.log)
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
		reopen: b.engine.reopen, mark: m.set, commit: commit, announce: b.engine.announcer(kind), why: b.engine.whyNot, wall: b.wall, mono: b.mono, log: b.log})
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
	}
	if err := b.knowsFormat(); err != nil {
		return err
	}
	from, err := b.restoreLedger()
	if err != nil { // everything can still be counted from what the log has
		b.damaged(0, fmt.Errorf("the ledger is rebuilt from the log; what was trimmed is not in it: %w", err))
		from = nil
	}
	b.state.w.start()
	if err := b.state.w.begin(b.ctx); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if !b.alone() {
		if err := b.joinAgain(b.ctx); err != nil {
			return err
		}
	}
	for _, restore := range []func() error{b.restoreRetained, b.restoreSessions} {
		if err := restore(); err != nil {
			return err
		}
	}
	if err := b.replay(b.ctx, from); err != nil {
		return err
	}
	for _, node := range append(others, b.cfg.Node.Name) {
		b.adoptWills(node)
	}
	b.messages.start()
	if err := b.messages.begin(b.ctx); err != nil {
		return fmt.Errorf("messages: %w", err)
	}
	b.background(b.own.run)
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
	for n := 0; ; n++ {
		err := fn()
		if err == nil {
			return nil
		}
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
	if err := b.registry.Reload(key[len(registryPrefix):], value); err != nil {
		b.log.Error("another node stored a gateway's keys and they cannot be read", "err", err)
	}
}

// openTail makes the tail of the messages logs; first is the first slot of the own one.
func (b *Broker) openTail(first uint64) {
	node, offset := b.cfg.Node.Name, b.messages.offset
	own := newTailLog(node, slotSource{b.stream, offset}, b.messages.number+1, first-min(first, offset))
	b.tail = newTail(own, b.damaged)
	b.tail.drop = func(name string, r *Record) { b.discards.one(discardNoRoom, name, r.Topic, Position{}) }
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
	f.more = b.tail.news
	f.lost = func(from, next uint64, err error) {
		if !errors.Is(err, errTrimmed) {
			b.damaged(from, fmt.Errorf("the log of node %q: %w", l.node, err))
		}
		b.tail.jump(l, next)
	}
	return f
}

// alone: there are no other nodes.
func (b *Broker) alone() bool { return b.cfg.Cluster == nil }

// Run serves clients until ctx ends, then stops in the order that loses nothing.
func (b *Broker) Run(ctx context.Context) error {
	defer b.Close()
	f, err := listen(ctx, b.cfg.Listen, func() bool { return len(NewConsole(b, "").Ready()) == 0 }, b)
	if err != nil {
		return err
	}
	b.opened(f)
	b.tasks.Go(func() { b.house(b.ctx) })
	b.notReady.Store(nil) // before the first client is served, or it would be refused
	if b.growth != nil {
		b.background(b.growth.run)
	}
	var serving sync.WaitGroup
	serving.Go(func() { f.serve(ctx, b.serve) })
	b.log.Info("ready", "node", b.cfg.Node.Name, "listeners", b.Addrs())

	err = b.untilEnd(ctx)
	b.unready(errStopping)
	f.close()
	serving.Wait()
	b.conns.endAll()
	return err
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
		err = b.messages.put(ctx, &Record{Kind: KindFence, Arrival: micros(b.wall()), At: Position{Node: b.cfg.Node.Name}})
	}
	if err != nil {
		b.log.Info("the log is left open: another node will close it", "err", err)
	}
}

func (b *Broker) opened(f *front) {
	var open []doorway
	for i, g := range f.gates {
		open = append(open, doorway{g.name, f.addrs[i], g.proxied})
	}
	b.doorway.Store(&open)
	b.addrs.Store(&f.addrs)
	b.cert.Store(f.cert)
}

// Reload reads the TLS certificate again. If its files cannot be used the old one stays, and the
// error says why. Nothing else of the settings changes while the broker runs.
func (b *Broker) Reload() error {
	if c := b.cert.Load(); c != nil {
		return c.reload()
	}
	return nil
}

// Addrs is where the broker listens for MQTT; empty until it does.
func (b *Broker) Addrs() []net.Addr {
	if p := b.addrs.Load(); p != nil {
		return *p
	}
	return nil
}

// takes says whether clients are taken: also while the disk is full, for subscribers make room
// by nothing but reading.
func (b *Broker) takes() error {
	if p := b.notReady.Load(); p != nil {
		return *p
	}
	if p := b.messages.dead.Load(); p != nil {
		return *p
	}
	if b.peers != nil {
		if p := b.peers.trouble.Load(); p != nil {
			return *p
		}
		if b.peers.members.paused() > pausedAfter {
			return errPaused
		}
	}
	return nil
}

// Ready says whether clients are taken and messages are stored, and if not why.
func (b *Broker) Ready() error {
	if err := b.drainer.refusal(); err != nil {
		return err
	}
	if err := b.takes(); err != nil {
		return err
	}
	if p := b.full.Load(); p != nil {
		return *p
	}
	if err := b.messages.failure(); err != nil {
		return err
	}
	return b.state.w.failure()
}

func (b *Broker) unready(err error) { b.notReady.Store(&err) }

// Ledger is the account of what gateways sent.
func (b *Broker) Ledger() *Ledger { return b.ledger }

// Registry is the gateways' keys.
func (b *Broker) Registry() *Registry { return b.registry }

// Tail calls fn for each message stored from now on, on any node, whose topic matches the filter,
// until ctx ends or fn returns an error. The record must not be changed.
func (b *Broker) Tail(ctx context.Context, filter string, fn func(*Record, Position) error) error {
	return b.tailFrom(ctx, b.tail.end(), filter, fn)
}

func (b *Broker) tailFrom(ctx context.Context, from vector, filter string, fn func(*Record, Position) error) error {
	for {
		if err := b.tail.wait(ctx, from); err != nil {
			return err
		}
		var lost error
		var err error
		from, err = b.tail.scan(ctx, from, func(_ cursor, _ uint64, err error) { lost = err },
			func(batch *Batch, _ cursor) error { return batch.matching(filter, fn) })
		if err == nil {
			err = lost
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
	}
}

// background runs fn in a goroutine that Close waits for.
func (b *Broker) background(fn func(context.Context)) { b.tasks.Go(func() { fn(b.ctx) }) }

func (b *Broker) random(n int) []byte {
	p := make([]byte, n)
	if _, err := io.ReadFull(b.rand, p); err != nil {
		panic("no randomness: " + err.Error()) // nothing that follows would be safe
	}
	return p
}

// damaged notes what cannot be read any more. The broker goes on with the rest: an outage would
// lose more.
func (b *Broker) damaged(number uint64, err error) {
	b.stats.DamagedBatches.Add(1)
	if b.damage.CompareAndSwap(nil, &err) || b.loud.Swap(int64(b.mono()/time.Second)) != int64(b.mono()/time.Second) {
		b.log.Error("the store is damaged: messages in this batch are lost; look for disk errors, and restore data_dir from a backup if there is one",
			"batch", number, "err", err)
	}
}

// Damage is the first damage to the store that was found since the start, or nil.
func (b *Broker) Damage() error {
	if p := b.damage.Load(); p != nil {
		return *p
	}
	return nil
}

func (b *Broker) newEpoch() uint64 { return binary.BigEndian.Uint64(b.random(8)) }
