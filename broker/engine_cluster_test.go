package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/systemd/freeport"
)

// clusterConfigs are the settings of n nodes on the loopback that know each other.
func clusterConfigs(t testing.TB, n int) (cfgs []engineConfig) {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := freeport.Addrs(t, n)
	for i, addr := range addrs {
		peers := slices.Delete(slices.Clone(addrs), i, i+1)
		cfgs = append(cfgs, engineConfig{dir: t.TempDir(), node: fmt.Sprintf("n%d", i+1), id: "a1", syncAlways: true,
			cluster: &ClusterConfig{Name: "test", Listen: addr, Peers: peers, SecretFile: secret, Replicas: n}})
	}
	return cfgs
}

func testLog(t testing.TB) *slog.Logger {
	level := slog.LevelError
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
}

// testNode is one engine with a writer to its messages log.
type testNode struct {
	*engine
	cfg engineConfig
	log *slog.Logger
	s   *logStream
	w   *writer
}

func startEngines(t *testing.T, n int) []*testNode {
	t.Helper()
	var nodes []*testNode
	for _, cfg := range clusterConfigs(t, n) {
		node := &testNode{cfg: cfg, log: testLog(t)}
		nodes = append(nodes, node)
		node.startEngine(t)
		t.Cleanup(node.stop)
	}
	return nodes
}

func (n *testNode) startEngine(t *testing.T) {
	t.Helper()
	e, err := openEngine(n.cfg, n.log)
	if err != nil {
		t.Fatal(err)
	}
	n.engine = e
}

