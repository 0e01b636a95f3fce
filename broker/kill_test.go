package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
	"holdfast/uplink/wire"
)

// child is the broker of a kill test: this test binary, run again. It never returns by itself.
func child(dir string) {
	cfg := testConfig(dir)
	cfg.Listen.MQTT = os.Getenv("HOLDFAST_TEST_LISTEN")
	cfg.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}}
	hurry, _ := time.ParseDuration(os.Getenv("HOLDFAST_TEST_HURRY"))
	b, err := New(cfg, Options{hurry: hurry, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err == nil {
		err = registerKeys(b.Registry(), dir)
	}
	if err == nil {
		go func() {
			for b.Ready() != nil {
				<-time.After(time.Millisecond)
			}
			fmt.Println("ready")
		}()
		err = b.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, "child:", err)
	os.Exit(1)
}

// registerKeys adds keys/<gateway>.pem.
func registerKeys(r *door.Registry, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*.pem"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		key, err := wire.ParsePublicKey(data)
		if err != nil {
			return err
		}
		if _, err := r.Add(context.Background(), strings.TrimSuffix(filepath.Base(f), ".pem"), key); err != nil {
			return err
		}
	}
	return err
}

// victim is a broker in a process of its own, on an address that stays.
type victim struct {
	t    *testing.T
	dir  string
	addr string
	env  []string
	cmd  *exec.Cmd
}

func newVictim(t *testing.T) *victim {
	v := &victim{t: t, dir: t.TempDir(), addr: freeport.Addr(t)}
	t.Cleanup(v.kill)
	return v
}

func (v *victim) start() {
	v.t.Helper()
	v.cmd = exec.Command(os.Args[0])
	v.cmd.Env = append(os.Environ(), "HOLDFAST_TEST_BROKER="+v.dir, "HOLDFAST_TEST_LISTEN="+v.addr)
	v.cmd.Env = append(v.cmd.Env, v.env...)
	var stderr strings.Builder
	v.cmd.Stderr = &stderr
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		v.t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	line := make(chan string, 1)
	go func() {
		l, _ := bufio.NewReader(out).ReadString('\n')
		line <- l
	}()
	select {
	case l := <-line:
		if l != "ready\n" {
			_ = v.cmd.Wait()
			v.cmd = nil
			v.t.Fatalf("the broker ended: %s", stderr.String())
		}
	case <-time.After(patience):
		v.t.Fatal("the broker is not ready after " + patience.String())
	}
}

func (v *victim) kill() {
	if v.cmd != nil {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
		v.cmd = nil
	}
}

// feeder publishes numbered messages with QoS 1 for as long as it is told, reconnecting and
// sending again what was not acknowledged.
type feeder struct {
	id    string
	topic string
	make  func(seq int) (payload string, props []byte)
	acked atomic.Int64 // all up to this one are acknowledged
	sent  int
}

func (f *feeder) run(t *testing.T, addr string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := f.connection(t, addr, stop); err != nil {
			<-time.After(5 * time.Millisecond)
		}
	}
}

var errRefused = errors.New("refused")

// connection publishes until the connection breaks, in order, with up to 100 unacknowledged.
func (f *feeder) connection(t *testing.T, addr string, stop <-chan struct{}) error {
	c, _, err := tryKept(t, addr, f.id)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	credit := make(chan struct{}, 100)
	broken := make(chan error, 1)
	go func() { broken <- f.acks(c, credit) }()
	for seq := int(f.acked.Load()) + 1; ; seq++ {
		select {
		case <-stop:
			return f.drain(c, broken, seq-1)
		case err := <-broken:
			return err
		case credit <- struct{}{}:
		}
		payload, props := f.make(seq)
		flags := byte(2)
		if seq <= f.sent {
			flags |= 8
		}
		f.sent = max(f.sent, seq)
		if _, err := c.nc.Write(c.publishPacket(f.topic, payload, flags, uint16(seq%60000+1), props)); err != nil {
			return err
		}
	}
}

// drain waits for the last acknowledgements.
func (f *feeder) drain(c *rawClient, broken <-chan error, last int) error {
	deadline := time.Now().Add(patience)
	for int(f.acked.Load()) < last && time.Now().Before(deadline) {
		select {
		case err := <-broken:
			return err
		case <-time.After(time.Millisecond):
		}
	}
	c.nc.Close()
	<-broken
	return nil
}

