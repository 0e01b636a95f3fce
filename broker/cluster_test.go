package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
)

// nodes is several brokers in one process.
type nodes struct {
	t    testing.TB
	cfgs []Config
	up   []*running // nil: down

	prepare func(*Broker) // before it serves

	pauses []*pauser // of each node; nil: none can be made to stand still

	wall func(node int) func() time.Time // nil: the wall clock that is
}

// startNodes starts n brokers of one cluster.
func startNodes(t testing.TB, n int) *nodes {
	t.Helper()
	c := &nodes{t: t, up: make([]*running, n)}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := freeport.Addrs(t, n)
	for i := range n {
		cfg := testConfig(t.TempDir())
		cfg.Node.Name = fmt.Sprint("n", i+1)
		cfg.Cluster = &ClusterConfig{Name: "test", Listen: addrs[i], Peers: slices.Delete(slices.Clone(addrs), i, i+1), SecretFile: secret, Replicas: n}
		c.cfgs = append(c.cfgs, cfg)
	}
	return c
}

// begin starts the nodes that are given, or all, and waits until they take clients.
func (c *nodes) begin(which ...int) {
	c.t.Helper()
	if len(which) == 0 {
		for i := range c.cfgs {
			which = append(which, i)
		}
	}
	var starting sync.WaitGroup
	for _, i := range which {
		starting.Go(func() {
			o := Options{Log: nodeLog(c.t, c.cfgs[i].Node.Name)}
			if c.pauses != nil {
				o.gate = c.pauses[i].wait
			}
			if c.wall != nil {
				o.Wall = c.wall(i)
			}
			b, err := newNode(c.cfgs[i], o)
			if err != nil {
				c.t.Errorf("start %s: %v", c.cfgs[i].Node.Name, err)
				return
			}
			if c.prepare != nil {
				c.prepare(b)
			}
			c.up[i] = serveBroker(c.t, b)
		})
	}
	starting.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
	c.t.Cleanup(c.end)
	eventually(c.t, "all nodes know each other to be ready", func() bool {
		for _, b := range c.up {
			for _, other := range c.up { // a test may have a node of its own besides
				if b == nil || other == nil {
					continue
				}
				if m, _ := b.peers.members.get(other.cfg.Node.Name); !m.Alive || !m.Ready {
					return false
				}
			}
		}
		return true
	})
}

// newNode begins again when the cluster does not answer in time, as the program does.
func newNode(cfg Config, o Options) (*Broker, error) {
	for end := time.Now().Add(patience); ; {
		b, err := New(cfg, o)
		if err != nil && o.Log != nil {
			o.Log.Warn("it does not start", "err", err)
		}
		if err == nil || !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrAgain) || time.Now().After(end) {
			return b, err
		}
	}
}

func nodeLog(t testing.TB, name string) *slog.Logger {
	level := slog.LevelError
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level})).With("node", name)
}

// end stops all nodes at once: the last one alone would have no quorum.
func (c *nodes) end() {
	var ending sync.WaitGroup
	for _, b := range c.up {
		if b != nil {
			ending.Go(b.stop)
		}
	}
	ending.Wait()
}

// stop ends a node in order.
func (c *nodes) stop(i int) {
	c.up[i].stop()
	c.up[i] = nil
}

