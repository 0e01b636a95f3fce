package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
)

// station runs one device: it starts the driver, starts it again when it gives up,
// and is the Sink that the driver emits into.
type station struct {
	cfg    DeviceConfig
	driver devices.Driver
	lane   *lane
	log    *slog.Logger
	due    func() // everything should be sealed now
	seed   uint64
	rooms  rooms
	line   func(name string) (devices.Line, error) // finds a line of the board
	// patience is how long an Emit waits for room before its readings are lost.
	patience time.Duration

	stop context.CancelFunc
	done chan struct{}
	ctx  context.Context // of the running driver; ends before done closes

	taking atomic.Int64 // since when (boot-monotonic, ns) a group is being journalled; 0: not

	emit  sync.Mutex // keeps the order of Take and put the same
	shape *shape     // nil: no rules; under emit

	mu       sync.Mutex
	status   DeviceStatus
	tags     map[string]string // of what is taken from now on
	counters map[string]uint64
	metrics  map[string]devices.Reading // the last of each: for status, and for what a failed driver leaves behind
	untold   bool                       // readings were lost and no subscriber knows yet
}

const (
	maxMetrics  = 256 // names remembered per device
	maxCounters = 256 // counters per device
)

// Restarts of a driver that gave up. One that ran for longer than the longest wait
// begins again with the shortest.
const (
	leastRestart   = time.Second
	longestRestart = time.Minute
)

func newStation(cfg DeviceConfig, driver devices.Driver, l *lane, due func()) *station {
	s := &station{
		cfg: cfg, driver: driver, lane: l, due: due,
		log:  l.log.With("device", cfg.Name, "driver", cfg.Driver),
		done: make(chan struct{}), patience: 2 * time.Second,
		tags:     cfg.Tags,
		counters: map[string]uint64{},
		metrics:  map[string]devices.Reading{},
		status:   DeviceStatus{Name: cfg.Name, Driver: cfg.Driver, State: StateRunning},
	}
	s.shape = newShape(cfg.Rules, s.Count)
	return s
}

// start runs the device until halt.
func (s *station) start(ctx context.Context) {
	s.ctx, s.stop = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		s.run(s.ctx)
	}()
}

// halt asks the device to stop; done is closed when it has.
func (s *station) halt() {
	s.set(func(d *DeviceStatus) { d.State = StateStopped })
	s.stop()
}

func (s *station) run(ctx context.Context) {
	wait := leastRestart
	for {
		began := s.lane.clock.Now()
		err := s.drive(ctx)
		if ctx.Err() != nil {
			return
		}
		s.gaveUp(err)
		if s.lane.clock.Now()-began > longestRestart {
			wait = leastRestart
		}
		select {
		case <-s.lane.clock.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, longestRestart)
		s.set(func(d *DeviceStatus) { d.State = StateRunning; d.Restarts++ })
	}
}

