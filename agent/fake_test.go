package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/uplink/wire"
)

// fakeClock is a Clock that a test moves by hand, the wall apart from the boot clock.
type fakeClock struct {
	*drivertest.Clock
	mu     sync.Mutex
	offset time.Time // what the wall says at boot
	synced bool
	bound  time.Duration
	boot   string
}

func newFakeClock() *fakeClock {
	return &fakeClock{
		Clock: drivertest.NewClock(), boot: "5c1a2b3c-0000-4000-8000-000000000001", synced: true, bound: 20 * time.Millisecond,
		offset: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC),
	}
}

func (c *fakeClock) System() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset.Add(c.Now())
}

func (c *fakeClock) Synced() (bool, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced, c.bound
}

func (c *fakeClock) BootID() string { return c.boot }

// step moves the wall alone; settimeofday(2) also makes the kernel forget its discipline.
func (c *fakeClock) step(by time.Duration, synced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.synced = c.offset.Add(by), synced
}

// sealed is a message that arrived in the fake store.
type sealed struct {
	wire.Verified
	wire.Pack
	meta buffer.Meta
}

// fakeStore is a buffer that checks what it is given and can be told to fail.
type fakeStore struct {
	t    testing.TB
	keys oneKey

	mu       sync.Mutex
	takes    map[string]int // records taken, by device, and not replaced yet
	numbers  map[string]buffer.Numbers
	messages []sealed
	appendTo error // what Append says
	takeTo   error // what Take says
	full     bool
	dueAt    int // Take says due at this many readings
	readings int
	arrived  chan struct{} // closed and replaced at each message
	drops    []buffer.Drop
	drained  []buffer.EpochEnd
	opened   buffer.Opening
	acked    bool // everything appended counts as acknowledged
}

type oneKey struct{ key wire.PublicKey }

func (k oneKey) Key(gateway, kid string) (wire.PublicKey, error) {
	if kid != k.key.Kid() {
		return wire.PublicKey{}, wire.ErrUnknownKey
	}
	return k.key, nil
}

const testEpoch = "00112233445566ff"

func newFakeStore(t testing.TB, key *wire.PrivateKey) *fakeStore {
	return &fakeStore{
		t: t, keys: oneKey{key.Public()}, takes: map[string]int{}, numbers: map[string]buffer.Numbers{},
		arrived: make(chan struct{}), opened: buffer.Opening{Epoch: testEpoch},
	}
}

func (f *fakeStore) Take(device string, readings int, raw []byte) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.takeTo != nil && !errors.Is(f.takeTo, buffer.ErrVolatile) {
		return false, f.takeTo
	}
	if g, err := parseGroup(device, raw); err != nil || len(g.readings) != readings {
		f.t.Errorf("Take(%s, %d): %v", device, readings, err)
	}
	f.takes[device]++
	f.readings += readings
	if f.dueAt > 0 && f.readings >= f.dueAt {
		f.readings = 0
		return true, f.takeTo
	}
	return f.takeTo != nil, f.takeTo
}

func (f *fakeStore) Next(device string, readings int) (buffer.Number, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.numbers[device]
	return buffer.Number{Epoch: testEpoch, Seq: n.Seq + 1, Total: n.Total + uint64(readings), Floor: 1}, nil
}

func (f *fakeStore) Append(_ context.Context, num buffer.Number, meta buffer.Meta, blob []byte) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.appendTo != nil {
		return 0, f.appendTo
	}
	m, err := wire.ParseEnvelope(blob)
	if err != nil {
		f.t.Errorf("envelope: %v", err)
	}
	v, err := wire.Verify(m, f.keys)
	if err != nil {
		f.t.Errorf("verify: %v", err)
	}
	p, err := wire.Decode(m)
	if err != nil {
		f.t.Errorf("decode: %v", err)
	}
	last := f.numbers[meta.Device]
	if num.Seq != last.Seq+1 || v.Seq != num.Seq || v.Total != last.Total+uint64(meta.Readings) || meta.Device != v.Device {
		f.t.Errorf("number %+v after %+v, header %+v, meta %+v", num, last, v.Header, meta)
	}
	if f.takes[meta.Device] -= meta.Raws; f.takes[meta.Device] < 0 {
		f.t.Errorf("%s: more raw records replaced than taken", meta.Device)
	}
	f.numbers[meta.Device] = buffer.Numbers{Seq: num.Seq, Total: num.Total}
	f.messages = append(f.messages, sealed{v, p, meta})
	if len(meta.Receipts) > 0 {
		f.drops = nil
	}
	if meta.Closes != "" {
		f.drained = f.drained[1:]
	}
	close(f.arrived)
	f.arrived = make(chan struct{})
	return uint64(len(f.messages)), nil
}

