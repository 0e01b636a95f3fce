package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The files engine*.go, stream*.go, ring.go and bus.go are the only ones that know nats-server and nats.go.

// Errors of the engine, for errors.Is.
var (
	errNoSlot    = errors.New("nothing is stored there")
	errTrimmed   = errors.New("it has been trimmed")
	errStoreFull = errors.New("the store is full")
	errEngine    = errors.New("the storage engine does not answer")
	errNoQuorum  = errors.New("no quorum")
)

// engineConfig is what the storage engine needs to know.
type engineConfig struct {
	dir        string
	node       string
	id         string // of the node's store: with the name it makes the node's name among the engines of a cluster
	syncAlways bool
	reserve    int64          // free bytes on the disk below which nothing more is written
	cluster    *ClusterConfig // nil: one node
	gate       func()         // for tests; may be nil
	waits      func(error)    // told what a start waits for; may be nil
	storeless  bool           // only the bus: it keeps nothing, and does not vote

	doubt func(stream string) error // why what cannot be read from a stream may not count as lost; may be nil
}

// engine is an embedded nats-server and one connection into it. No client can reach it: it opens
// no port, or in a cluster the one for the other nodes' engines.
type engine struct {
	cfg engineConfig
	log *slog.Logger

	mu  sync.RWMutex // guards what reopen replaces
	srv *server.Server
	nc  *nats.Conn
	js  jetstream.JetStream
	sys *nats.Conn // in a cluster: the system account

	replies sync.Map // reply subject → chan sendResult
	token   atomic.Uint64
	inbox   string

	leavers atomic.Pointer[map[string]string] // nodes that are about to leave, or have left, with the id of their store

	sizeMu  sync.Mutex
	sized   int // nodes, as of sizedAt
	sizedAt time.Time

	probes probes // of nodes that owe answers

	busMu   sync.Mutex
	subs    map[*busSub]struct{}
	busLost map[string]uint64 // dropped by subscriptions that have ended, by queue
	unsent  atomic.Uint64     // messages for other nodes that could not be sent
}

const (
	engineMaxPayload = 8 << 20 // the longest batch; a packet is at most 1 MiB by default
	engineStart      = 60 * time.Second
	engineLook       = 100 * time.Millisecond // how soon a start that failed is noticed
	engineCall       = 10 * time.Second
	clusterCall      = 2 * time.Second // a hung node must not hold up what another can answer
)

func openEngine(cfg engineConfig, log *slog.Logger) (*engine, error) {
	e := &engine{cfg: cfg, log: log, subs: map[*busSub]struct{}{}, busLost: map[string]uint64{}}
	e.probes.ask = func(ctx context.Context, node string) error {
		_, err := e.request(ctx, hereSubject(node), nil)
		return err
	}
	if err := e.start(); err != nil {
		return nil, err
	}
	return e, nil
}

// gate lets a test make the node stand still.
func (e *engine) gate() {
	if e.cfg.gate != nil {
		e.cfg.gate()
	}
}

// waits says why what is being started has to wait.
func (e *engine) waits(why error) {
	if e.cfg.waits != nil {
		e.cfg.waits(why)
	}
}

func (e *engine) clustered() bool { return e.cfg.cluster != nil }

// call is how long one question to the engine may take.
func (e *engine) call() time.Duration {
	if e.clustered() {
		return clusterCall
	}
	return engineCall
}

func (e *engine) start() error {
	o := e.options()
	password := rand.Text() // of the system account; it never leaves the process
	if e.clustered() {
		if err := e.join(o, password); err != nil {
			return err
		}
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("configure the storage engine: %w", err)
	}
	log := newEngineLog(e.log, e.cfg.doubt)
	srv.SetLoggerV2(log, false, false, false)
	srv.Start()
	err = e.await(srv, log)
	if err == nil {
		err = e.connect(srv, password)
	}
	if err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return err
	}
	return nil
}

