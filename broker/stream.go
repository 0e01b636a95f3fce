package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// This file is the only one that knows nats-server and nats.go.

// Errors of the engine, for errors.Is.
var (
	errNoSlot    = errors.New("nothing is stored there")
	errTrimmed   = errors.New("it has been trimmed")
	errStoreFull = errors.New("the store is full")
	errEngine    = errors.New("the storage engine does not answer")
)

// engineConfig is what the storage engine needs to know.
type engineConfig struct {
	dir        string
	node       string
	syncAlways bool
	reserve    int64 // free bytes on the disk below which nothing more is written
}

// engine is an embedded nats-server that opens no port, and one connection into it.
type engine struct {
	cfg engineConfig
	log *slog.Logger

	mu  sync.RWMutex // guards srv, nc, js: reopen replaces them
	srv *server.Server
	nc  *nats.Conn
	js  jetstream.JetStream

	replies sync.Map // reply subject → chan sendResult
	token   atomic.Uint64
	inbox   string
}

const (
	engineMaxPayload = 8 << 20 // the longest batch; a packet is at most 1 MiB by default
	engineStart      = 60 * time.Second
	engineCall       = 10 * time.Second
)

func openEngine(cfg engineConfig, log *slog.Logger) (*engine, error) {
	e := &engine{cfg: cfg, log: log}
	if err := e.start(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *engine) start() error {
	srv, err := server.NewServer(&server.Options{
		ServerName:             "holdfast-" + hex.EncodeToString([]byte(e.cfg.node)),
		DontListen:             true, // in-process connections only: whoever may publish could damage the log
		NoSigs:                 true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               filepath.Join(e.cfg.dir, "jetstream"),
		JetStreamMaxStore:      1 << 62, // the limits are the streams'
		JetStreamMaxMemory:     64 << 20,
		SyncAlways:             e.cfg.syncAlways,
		SyncInterval:           time.Second, // the default of 2 minutes is what Jepsen lost messages with
		MaxPayload:             engineMaxPayload,
		MaxPending:             8 * engineMaxPayload,
	})
	if err != nil {
		return fmt.Errorf("configure the storage engine: %w", err)
	}
	srv.SetLoggerV2(engineLog{e.log}, false, false, false)
	srv.Start()
	if err := e.connect(srv); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return err
	}
	return nil
}