// drive makes the device and runs it. A panic of a driver ends that driver alone.
func (s *station) drive(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.set(func(d *DeviceStatus) { d.Panics++ })
			err = fmt.Errorf("driver panicked: %v", p)
			s.log.Error("driver panicked: this is a bug in the driver", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	dev, err := s.driver.New(s.cfg.Settings, devices.Env{Name: s.cfg.Name, Log: s.log, Clock: s.lane.clock, Seed: s.seed,
		StateDir: s.rooms.state, RuntimeDir: s.rooms.runtime,
		Heard: func(at devices.Instant, utc time.Time, bound time.Duration) {
			s.lane.keeper.hear(s.cfg.Name, at, utc, bound)
		}, Line: s.line})
	if err != nil {
		return err
	}
	err = dev.Run(ctx, s)
	s.finish()
	if err == nil {
		err = errors.New("driver ended without saying why")
	}
	return err
}

// finish sends what the windows under way came to.
func (s *station) finish() {
	s.emit.Lock()
	defer s.emit.Unlock()
	if s.shape != nil {
		s.send(s.valid(s.shape.flush()))
	}
}

// gaveUp reports a failed device as bad quality of all that it used to tell: silence
// would look like a value that does not change.
func (s *station) gaveUp(err error) {
	s.log.Error("device failed: started again later", "err", err)
	s.set(func(d *DeviceStatus) { d.State = StateFailed; d.Error = err.Error() })
	now := s.lane.clock.Now()
	var bad []devices.Reading
	s.mu.Lock()
	for m := range s.metrics {
		bad = append(bad, badReading(m, "driver-failed", now))
	}
	s.mu.Unlock()
	if len(bad) == 0 {
		bad = append(bad, badReading("device", "driver-failed", now))
	}
	s.emit.Lock()
	defer s.emit.Unlock()
	s.shape = newShape(s.cfg.Rules, s.Count) // what comes next is news
	s.send(s.valid(bad))
}

func badReading(metric, reason string, at time.Duration) devices.Reading {
	return devices.Reading{Metric: metric, Quality: devices.Bad, Reason: reason, At: at}
}

// Emit implements devices.Sink: it returns once the readings are journalled, or on
// the card if commit_interval is 0.
func (s *station) Emit(readings ...devices.Reading) {
	good := s.valid(readings)
	s.emit.Lock()
	defer s.emit.Unlock()
	if s.shape != nil {
		good = s.valid(s.shape.apply(good)) // names that a rule made may be too long
	}
	s.send(good)
}

// send takes readings as they are. emit is held.
func (s *station) send(good []devices.Reading) {
	for len(good) > 0 {
		n := s.chunk(good)
		s.take(good[:n:n])
		good = good[n:]
	}
}

// valid returns the readings that a message can carry, with the device filled in.
func (s *station) valid(readings []devices.Reading) []devices.Reading {
	good := make([]devices.Reading, 0, len(readings))
	for _, r := range readings {
		r.Device = s.cfg.Name
		if err := devices.Validate(r); err != nil {
			s.refuse(err)
			continue
		}
		good = append(good, r)
	}
	return good
}

func (s *station) refuse(err error) {
	s.mu.Lock()
	s.status.Invalid++
	n := s.status.Invalid
	s.mu.Unlock()
	if n&(n-1) == 0 { // the 1st, 2nd, 4th, 8th …: a driver at fault is at fault often
		s.log.Error("driver emitted an invalid reading: refused", "err", err, "so_far", n)
	}
}

// chunk returns how many readings of an Emit fit one message. They stay together
// unless they never could.
func (s *station) chunk(readings []devices.Reading) int {
	b := s.lane.tuning.Load().batch
	size := 0
	for i, r := range readings {
		size += len(r.Metric) + len(r.Unit) + len(r.Reason) + len(r.Value.Text) + len(r.Value.Bytes) + 24
		if i > 0 && (i >= b.Count || size > b.Bytes) {
			return i
		}
	}
	return len(readings)
}

// take journals one group and hands it on to be sealed.
func (s *station) take(readings []devices.Reading) {
	if !s.makeRoom(len(readings)) {
		return
	}
	readings = s.tellLoss(readings)
	g := group{boot: s.lane.clock.BootID(), taken: s.lane.keeper.now(), readings: readings, tags: s.tagged()}
	raw := appendGroup(nil, g)
	g.size = len(raw)
	s.taking.Store(int64(g.taken.at))
	due, err := s.lane.store.Take(s.cfg.Name, len(readings), raw)
	s.taking.Store(0)
	volatile := errors.Is(err, buffer.ErrVolatile)
	g.raw = err == nil || volatile
	if !g.raw {
		// Held by nobody but us: it can still be sealed and stored, or sent, soon.
		s.log.Error("reading not journalled: a crash now would lose it", "err", err)
	}
	s.account(readings)
	n := s.lane.put(g)
	if due {
		s.due()
	}
	if volatile || s.lane.tuning.Load().sync {
		s.lane.flush()
		s.lane.awaitSealed(s.ctx, n)
	}
}

// retag gives what is taken from now on other tags; the device notices nothing.
func (s *station) retag(tags map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags = tags
}

func (s *station) tagged() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags
}

// makeRoom waits a while for a lane that is full because nothing can be stored. What
// finds no room is lost: counted here, and told once there is room again.
func (s *station) makeRoom(n int) bool {
	if s.lane.hasRoom() {
		return true
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.patience)
	defer cancel()
	if s.lane.await(ctx, s.lane.room) {
		return true
	}
	s.mu.Lock()
	first := s.status.Lost == 0
	s.status.Lost += uint64(n)
	s.untold = true
	s.mu.Unlock()
	if first {
		s.log.Error("readings lost: neither memory nor card takes them; free space on data_dir")
	}
	return false
}

// tellLoss puts a bad reading in front of the first ones that found room again.
func (s *station) tellLoss(readings []devices.Reading) []devices.Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.untold {
		return readings
	}
	s.untold = false
	told := badReading("device", "readings-lost", readings[0].At)
	told.Device = s.cfg.Name
	return append([]devices.Reading{told}, readings...)
}

// account keeps what status shows of the readings just taken.
func (s *station) account(readings []devices.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.status
	d.Taken += uint64(len(readings))
	for _, r := range readings {
		if r.Quality == devices.Bad {
			d.Bad++
		}
		if _, known := s.metrics[r.Metric]; known || len(s.metrics) < maxMetrics {
			s.metrics[r.Metric] = brief(r)
		}
	}
	last := readings[len(readings)-1]
	d.Quality, d.Reason, d.LastAt = last.Quality.String(), last.Reason, last.At
}

// Hold implements devices.Sink.
func (s *station) Hold() bool {
	return s.lane.tuning.Load().block && s.lane.store.Full() || !s.lane.hasRoom()
}

// Count implements devices.Sink.
func (s *station) Count(counter string, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.counters[counter]; known || len(s.counters) < maxCounters {
		s.counters[counter] += n
	}
}

func (s *station) set(change func(*DeviceStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}

// snapshot returns the device's status.
func (s *station) snapshot() DeviceStatus {
	s.mu.Lock()
	d := s.status
	d.Counters, d.Tags = maps.Clone(s.counters), s.tags
	now := s.lane.clock.Now()
	for _, r := range s.metrics {
		d.Values = append(d.Values, valueStatus(r, now))
	}
	s.mu.Unlock()
	slices.SortFunc(d.Values, func(a, b ValueStatus) int { return strings.Compare(a.Metric, b.Metric) })
	if d.LastAt > 0 {
		d.LastAge = now - d.LastAt
	}
	d.Waiting = s.lane.waitingCount()
	d.Sealed, d.SealErrors = s.lane.sealed.Load(), s.lane.failed.Load()
	return d
}
