// Package agent is the gateway: the whole flow from device to uplink.
//
// It promises that a reading for which Emit returned is signed, stored and delivered,
// or reported as dropped; that one device in trouble costs the others nothing; and
// that no step of a wall clock reorders anything.
//
// It will not interpret what it carries: decoding is the drivers', storing the
// buffer's, sending the uplink's, and what a message means the subscriber's.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"holdfast/boards"
	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/devices/catalog"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// Options are what the outside hands to an agent. The zero value is for production;
// tests hand in other drivers, clocks and randomness.
type Options struct {
	Log       *slog.Logger              // nil: nothing is logged
	Drivers   map[string]devices.Driver // nil: the catalog
	Clock     Clock                     // nil: SystemClock
	Rand      io.Reader                 // nil: crypto/rand
	Version   string                    // shown in the status
	BuildTime string                    // RFC 3339; the present is never taken to be earlier
	Update    func() UpdateStatus       // nil: there are no updates
}

// Agent is one gateway. Make it with New, then Run it once.
type Agent struct {
	opt      Options
	log      *slog.Logger
	clock    Clock
	keeper   *timekeeper
	identity Identity
	board    string
	began    time.Duration

	buffer  *buffer.Buffer
	uplink  *uplink.Uplink
	sealer  *sealer
	control *control
	enrol   *enroller
	serving chan struct{}

	reload sync.Mutex // one Reload at a time

	mu       sync.Mutex
	cfg      Config
	stations map[string]*station
	lanes    map[string]*lane // also of devices that are gone: one lane per name, ever
	sealing  sync.WaitGroup   // one per lane
	running  context.Context  // of the devices; nil before Run and after it was asked to end
	hard     context.Context  // of sealing: it outlives running by a while
	stage    string           // what Run is doing, until it serves
}

// New opens the identity and the buffer and prepares the uplink. It sends nothing and
// takes no reading. An Agent that is not Run must be closed with Close.
func New(cfg Config, o Options) (*Agent, error) {
	a := &Agent{opt: withDefaults(o), serving: make(chan struct{}), stage: "not started", stations: map[string]*station{}, lanes: map[string]*lane{}}
	a.log, a.clock = a.opt.Log, a.opt.Clock
	if a.clock == nil {
		var err error
		if a.clock, err = SystemClock(); err != nil {
			return nil, err
		}
	}
	a.began = a.clock.Now()
	if err := a.checkConfig(cfg); err != nil {
		return nil, err
	}
	built, _ := time.Parse(time.RFC3339, o.BuildTime)
	a.keeper = newTimekeeper(a.clock, built)
	a.board = boards.SerialNumber("/")
	var err error
	if a.identity, err = OpenIdentity(cfg, a.opt.Rand); err != nil {
		return nil, err
	}
	a.cfg = a.complete(cfg)
	if err := a.openBuffer(); err != nil {
		return nil, err
	}
	others, err := settleName(a.cfg.DataDir, a.identity.Gateway, a.buffer.Opened())
	if err != nil {
		a.log.Error("the gateway's name is not noted", "err", err) // costs clarity after a renaming, no reading
	}
	a.uplink, err = uplink.New(a.cfg.Uplink, uplink.Options{
		Source: a.buffer, Open: openBlob, Log: a.log.With("part", "uplink"), Now: a.clock.Now, Wall: a.keeper.wall,
	})
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.sealer = &sealer{
		store: a.buffer, keeper: a.keeper, clock: a.clock, key: a.identity.Key, gateway: a.identity.Gateway,
		format: a.cfg.Format, log: a.log, signing: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	a.sealer.tuning.Store(a.cfg.tuning())
	a.control = newControl(a.sealer, a.buffer, a.identity, a.cfg, func() bool { return a.uplink.Status().Connected })
	a.control.others = others
	a.enrol = newEnroller(a)
	return a, nil
}

func withDefaults(o Options) Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Drivers == nil {
		o.Drivers = catalog.Drivers()
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o
}

// complete fills in what only this machine can know.
func (a *Agent) complete(cfg Config) Config {
	cfg.Buffer.DataDir, cfg.Buffer.MachineID = cfg.DataDir, a.board
	if cfg.Uplink.ClientID == "" {
		cfg.Uplink.ClientID = a.identity.Gateway
	}
	return cfg
}

// tuning is what the lanes need of a configuration.
func (c Config) tuning() *tuning {
	b := c.Batch
	// Signing and syncing take their time too: a batch that waited for all of
	// commit_interval would be late.
	b.Interval = min(b.Interval, c.Buffer.CommitInterval/2)
	b.Count, b.Bytes = max(b.Count, 1), max(b.Bytes, 1)
	return &tuning{batch: b, topic: c.Topic, block: c.Buffer.WhenFull == buffer.WhenFullBlock, sync: c.Buffer.CommitInterval == 0}
}

func (a *Agent) openBuffer() (err error) {
	if dir := a.cfg.Buffer.RuntimeDir; dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			a.log.Warn("runtime_dir cannot be made: the journal is kept on the card", "err", err)
		}
	}
	a.buffer, err = buffer.Open(a.cfg.Buffer, bufferEnv(a.log.With("part", "buffer"), a.clock, a.keeper.wall, a.identity, a.opt.Rand))
	if err != nil {
		return fmt.Errorf("buffer: %w", err)
	}
	a.keeper.raise(a.buffer.LastWall())
	return nil
}