func (f *feeder) acks(c *rawClient, credit <-chan struct{}) error {
	for {
		p, err := c.next()
		if err != nil {
			return err
		}
		if p.kind != mqtt.PUBACK {
			continue
		}
		want := f.acked.Load() + 1
		if p.code() >= 0x80 || p.id() != uint16(want%60000+1) {
			c.t.Errorf("%s: PUBACK %d code 0x%02X while waiting for message %d", f.id, p.id(), p.code(), want)
			return errRefused
		}
		f.acked.Store(want)
		<-credit
	}
}

// gatherer is a subscriber with a session: every message with its number, in the order of the
// first arrival.
type gatherer struct {
	mu      sync.Mutex
	seen    map[string]map[int]bool
	last    map[string]int
	twice   int
	reorder []reordering
	absent  int // CONNACKs that knew no session
}

// reordering is a first arrival behind that of a later number.
type reordering struct {
	topic     string
	seq, last int
}

func (r reordering) String() string { return fmt.Sprintf("%s: %d after %d", r.topic, r.seq, r.last) }

func newGatherer() *gatherer {
	return &gatherer{seen: map[string]map[int]bool{}, last: map[string]int{}}
}

func (g *gatherer) run(t *testing.T, addr string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		c, present, err := tryKept(t, addr, "gatherer")
		if err != nil {
			<-time.After(5 * time.Millisecond)
			continue
		}
		g.connected(present)
		ended := make(chan struct{})
		go func() {
			select {
			case <-stop:
			case <-ended:
			}
			c.nc.Close()
		}()
		g.read(c)
		close(ended)
	}
}

func (g *gatherer) connected(present bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !present {
		g.absent++
	}
}

func (g *gatherer) read(c *rawClient) {
	for {
		p, err := c.next()
		if err != nil {
			return
		}
		if p.kind != mqtt.PUBLISH {
			continue
		}
		m := p.message(c.version)
		g.note(m)
		if _, err := c.nc.Write(mqtt.AppendAck(nil, mqtt.PUBACK, c.version, m.id, 0, "")); err != nil {
			return
		}
	}
}