// begin opens the node's log, brings it home and begins to write.
func (n *testNode) begin(t *testing.T, life uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := n.open(ctx, kindMessages, 1<<30)
	if err == nil {
		err = s.bringHome(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg := testWriterConfig(t)
	cfg.node, cfg.incarnation, cfg.timeout, cfg.why, cfg.announce = n.cfg.node, life, n.patience(), n.whyNot, n.announcer(kindMessages)
	n.s = s
	if n.w, err = openWriter(ctx, s, cfg); err != nil {
		t.Fatal(err)
	}
	n.w.start()
	if err := n.w.begin(ctx); err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) stopWriter() {
	if n.w != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		n.w.stop(ctx)
	}
}

func (n *testNode) stop() {
	n.stopWriter()
	if n.engine != nil {
		n.engine.close()
	}
}

func (n *testNode) put(ctx context.Context, topic string) error {
	return n.w.put(ctx, &Record{Kind: KindMessage, Topic: topic, Arrival: 1})
}

// topics is what the log of a node holds, as reader sees it. It waits while the log has no leader.
func topics(ctx context.Context, reader *engine, node string) (out []string, err error) {
	for {
		out, err = topicsNow(ctx, reader, node)
		if !errors.Is(err, errEngine) || !pause(ctx, retryPause) {
			return out, err
		}
	}
}

func topicsNow(ctx context.Context, reader *engine, node string) (out []string, err error) {
	s := reader.logOf(kindMessages, node)
	first, last, _, err := s.bounds(ctx)
	if err != nil {
		return nil, err
	}
	for slot := first; slot <= last; slot++ {
		data, err := s.read(ctx, slot)
		if err != nil {
			return nil, err
		}
		b, err := DecodeBatch(data)
		if err != nil {
			return nil, err
		}
		for _, r := range b.Records {
			if r.Kind == KindMessage {
				out = append(out, r.Topic)
			}
		}
	}
	return out, nil
}

// TestThreeEngines: each node's logs are stored on all three under its own lead; the others read them,
// hear each batch on the bus, and know each other by their beats.
func TestThreeEngines(t *testing.T) {
	t.Parallel()
	nodes := startEngines(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	heard := make(chan string, 1000)
	for i, n := range nodes {
		n.begin(t, uint64(10+i))
	}
	sub, err := nodes[2].subscribe(logSubject(kindMessages, "n1"), 100, func(m busMessage) {
		if b, err := DecodeBatch(m.Data); err == nil {
			for _, r := range b.Records {
				heard <- r.Topic
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.stop()
	names, err := nodes[1].nodes(ctx)
	if err != nil || fmt.Sprint(names) != "[n1 n2 n3]" {
		t.Fatalf("nodes %v, %v", names, err)
	}
	for _, n := range nodes {
		n.w.seen(1000)
		if err := n.put(ctx, "from "+n.cfg.node); err != nil {
			t.Fatal(err)
		}
		if leader, err := nodes[0].logOf(kindMessages, n.cfg.node).leader(ctx); err != nil || leader != n.cfg.node {
			t.Errorf("the log of %s is led by %q, %v", n.cfg.node, leader, err)
		}
	}
	for _, reader := range nodes {
		for _, n := range nodes {
			got, err := topics(ctx, reader.engine, n.cfg.node)
			if err != nil || strings.Join(got, ",") != "from "+n.cfg.node {
				t.Errorf("%s reads %q of %s, %v", reader.cfg.node, got, n.cfg.node, err)
			}
		}
	}
	data, err := nodes[2].logOf(kindMessages, "n1").read(ctx, 2)
	if h, herr := DecodeHeader(data); err != nil || herr != nil || h.Lamport != 1001 {
		t.Errorf("Lamport clock %d after 1000 was seen; %v, %v", h.Lamport, err, herr)
	}
	if topic := <-heard; topic != "from n1" {
		t.Errorf("heard %q on the bus", topic)
	}
	eventually(t, "n3's replica has all of n1's log", func() bool {
		first, last, _, err := nodes[2].logOf(kindMessages, "n1").near().bounds(ctx)
		return err == nil && first == 1 && last == 2
	})
	if _, err := nodes[0].logOf(kindMessages, "n2").read(ctx, 99); err != errNoSlot {
		t.Errorf("behind the end: %v", err)
	}
}

// TestAskedNodeDies: whoever waits for the answer of a node that dies hears so at once, not when its patience ends.
func TestAskedNodeDies(t *testing.T) {
	t.Parallel()
	nodes := startEngines(t, 2)
	asked := make(chan struct{}, 1)
	for subject, fn := range map[string]func(busMessage){
		"hf.silent": func(busMessage) { asked <- struct{}{} },
		"hf.polite": func(m busMessage) { _ = m.answer([]byte("yes")) },
	} {
		if _, err := nodes[1].subscribe(subject, 10, fn); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, subject := range []string{"hf.polite", hereSubject("n2")} {
		eventually(t, "n1 reaches n2", func() bool { _, err := nodes[0].requestOf(ctx, "n2", subject, nil); return err == nil })
	}
	ended := make(chan error, 1)
	go func() {
		for { // until the question arrives: the other subject may be known sooner
			_, err := nodes[0].requestOf(ctx, "n2", "hf.silent", nil)
			if !errors.Is(err, errNobody) || nodes[1].server() == nil {
				ended <- err
				return
			}
		}
	}()
	<-asked
	nodes[1].engine.close()
	if err := <-ended; !errors.Is(err, errNobody) {
		t.Error(err)
	}
}

// TestBusBounds: what a slow reader has no room for is dropped and counted.
func TestBusBounds(t *testing.T) {
	e, err := openEngine(engineConfig{dir: t.TempDir(), node: "n1"}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	hold, got := make(chan struct{}), make(chan struct{}, 100)
	sub, err := e.subscribe("hf.test", 10, func(m busMessage) {
		<-hold
		got <- struct{}{}
		_ = m.answer([]byte("yes"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := e.publish("hf.test", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "some are dropped, and counted by queue", func() bool { return sub.drops() >= 39 && e.busDrops()["test"] >= 39 })
	close(hold)
	for range 10 {
		<-got
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if data, err := e.request(ctx, "hf.test", nil); err != nil || string(data) != "yes" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := e.request(ctx, "hf.nobody", nil); err == nil {
		t.Error("nobody answers, and there is no error")
	}
	sub.stop()
	if n := e.busDrops()["test"]; n < 39 {
		t.Errorf("%d are left of what the queue dropped, when it has ended", n)
	}
}

// TestEngineAddressTaken: a node whose address is another program's says so at once, with the address.
func TestEngineAddressTaken(t *testing.T) {
	cfg := clusterConfigs(t, 3)[0]
	l, err := net.Listen("tcp", cfg.cluster.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e, err := openEngine(cfg, testLog(t))
	if err == nil {
		e.close()
		t.Fatal("it starts")
	}
	for _, want := range []string{"[cluster] listen: ", cfg.cluster.Listen, "address already in use", "ss -ltnp"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

// TestNewGroupNeedsAllNodes: what a new store takes for the number of nodes. Were it one less, two empty stores of three
// would elect each other, and the third, with everything, would follow them.
func TestNewGroupNeedsAllNodes(t *testing.T) {
	for _, n := range []int{2, 3, 5} {
		for _, advertise := range []bool{false, true} {
			cfg := clusterConfigs(t, n)[0]
			if advertise { // as behind a translation of addresses
				cfg.cluster.Advertise = freeport.Addrs(t, 1)[0]
			}
			e, err := openEngine(cfg, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			info, err := e.server().Jsz(nil)
			if err != nil || info.Meta == nil || info.Meta.Size != n || e.server().NumRoutes() != 0 {
				t.Errorf("of %d nodes: %+v, %v; %d routes", n, info.Meta, err, e.server().NumRoutes())
			}
			e.close()
		}
	}
}
