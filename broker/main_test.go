package broker

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/broker/listen"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("HOLDFAST_TEST_BROKER"); dir != "" {
		child(dir)
		return
	}
	if config := os.Getenv("HOLDFAST_TEST_ENGINE"); config != "" {
		engineChild(config)
		return
	}
	// Most tests of several nodes wait: for elections, for nodes to count as gone, for disks. So more of them run at once than
	// there are cores; -parallel says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(max(testsAtOnce, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir := buildDir.Load(); dir != nil {
			_ = os.RemoveAll(*dir)
		}
		os.Exit(code)
	}))
}

// testsAtOnce is how many of the tests that wait share two cores.
const testsAtOnce = 4

// testConfig is a broker on a free port of the loopback, without verification.
func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Node = NodeConfig{Name: "n1", DataDir: dir}
	cfg.Listen = listen.Config{MQTT: "127.0.0.1:0"}
	cfg.Verify = nil
	return cfg
}

// running is a broker that serves until stop.
type running struct {
	*Broker
	addr string
	stop func()
}

func start(t testing.TB, cfg Config) *running {
	t.Helper()
	level := slog.LevelWarn
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	b, err := New(cfg, Options{Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		t.Fatal(err)
	}
	return serveBroker(t, b)
}

func serveBroker(t testing.TB, b *Broker) *running {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	r := &running{Broker: b}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(r.stop)
	eventually(t, "the broker is ready", func() bool { return b.Ready() == nil && len(b.Addrs()) > 0 })
	r.addr = b.Addrs()[0].String()
	return r
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// patience bounds what a test waits for, on the slowest machine. It costs nothing when all is well.
const patience = 5 * time.Minute

// eventually polls a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// soakOnly keeps a test that takes minutes for `make soak`; docs/benchmarks.md has its last result.
func soakOnly(t *testing.T) {
	if os.Getenv("HOLDFAST_SOAK") != "1" {
		t.Skip("takes minutes: make soak, or HOLDFAST_SOAK=1")
	}
}

// soak is how often the long loops run.
func soak(full, ci int) int {
	if os.Getenv("HOLDFAST_SOAK") != "" {
		return full
	}
	return ci
}