func TestClusterDelivers(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 100)
	go func() {
		err := c.up[1].Tail(ctx, "#", func(r *Record, p Position) error {
			got <- p.Node + " " + r.Topic
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	for i, b := range c.up {
		if err := b.messages.put(ctx, &Record{Kind: KindMessage, QoS: 1, Topic: fmt.Sprint("t/", i), Payload: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != fmt.Sprintf("n%d t/%d", i+1, i) {
			t.Errorf("got %s", s)
		}
	}
	for i, b := range c.up {
		if err := b.state.Put(ctx, fmt.Sprint("k/", i), []byte("v")); err != nil {
			t.Fatal(err)
		}
		for _, other := range c.up { // a Put is read everywhere when it returns
			if _, ok := other.state.get(fmt.Sprint("k/", i)); !ok {
				t.Errorf("%s does not know what %s put", other.cfg.Node.Name, b.cfg.Node.Name)
			}
		}
	}
}

// TestSessionMoves: a session goes on at whatever node its client comes to: nothing is missed,
// nothing comes in another order, and the older connection is told.
func TestSessionMoves(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	kept := opts{version: 5, expiry: 3600}
	sub, present := dialRaw(t, c.up[0].addr, "reader", kept)
	if present {
		t.Fatal("a session is there before its first CONNECT")
	}
	sub.subscribe(1, "t/#")
	pub, _ := dialRaw(t, c.up[2].addr, "writer", opts{version: 5, clean: true})
	sent := 0
	say := func(n int) {
		for range n {
			sent++
			pub.publish("t/x", fmt.Sprint(sent), 7)
		}
	}
	got := 0
	hear := func() {
		for got < sent {
			if m := sub.take(); m.payload != fmt.Sprint(got+1) {
				t.Fatalf("got %s behind %d", m.payload, got)
			}
			got++
		}
		sub.quiet() // what was acknowledged has been read
	}
	say(10)
	hear()
	for i := range 12 {
		old := sub
		if sub, present = dialRaw(t, c.up[(i+1)%3].addr, "reader", kept); !present {
			t.Fatalf("move %d: the session is not there", i)
		}
		if away := i > 0 && i%3 == 0; !away {
			if p := old.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.SessionTakenOver {
				t.Fatalf("move %d: the older connection was closed with %d %x", i, p.kind, p.body)
			}
		}
		say(20)
		hear()
		if i%3 == 2 { // away for a while
			sub.nc.Close()
			say(50)
		}
	}
}

// TestSessionOutlivesItsNode: the node that has a session ends; the session goes on elsewhere from
// what it has saved, and does not come back with its node.
func TestSessionOutlivesItsNode(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	kept := opts{version: 5, expiry: 3600}
	sub, _ := dialRaw(t, c.up[0].addr, "reader", kept)
	sub.subscribe(1, "t/#")
	pub, _ := dialRaw(t, c.up[1].addr, "writer", opts{version: 5, clean: true})
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			pub.publish("t/x", fmt.Sprint(i), 7)
		}
	}
	expect := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			if m := sub.take(); m.payload != fmt.Sprint(i) {
				t.Fatalf("got %s instead of %d", m.payload, i)
			}
		}
		sub.quiet()
	}
	publish(0, 10)
	expect(0, 10)
	c.stop(0)
	publish(10, 30)
	var present bool
	eventually(t, "the session goes on at another node", func() bool {
		s, ack, err := tryDial(t, c.up[2].addr, "reader", kept)
		if err != nil || ack.body[1] != 0 {
			return false // as long as its node may live, nobody else takes it
		}
		sub, present = s, ack.body[0] == 1
		return true
	})
	if !present {
		t.Fatal("the session is gone with its node")
	}
	expect(10, 30)
	c.begin(0)
	publish(30, 40)
	expect(30, 40)
	if s := c.up[0].sessions.get("reader"); s != nil {
		t.Error("the node that came back has the session again")
	}
	eventually(t, "the node that came back takes the client", func() bool {
		s, there, err := tryKept(t, c.up[0].addr, "reader")
		if err == nil {
			sub, present = s, there
		}
		return err == nil
	})
	if !present {
		t.Fatal("the session does not come back")
	}
	publish(40, 50)
	expect(40, 50)
}

// TestStartEnds: a node that waits for the others can be told to stop.
func TestStartEnds(t *testing.T) {
	c := startNodes(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan struct{})
	var once sync.Once
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "waiting for the cluster") {
			once.Do(func() { close(waits) })
		}
		return len(p), nil
	}), nil))
	go func() {
		<-waits
		cancel()
	}()
	if b, err := New(c.cfgs[0], Options{Log: log, Starting: ctx}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", b, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
