// Package broker is the broker node: an MQTT 5 and 3.1.1 broker whose queue is a log on disk.
//
// # What it is
//
// A PUBLISH is framed and decoded (broker/listen, conn.go, the pure codec in broker/mqtt), verified
// at the door (broker/door), offered to the ledger (ingest.go, broker/ledger), packed with what else is
// waiting into one batch (log.go, writer.go), stored and synced by an embedded JetStream on a
// quorum of the nodes (stream.go), and only then acknowledged. A session is a cursor into that log plus its
// subscriptions (session.go, feed.go, deliver.go).
//
// # What it promises
//
//   - A PUBACK or PUBREC with success means: on disk on a quorum, synced ([store] sync = "always").
//   - What was acknowledged survives kill -9 and a power cut of the node.
//   - Per publisher and topic, QoS 1 and 2 messages are delivered in the order they were sent.
//   - A slow or absent subscriber with a session falls behind on the log; nothing is dropped for
//     it before retention trims the log, and then the gap is counted.
//   - A bad packet ends its connection, never the process.
//
// # What it will not do
//
// It does not keep QoS 0 for those who are away or too slow. It does not order messages by any
// wall clock. How several nodes are one broker is in docs/CLUSTER.md.
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
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/ledger"
	"holdfast/broker/limitlog"
	"holdfast/broker/limits"
	"holdfast/broker/listen"
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
	// Starts is told what New does or waits for, in words, at each change. It must not block. nil: nobody asks.
	Starts func(doing string)

	// For tests.
	formats formats       // what the program knows
	reserve int64         // free bytes to leave on the disk, instead of diskReserve
	hurry   time.Duration // house, checkpoints and $SYS this often
	gate    func()        // called before anything is sent to or taken from the other nodes; it may wait
}

// Broker is one node.
type Broker struct {
	cfg    Config
	log    *slog.Logger
	mono   func() time.Duration
	wall   func() time.Time // for people; what has to last is measured with steady
	steady *steadyClock
	rand   io.Reader

	id      nodeID
	formats formats
	founded atomic.Bool // id.Founded, for other goroutines

	founders atomic.Pointer[[]string] // the stores with which this node founded the cluster in this life
	reserve  int64
	every    time.Duration // house
	check    time.Duration // checkpoints
	marks    []*mark

	leaves    chan error // this node has left the cluster
	switching bool       // Close ends with what makes this node one of a cluster

	engine   *engine
	stream   *logStream // messages
	messages *writer
	state    *stateStore
	door     *door.Door
	access   *access // nil: there is no [[auth]]
	enrol    *enrolment
	ledger   *ledger.Ledger
	registry *door.Registry
	retained *retained
	tail     *tail
	own      *follower // of this node's messages log
	peers    *peers    // nil: there are none
	growth   *grower   // nil: the node is what its settings say; else it runs alone and becomes one of a cluster
	attempts attempts
	departed departed
	ranks    ranks
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
	trimLooked  trimLook // house only
	generation  uint64

	starting starting
	ctx      context.Context // ends when the broker stops
	stop     context.CancelFunc
	tasks    tasks // house, group pumps
	notReady atomic.Pointer[error]
	again    chan error  // has room for one: why this life has to end
	opening  atomic.Bool // New has not returned
	disk     disk
	full     atomic.Pointer[error] // the disk is, in a cluster
	damage   atomic.Pointer[error]
	loud     atomic.Int64 // second in which damage was last logged
	addrs    atomic.Pointer[[]net.Addr]
	estAddr  atomic.Pointer[net.Addr] // where gateways enrol; nil: nowhere
	doorway  atomic.Pointer[[]listen.Doorway]
	patience time.Duration // of a CONNECT
	breath   breath        // house only
	limits   *limits.Limits
	logins   *limits.Logins
	penalty  limits.Waiters
	ends     *limitlog.Log // says how connections ended that never became clients
	book     atomic.Pointer[limits.AddressBook]
	files    atomic.Pointer[listen.TLSFiles] // nil without TLS
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
	b := &Broker{cfg: cfg, log: o.Log, mono: o.Now, wall: o.Wall, rand: o.Rand, ledger: ledger.New(cfg.Node.Name), retained: newRetained(),
		sessions: newSessions(), groups: map[string]*group{}, leaves: make(chan error, 1), again: make(chan error, 1), conns: connSet{m: map[*conn]struct{}{}}}
	b.defaults()
	b.holds.b = b
	b.limits, b.penalty.Most = limits.New(b.cfg.Limits, &b.stats.Limits, limits.Env{Log: b.log, Mono: b.mono, Wall: b.wall, Rand: b.random}), maxPenalties
	b.logins = limits.NewLogins(b.limits)
	b.ends = limitlog.New(b.log, b.wall)
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
	b.starting = starting{b: b, tell: o.Starts}
	b.starting.begin("look at data_dir")
	if err := b.chooseGrowth(); err != nil {
		return nil, err
	}
	begun := context.AfterFunc(o.Starting, b.stop)
	b.opening.Store(true)
	err := b.open(o)
	b.opening.Store(false)
	if bad := b.disk.bad.Load(); bad != nil && err != nil {
		err = fmt.Errorf("%w: %w", ErrAgain, *bad)
	}
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
	b.steady = newClock(b.wall, b.mono)
	if b.cfg.Node.Name == "" {
		b.cfg.Node.Name, _ = os.Hostname()
	}
}

// alone: there are no other nodes.
func (b *Broker) alone() bool { return b.cfg.Cluster == nil }

// Reload reads the TLS certificate and the clients' CAs again. If their files cannot be used the old one stays, and the
// error says why. Nothing else of the settings changes while the broker runs.
func (b *Broker) Reload() error {
	if f := b.files.Load(); f != nil {
		return f.Reload()
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
		// It stands still, or has only just gone on: what it knows of the beats is from before.
		if b.peers.members.paused() > pausedAfter || b.peers.looked.Load() != b.peers.members.resumed() {
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
func (b *Broker) Ledger() *ledger.Ledger { return b.ledger }

// Registry is the gateways' keys.
func (b *Broker) Registry() *door.Registry { return b.registry }

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