func (g *gatherer) note(m message) {
	var seq int
	for _, u := range mqtt.UserProperties(m.props) {
		if u.Key == "seq" {
			fmt.Sscan(u.Value, &seq)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen[m.topic] == nil {
		g.seen[m.topic] = map[int]bool{}
	}
	switch {
	case g.seen[m.topic][seq]:
		g.twice++
	case seq < g.last[m.topic]:
		g.reorder = append(g.reorder, reordering{m.topic, seq, g.last[m.topic]})
	}
	g.seen[m.topic][seq] = true
	g.last[m.topic] = max(g.last[m.topic], seq)
}

func (g *gatherer) missing(topic string, upTo int) (lost []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := 1; i <= upTo; i++ {
		if !g.seen[topic][i] {
			lost = append(lost, i)
		}
	}
	return lost
}

func kills() int {
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		return 200
	}
	return 20
}

// TestKillUnderLoad: kill -9 at random moments under load. Nothing that was acknowledged is lost
// to a subscriber with a session, sessions are there again, and the ledger agrees.
func TestKillUnderLoad(t *testing.T) {
	seed := uint64(20261121)
	rnd := rand.New(rand.NewPCG(seed, 1))
	v := newVictim(t)
	feeders := newFeeders(t, v.dir)
	v.start()
	sub, _ := dialRaw(t, v.addr, "gatherer", opts{expiry: 3600})
	sub.subscribe(1, "gw/#", "plain/#")
	sub.nc.Close()
	g := newGatherer()
	stop := make(chan struct{})
	var publishing, reading sync.WaitGroup
	for _, f := range feeders {
		publishing.Go(func() { f.run(t, v.addr, stop) })
	}
	stopReading := make(chan struct{})
	reading.Go(func() { g.run(t, v.addr, stopReading) })
	ackedSoFar := func() (n int64) {
		for _, f := range feeders {
			n += f.acked.Load()
		}
		return n
	}
	for range kills() {
		before := ackedSoFar()
		eventually(t, "something is acknowledged between two kills", func() bool { return ackedSoFar() > before })
		<-time.After(time.Duration(20+rnd.IntN(250)) * time.Millisecond)
		v.kill()
		v.start()
	}
	<-time.After(100 * time.Millisecond)
	close(stop)
	publishing.Wait()
	total := 0
	for _, f := range feeders {
		acked := int(f.acked.Load())
		total += acked
		eventually(t, f.topic+" has arrived", func() bool { return len(g.missing(f.topic, acked)) == 0 })
	}
	close(stopReading)
	reading.Wait()
	if g.absent > 0 {
		t.Errorf("the session was absent %d times", g.absent)
	}
	for _, r := range g.reorder {
		t.Errorf("order: %s", r)
	}
	t.Logf("%d kills, %d messages acknowledged and delivered, %d delivered twice", kills(), total, g.twice)
	v.kill()
	checkLedger(t, v, feeders)
}

func newFeeders(t *testing.T, dir string) []*feeder {
	var fs []*feeder
	for i := range 3 {
		fs = append(fs, &feeder{id: fmt.Sprintf("plain-%d", i), topic: fmt.Sprintf("plain/%d", i), make: func(seq int) (string, []byte) {
			return strings.Repeat("x", 200), mqtt.AppendUserProperty(nil, "seq", fmt.Sprint(seq))
		}})
	}
	for i := range 2 {
		gw := fmt.Sprintf("gw-%d", i)
		key := gatewayKey(t, dir, gw)
		fs = append(fs, &feeder{id: gw, topic: "gw/" + gw + "/scale", make: func(seq int) (string, []byte) {
			m := sealedMessage(t, key, gw, "00000000000000a1", seq, float64(seq))
			return string(m.Payload), mqtt.AppendUserProperty(signedProps(m), "seq", fmt.Sprint(seq))
		}})
	}
	return fs
}

// gatewayKey makes a key and leaves its public half where the child registers it.
func gatewayKey(t testing.TB, dir, gateway string) *wire.PrivateKey {
	return gatewayKeyOf(t, wire.Ed25519, dir, gateway)
}

func gatewayKeyOf(t testing.TB, alg, dir, gateway string) *wire.PrivateKey {
	var seed [32]byte
	copy(seed[:], gateway)
	key, err := wire.GenerateKey(alg, rand.NewChaCha8(seed))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", gateway+".pem"), key.Public().MarshalPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}

// sealedMessage is message number seq of a gateway's device "scale", with one reading.
func sealedMessage(t testing.TB, key *wire.PrivateKey, gateway, epoch string, seq int, value float64) wire.Message {
	m, err := wire.Seal(wire.JSON, wire.Header{Gateway: gateway, Device: "scale", Epoch: epoch, Seq: uint64(seq), Floor: 1, N: 1, Total: uint64(seq),
		Topic: "gw/" + gateway + "/scale", Boot: "boot", Mono: int64(seq), Clock: wire.ClockSynced, Type: wire.TypeData},
		wire.Pack{Gateway: gateway, Device: "scale", Base: time.Unix(1790000000, 0), Records: []wire.Record{{Name: "weight", Unit: "kg", V: &value}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// signedProps is the MQTT 5 properties of a sealed message.
func signedProps(m wire.Message) []byte {
	props := mqtt.AppendText([]byte{3}, m.ContentType)
	return mqtt.AppendUserProperty(props, wire.PropertyJWS, m.JWS)
}

// checkLedger opens the store once more and compares the ledger with what was acknowledged.
func checkLedger(t *testing.T, v *victim, feeders []*feeder) {
	cfg := testConfig(v.dir)
	b := start(t, cfg)
	for _, f := range feeders {
		if !strings.HasPrefix(f.id, "gw-") {
			continue
		}
		rep := b.Ledger().Report(f.id)
		if len(rep) != 1 || len(rep[0].Epochs) != 1 || len(rep[0].Epochs[0].Devices) != 1 {
			t.Fatalf("ledger of %s: %+v", f.id, rep)
		}
		d := rep[0].Epochs[0].Devices[0]
		if d.Missing != 0 || d.Conflicts != 0 || d.Received < uint64(f.acked.Load()) || d.Received > uint64(f.sent) || len(d.Ranges) != 1 {
			t.Errorf("ledger of %s: %+v; %d were acknowledged, %d sent", f.id, d, f.acked.Load(), f.sent)
		}
	}
}