func (e *engine) connect(srv *server.Server) error {
	if !srv.ReadyForConnections(engineStart) {
		return fmt.Errorf("start the storage engine in %s: not ready after %s; its own log lines say why", e.cfg.dir, engineStart)
	}
	if !srv.JetStreamEnabled() {
		return fmt.Errorf("start the storage engine in %s: it refused its store; its own log lines say why", e.cfg.dir)
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return fmt.Errorf("connect to the storage engine: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(engineCall))
	if err == nil {
		e.inbox = nats.NewInbox()
		_, err = nc.Subscribe(e.inbox+".*", e.answered)
	}
	if err != nil {
		nc.Close()
		return fmt.Errorf("connect to the storage engine: %w", err)
	}
	e.mu.Lock()
	e.srv, e.nc, e.js = srv, nc, js
	e.mu.Unlock()
	return nil
}

func (e *engine) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.srv == nil {
		return
	}
	e.nc.Close()
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	e.srv = nil
	e.replies.Clear() // nobody will answer them
}

// reopen stops and starts the engine: after a write error its store takes nothing more until
// it has been read again.
func (e *engine) reopen() error {
	e.close()
	return e.start()
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

// room refuses to write where the disk has no room left. It looks before the engine does,
// because the engine's store is read-only after it has failed once.
func (e *engine) room() error { return e.roomAbove(e.cfg.reserve) }

// roomToBegin lets the first record of a run into the reserve: a broker that is started on a full
// disk must serve, or nothing ever makes room.
func (e *engine) roomToBegin() error { return e.roomAbove(e.cfg.reserve / 16) }

func (e *engine) roomAbove(reserve int64) error {
	free, err := freeBytes(e.cfg.dir)
	if err != nil {
		return fmt.Errorf("look for free space in %s: %w", e.cfg.dir, err)
	}
	if free < reserve {
		return fmt.Errorf("%w: %d bytes free on the disk of %s, %d are kept in reserve", errStoreFull, free, e.cfg.dir, reserve)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// sendResult is the engine's answer to one batch.
type sendResult struct {
	seq uint64
	err error
}

func (e *engine) answered(m *nats.Msg) {
	ch, ok := e.replies.LoadAndDelete(m.Subject)
	if !ok {
		return // an answer that nobody waits for any more
	}
	var ack struct {
		Seq   uint64 `json:"seq"`
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	r := sendResult{}
	switch err := json.Unmarshal(m.Data, &ack); {
	case m.Header.Get("Status") != "":
		r.err = fmt.Errorf("%w: status %s", errEngine, m.Header.Get("Status"))
	case err != nil:
		r.err = fmt.Errorf("%w: answer %q", errEngine, m.Data)
	case ack.Error != nil:
		r.err = fmt.Errorf("store refused a batch: %s (%d)", ack.Error.Description, ack.Error.Code)
	default:
		r.seq = ack.Seq
	}
	ch.(chan sendResult) <- r
}

// logStream is one of the node's two streams, seen as a row of numbered slots.
type logStream struct {
	e       *engine
	name    string
	subject string
}

// streamName: a node name may have characters that a stream name may not.
func streamName(kind, node string) string {
	return "HF_" + kind + "_" + hex.EncodeToString([]byte(node))
}

// has says whether the node's stream of that kind is there.
func (e *engine) has(ctx context.Context, kind string) (bool, error) {
	_, js, err := e.conn()
	if err != nil {
		return false, err
	}
	_, err = js.Stream(ctx, streamName(kind, e.cfg.node))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	return err == nil, err
}

// open creates the stream if it is not there.
func (e *engine) open(ctx context.Context, kind string, maxBytes int64) (*logStream, error) {
	_, js, err := e.conn()
	if err != nil {
		return nil, err
	}
	s := &logStream{e: e, name: streamName(kind, e.cfg.node)}
	s.subject = "hf." + s.name
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: s.name, Subjects: []string{s.subject}, Storage: jetstream.FileStorage, Replicas: 1,
		// Retention is ours: max_age would run on the wall clock, and max_bytes is a backstop.
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, MaxBytes: maxBytes, MaxAge: 0,
		Duplicates: 30 * time.Second, AllowDirect: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open stream %s in %s: %w", kind, e.cfg.dir, err)
	}
	return s, nil
}

// bounds returns the first and last used slot; last < first if it is empty.
func (s *logStream) bounds(ctx context.Context) (first, last uint64, bytes int64, err error) {
	_, js, err := s.e.conn()
	if err != nil {
		return 0, 0, 0, err
	}
	st, err := js.Stream(ctx, s.name)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("look at stream %s: %w", s.name, err)
	}
	state := st.CachedInfo().State
	return state.FirstSeq, state.LastSeq, int64(state.Bytes), nil
}

// send stores data in slot seq or not at all. The answer comes into the channel, which has room
// for it; it may never come.
func (s *logStream) send(seq uint64, id string, data []byte) (<-chan sendResult, error) {
	nc, _, err := s.e.conn()
	if err != nil {
		return nil, err
	}
	reply := s.e.inbox + "." + strconv.FormatUint(s.e.token.Add(1), 36)
	ch := make(chan sendResult, 1)
	s.e.replies.Store(reply, ch)
	err = nc.PublishMsg(&nats.Msg{Subject: s.subject, Reply: reply, Data: data, Header: nats.Header{
		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(seq-1, 10)},
		jetstream.MsgIDHeader:           {id},
	}})
	if err != nil {
		s.e.replies.Delete(reply)
		return nil, fmt.Errorf("send to the storage engine: %w", err)
	}
	return ch, nil
}

// read returns what slot seq holds: errNoSlot if nothing was ever stored there, errTrimmed if it
// is gone.
func (s *logStream) read(ctx context.Context, seq uint64) ([]byte, error) {
	nc, _, err := s.e.conn()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, engineCall)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+s.name, []byte(`{"seq":`+strconv.FormatUint(seq, 10)+`}`))
	if err != nil {
		return nil, fmt.Errorf("read slot %d of %s: %w", seq, s.name, err)
	}
	switch m.Header.Get("Status") {
	case "":
		return m.Data, nil
	case "404":
		first, _, _, err := s.bounds(ctx)
		if err == nil && seq < first {
			return nil, errTrimmed
		}
		return nil, errNoSlot
	}
	return nil, fmt.Errorf("read slot %d of %s: %w: %s %s", seq, s.name, errEngine, m.Header.Get("Status"), m.Header.Get("Description"))
}

// purge forgets every slot before seq.
func (s *logStream) purge(ctx context.Context, seq uint64) error {
	_, js, err := s.e.conn()
	if err != nil {
		return err
	}
	st, err := js.Stream(ctx, s.name)
	if err == nil {
		err = st.Purge(ctx, jetstream.WithPurgeSequence(seq))
	}
	if err != nil {
		return fmt.Errorf("purge stream %s below %d: %w", s.name, seq, err)
	}
	return nil
}

// engineLog hands the engine's own log lines on.
type engineLog struct{ log *slog.Logger }

func (l engineLog) Noticef(f string, v ...any) {
	l.log.Debug("storage engine: " + fmt.Sprintf(f, v...))
}
func (l engineLog) Warnf(f string, v ...any)  { l.log.Warn("storage engine: " + fmt.Sprintf(f, v...)) }
func (l engineLog) Fatalf(f string, v ...any) { l.log.Error("storage engine: " + fmt.Sprintf(f, v...)) }
func (l engineLog) Errorf(f string, v ...any) { l.log.Error("storage engine: " + fmt.Sprintf(f, v...)) }
func (l engineLog) Debugf(f string, v ...any) { l.log.Debug("storage engine: " + fmt.Sprintf(f, v...)) }
func (l engineLog) Tracef(string, ...any)     {}