func (e *engine) options() *server.Options {
	return &server.Options{
		ServerName:             e.serverName(),
		DontListen:             true, // in-process connections only: whoever may publish could damage the log
		NoSigs:                 true,
		JetStream:              !e.cfg.storeless,
		DisableJetStreamBanner: true,
		StoreDir:               filepath.Join(e.cfg.dir, "jetstream"),
		JetStreamMaxStore:      1 << 62, // the limits are the streams'
		JetStreamMaxMemory:     64 << 20,
		SyncAlways:             e.cfg.syncAlways,
		SyncInterval:           time.Second, // the default of 2 minutes is what Jepsen lost messages with
		MaxPayload:             engineMaxPayload,
		MaxPending:             8 * engineMaxPayload,
		AuthTimeout:            engineStart.Seconds(), // of connections within this process: a machine that stands still is no intruder
	}
}

// await returns once the engine takes connections, or has said why it never will.
func (e *engine) await(srv *server.Server, log *engineLog) error {
	for end := time.Now().Add(engineStart); !srv.ReadyForConnections(engineLook); {
		if err := log.failure(); err != nil {
			return fmt.Errorf("start the storage engine in %s: %w", e.cfg.dir, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("start the storage engine in %s: not ready after %s; its own log lines say why", e.cfg.dir, engineStart)
		}
	}
	log.began()
	if !srv.JetStreamEnabled() && !e.cfg.storeless {
		return fmt.Errorf("start the storage engine in %s: it refused its store; its own log lines say why", e.cfg.dir)
	}
	return nil
}

func (e *engine) connect(srv *server.Server, password string) error {
	user := ""
	if e.clustered() {
		user = plainUser
	}
	nc, err := e.dial(srv, user, password)
	if err != nil {
		return err
	}
	var sys *nats.Conn
	if e.clustered() {
		if sys, err = e.dial(srv, systemUser, password); err != nil {
			nc.Close()
			return err
		}
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(e.call()))
	if err == nil {
		e.inbox = nats.NewInbox()
		_, err = nc.Subscribe(e.inbox+".*", e.answered)
	}
	if err == nil {
		_, err = nc.Subscribe(hereSubject(e.cfg.node), func(m *nats.Msg) { _ = m.Respond(nil) }) // fails only while the engine ends
	}
	if err == nil {
		err = e.resubscribe(nc)
	}
	if err != nil {
		nc.Close()
		if sys != nil {
			sys.Close()
		}
		return fmt.Errorf("connect to the storage engine: %w", err)
	}
	e.mu.Lock()
	e.srv, e.nc, e.js, e.sys = srv, nc, js, sys
	e.mu.Unlock()
	return nil
}

func (e *engine) dial(srv *server.Server, user, password string) (*nats.Conn, error) {
	o := []nats.Option{nats.InProcessServer(srv), nats.Timeout(engineStart), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) { // dropped messages, which are counted
			if s != nil {
				e.log.Debug("the bus is too slow", "subject", s.Subject, "err", err)
			}
		})}
	if user != "" {
		o = append(o, nats.UserInfo(user, password))
	}
	nc, err := nats.Connect("", o...)
	if err != nil {
		return nil, fmt.Errorf("connect to the storage engine: %w", err)
	}
	return nc, nil
}

func (e *engine) close() {
	e.handOver()
	defer e.probes.end() // when there is no connection any more
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.srv == nil {
		return
	}
	e.nc.Close()
	if e.sys != nil {
		e.sys.Close()
	}
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	e.srv = nil
	e.replies.Clear() // nobody will answer them
}

// reopen stops and starts the engine: after a write error its store takes nothing more until
// it has been read again. In a cluster the guard sees to it, and silence usually means that others are gone.
func (e *engine) reopen() error {
	if e.clustered() {
		return nil
	}
	e.close()
	return e.start()
}

// server is the present server, or nil.
func (e *engine) server() *server.Server {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.srv
}

// conn returns the present connection, or errEngine.
func (e *engine) conn() (*nats.Conn, jetstream.JetStream, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.srv == nil {
		return nil, nil, errEngine
	}
	return e.nc, e.js, nil
}

// ask sends one request and waits for the answer, no longer than call.
func (e *engine) ask(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	nc, _, err := e.conn()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.call())
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, data)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("%w: %w", errEngine, err)
	}
	return m, err
}
