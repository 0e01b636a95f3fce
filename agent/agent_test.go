package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/serial"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// testConfig is a small configuration on a real tmpfs.
func testConfig(t testing.TB, server string) Config {
	t.Helper()
	run, err := os.MkdirTemp("/dev/shm", "holdfast-test")
	if err != nil {
		t.Fatalf("these tests need a tmpfs at /dev/shm: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	return Config{
		GatewayID: "gw-1", DataDir: t.TempDir(), Algorithm: wire.Ed25519, KeyFile: "identity.pem", Format: wire.JSON,
		Batch:  Batch{Interval: 20 * time.Millisecond, Count: 20, Bytes: 32 << 10},
		Buffer: buffer.Config{RuntimeDir: run, MaxBytes: 64 << 20, CommitInterval: time.Second, CommitCount: 64},
		Uplink: uplink.Config{Servers: []string{"mqtt://" + server}},
		Topic:  "gw/{gateway}/{device}",
	}
}

// serialDevice is a serial-line device that reads lines such as "n=1 w=2.5".
func serialDevice(t testing.TB, name, port string) DeviceConfig {
	t.Helper()
	s := serial.Driver{}.Settings().(*serial.Settings)
	s.Port, s.Pattern = port, `^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$`
	for _, p := range s.Check() {
		if !p.Warning {
			t.Fatal(p)
		}
	}
	return DeviceConfig{Name: name, Driver: "serial-line", Settings: s}
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("HOLDFAST_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
}

// running is an agent whose Run goes on until stop.
type running struct {
	*Agent
	t      testing.TB
	cancel context.CancelFunc
	ended  chan error
}

func start(t testing.TB, cfg Config, o Options) *running {
	t.Helper()
	if o.Log == nil {
		o.Log = testLog(t)
	}
	a, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{a, t, cancel, make(chan error, 1)}
	go func() { r.ended <- a.Run(ctx) }()
	t.Cleanup(r.stop)
	select {
	case <-a.Serving():
	case <-time.After(patience):
		t.Fatalf("not serving: %v", a.Ready())
	}
	return r
}

func (r *running) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		r.t.Error("Run did not end")
	}
}

// counter is a driver that emits 0, 1, 2 … as fast as its test lets it.
type counter struct {
	limit int
	ticks chan struct{} // one per reading; nil: at once
	next  int
}

func (c *counter) run(ctx context.Context, sink devices.Sink) error {
	for c.next < c.limit {
		if c.ticks != nil {
			select {
			case <-c.ticks:
			case <-ctx.Done():
				return ctx.Err()
			}
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
		awaitRoom(ctx, sink)
		sink.Emit(devices.Reading{Metric: "n", Value: devices.Number(float64(c.next)), At: devices.BootClock().Now()})
		c.next++
	}
	<-ctx.Done()
	return ctx.Err()
}

// awaitRoom waits as a driver does that need not drop anything: on a slow card, Emit alone would wait for two seconds
// and then count its readings as lost.
func awaitRoom(ctx context.Context, sink devices.Sink) {
	for sink.Hold() && ctx.Err() == nil {
		<-time.After(time.Millisecond)
	}
}

func scripted(run func(context.Context, devices.Sink) error) map[string]devices.Driver {
	return map[string]devices.Driver{"script": scriptDriver{run}}
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// TestThinPath: bytes on a serial line arrive, verified, at a subscriber.
func TestThinPath(t *testing.T) {
	for _, format := range []wire.Format{wire.JSON, wire.CBOR} {
		for _, alg := range []string{wire.Ed25519, wire.HMACSHA256} {
			t.Run(fmt.Sprint(format, alg), func(t *testing.T) {
				addr := mosquitto(t)
				keys := &anyKey{}
				sub := subscribe(t, addr, keys)
				line := drivertest.NewLine(t)
				cfg := testConfig(t, addr)
				cfg.Format, cfg.Algorithm = format, alg
				cfg.Devices = []DeviceConfig{serialDevice(t, "scale", line.Path)}
				id, err := OpenIdentity(cfg, nil)
				if err != nil {
					t.Fatal(err)
				}
				keys.trust(id.Key.Public())
				a := start(t, cfg, Options{})
				for i := range 50 {
					line.Send(fmt.Sprintf("n=%d w=%d.5\n", i, i))
				}
				eventually(t, "50 lines arrive", func() bool { return len(sub.numbers(t, "scale")) == 50 })
				if got := sub.numbers(t, "scale"); !slices.Equal(got, upTo(50)) {
					t.Errorf("%v", got)
				}
				first := sub.all()[0]
				if first.header.Type != wire.TypeOpen || first.header.Seq != 1 {
					t.Errorf("the first message is %+v", first.header)
				}
				st := a.Status()
				if len(st.Devices) != 1 || st.Devices[0].Taken != 100 || st.Devices[0].Quality != "good" {
					t.Errorf("%+v", st.Devices)
				}
				if why := a.Healthy(); why != nil {
					t.Errorf("unhealthy: %v", why)
				}
			})
		}
	}
}