func (f *fakeStore) Full() bool                 { f.mu.Lock(); defer f.mu.Unlock(); return f.full }
func (f *fakeStore) Opened() buffer.Opening     { return f.opened }
func (f *fakeStore) Drops() []buffer.Drop       { f.mu.Lock(); defer f.mu.Unlock(); return f.drops }
func (f *fakeStore) Drained() []buffer.EpochEnd { f.mu.Lock(); defer f.mu.Unlock(); return f.drained }
func (f *fakeStore) Announced() bool            { f.mu.Lock(); defer f.mu.Unlock(); return f.acked }

func (f *fakeStore) fail(take, app error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeTo, f.appendTo = take, app
}

// wait returns the messages once there are n.
func (f *fakeStore) wait(n int) []sealed {
	f.t.Helper()
	limit := time.After(patience)
	for {
		f.mu.Lock()
		got, arrived := f.messages, f.arrived
		f.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-arrived:
		case <-limit:
			f.t.Fatalf("%d messages arrived, want %d", len(got), n)
		}
	}
}

// rig is a sealer over a fake store and a fake clock.
type rig struct {
	*sealer
	t     testing.TB
	clock *fakeClock
	store *fakeStore
	logs  *logbook
}

func newRig(t testing.TB, format wire.Format, batch Batch) *rig {
	t.Helper()
	key, err := wire.GenerateKey(wire.Ed25519, rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, clock: newFakeClock(), store: newFakeStore(t, key), logs: &logbook{}}
	r.sealer = &sealer{
		store: r.store, keeper: newTimekeeper(r.clock, time.Time{}), clock: r.clock, key: key, gateway: "gw",
		format: format, log: slog.New(slog.NewTextHandler(r.logs, nil)), signing: make(chan struct{}, 1),
	}
	r.tuning.Store(&tuning{batch: batch, topic: "gw/{gateway}/{device}"})
	return r
}

// logbook holds what was logged; it may be read while others write.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}
func (l *logbook) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.text.String() }

// lane starts a lane that ends with the test.
func (r *rig) lane(device string) *lane {
	l := newLane(r.sealer, device)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	return l
}

// station starts a device that does what script says; it ends with the test.
func (r *rig) station(device string, script func(ctx context.Context, sink devices.Sink) error) *station {
	l := r.lane(device)
	s := newStation(DeviceConfig{Name: device, Driver: "script"}, scriptDriver{script}, l, func() { l.flush() })
	s.start(context.Background())
	r.t.Cleanup(func() { s.halt(); <-s.done })
	return s
}

// scriptDriver is a driver whose devices run a function.
type scriptDriver struct {
	run func(ctx context.Context, sink devices.Sink) error
}

type noSettings struct{}

func (*noSettings) Check() []devices.Problem { return nil }

type scriptDevice scriptDriver

func (d scriptDriver) Settings() devices.Settings { return &noSettings{} }
func (d scriptDriver) New(devices.Settings, devices.Env) (devices.Device, error) {
	return scriptDevice(d), nil
}
func (d scriptDevice) Run(ctx context.Context, sink devices.Sink) error { return d.run(ctx, sink) }

// idle emits nothing.
func idle(ctx context.Context, _ devices.Sink) error { <-ctx.Done(); return ctx.Err() }

func (r *rig) reading(n int) devices.Reading {
	return devices.Reading{Metric: "n", Value: devices.Number(float64(n)), At: r.clock.Now()}
}

// advance moves the clock once the code under test waits for it.
func (r *rig) advance(d time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !r.clock.WaitTimer(ctx, d) {
		r.t.Fatalf("nothing waits for %v", d)
	}
	r.clock.Advance(d)
}

// values returns the numbers of all data messages of a device, in order.
func values(messages []sealed, device string) (out []float64) {
	for _, m := range messages {
		if m.Verified.Device != device {
			continue
		}
		for _, rec := range m.Records {
			if rec.V != nil {
				out = append(out, *rec.V)
			}
		}
	}
	return out
}

func inOrder(values []float64, n int) error {
	if len(values) != n {
		return fmt.Errorf("%d values, want %d: %v", len(values), n, values)
	}
	for i, v := range values {
		if v != float64(i) {
			return fmt.Errorf("value %d is %v", i, v)
		}
	}
	return nil
}