// bufferEnv is what the buffer needs of the world.
func bufferEnv(log *slog.Logger, clock Clock, wall func() time.Time, id Identity, random io.Reader) buffer.Env {
	return buffer.Env{
		Log: log, Now: clock.Now, Wall: wall, BootID: clock.BootID(), Rand: random,
		KeyID: id.Gateway + "/" + id.Key.Kid(), // another name needs new numbers as another key does
	}
}

// openBlob makes of what the buffer holds what the uplink publishes.
func openBlob(blob []byte) (uplink.Message, error) {
	m, err := wire.ParseEnvelope(blob)
	if err != nil {
		return uplink.Message{}, err
	}
	out := uplink.Message{Topic: m.Topic, ContentType: m.ContentType, Payload: m.Payload}
	if m.JWS != "" {
		out.UserProperties = [][2]string{{wire.PropertyJWS, m.JWS}}
	}
	return out, nil
}

// Run takes readings and delivers them until ctx ends; then it stops the devices,
// seals what they gave, commits it and returns, within 5 s. It returns nil then; if
// something does not answer, a card that hangs above all, the error says what was not done.
func (a *Agent) Run(ctx context.Context) error {
	hard, abandon := context.WithCancel(context.Background())
	defer abandon()
	running, stopAll := context.WithCancel(ctx)
	defer stopAll()

	sending, stopSending := context.WithCancel(hard)
	defer stopSending()
	var err, lineErr error
	sent := goRun(func() { lineErr = a.uplink.Run(sending) })
	enrolled := goRun(func() { a.enrol.run(running) })
	begun := a.begin(running, hard)
	talked := goRun(func() { a.control.run(running) })
	if begun {
		a.startDevices(running, hard)
		close(a.serving)
		select {
		case <-ctx.Done():
		case <-sent: // no outage makes it return
			err = errors.New("the uplink ended by itself")
		}
	}

	a.setStage("stopping")
	ending, cancel := context.WithTimeout(context.Background(), stopWhole)
	defer cancel()
	stopAll()
	a.stopDevices()
	late := a.finishSealing(abandon)
	late = errors.Join(late, inTime("control messages", talked, stopTalking), inTime("enrolment", enrolled, stopTalking))
	stopSending()
	if slow := inTime("the uplink", sent, stopUplink); slow != nil {
		late = errors.Join(late, slow)
	} else {
		err = errors.Join(err, lineErr)
	}
	return errors.Join(err, late, a.close(ending))
}

// goRun runs f in the background; the channel is closed when it has returned.
func goRun(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	return done
}

// Close gives up an Agent that was never Run.
func (a *Agent) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWhole)
	defer cancel()
	return a.close(ctx)
}

// close commits and closes the buffer.
func (a *Agent) close(ctx context.Context) error {
	if err := a.buffer.Close(ctx); err != nil && !errors.Is(err, buffer.ErrClosed) {
		return fmt.Errorf("close buffer: %w", err)
	}
	return nil
}

// Serving is closed once Run takes readings.
func (a *Agent) Serving() <-chan struct{} { return a.serving }

func (a *Agent) setStage(s string) {
	a.mu.Lock()
	a.stage = s
	a.mu.Unlock()
}
