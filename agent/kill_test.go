package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"holdfast/devices"
)

// A kill test runs the agent in a process of its own, takes readings in it as fast as
// a busy line gives them, and kills it at a random moment. What was taken is known
// from outside: after Emit has returned, and not before, the driver writes how far it
// came into a file, which a kill -9 does not undo.

const killChildEnv = "HOLDFAST_TEST_KILL_CHILD"

// killPlan is what the child is told.
type killPlan struct {
	Config  Config
	Devices []string
	Cycle   int
	Taken   string // directory: a file per cycle and device holds how many were taken
	Seed    uint64
	AtLeast int // the kill waits until so many were taken of the first device
}

// perCycle keeps the numbers of the cycles apart.
const perCycle = 1_000_000

func (p killPlan) takenFile(device string) string {
	return filepath.Join(p.Taken, fmt.Sprintf("%d-%s", p.Cycle, device))
}

// killChild is the child's main.
func killChild(file string) int {
	b, err := os.ReadFile(file)
	var plan killPlan
	if err == nil {
		err = json.Unmarshal(b, &plan)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	for _, name := range plan.Devices {
		plan.Config.Devices = append(plan.Config.Devices, DeviceConfig{Name: name, Driver: "numbered"})
	}
	a, err := New(plan.Config, Options{Drivers: map[string]devices.Driver{"numbered": numbered{plan}}})
	if err == nil {
		err = a.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	return 3
}

// numbered emits groups of consecutive numbers and tells what was taken.
type numbered struct{ plan killPlan }

type numberedDevice struct {
	plan killPlan
	env  devices.Env
}

func (n numbered) Settings() devices.Settings { return &noSettings{} }
func (n numbered) New(_ devices.Settings, env devices.Env) (devices.Device, error) {
	return numberedDevice{n.plan, env}, nil
}

func (d numberedDevice) Run(ctx context.Context, sink devices.Sink) error {
	f, err := os.Create(d.plan.takenFile(d.env.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(d.plan.Seed, uint64(d.plan.Cycle)))
	var count [8]byte
	for n := 0; ; {
		var group []devices.Reading
		for range 1 + rng.IntN(3) {
			group = append(group, devices.Reading{Metric: "n", Value: devices.Number(float64(d.plan.Cycle*perCycle + n)), At: d.env.Clock.Now()})
			n++
		}
		awaitRoom(ctx, sink)
		sink.Emit(group...)
		binary.LittleEndian.PutUint64(count[:], uint64(n))
		if _, err := f.WriteAt(count[:], 0); err != nil {
			return err
		}
		select {
		case <-d.env.Clock.After(time.Duration(rng.IntN(4000)) * time.Microsecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// taken returns how many readings a cycle took for certain.
func (p killPlan) taken(t *testing.T, device string) int {
	b, err := os.ReadFile(p.takenFile(device))
	if os.IsNotExist(err) || len(b) == 0 {
		return 0 // killed before it took any
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(binary.LittleEndian.Uint64(b))
}

// full returns the full count under HOLDFAST_SOAK=1, the short one otherwise.
func full(n, short int) int {
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		return n
	}
	return short
}

// receiveMaximum is what mosquitto announces (max_inflight_messages, 20).
const receiveMaximum = 20

// killBroker is the broker of a kill test.
type killBroker struct {
	addr           string
	receiveMaximum int
	register       func(id Identity)
	check          func() // at the end
}

func killMosquitto(t *testing.T) killBroker {
	return killBroker{mosquitto(t), receiveMaximum, func(Identity) {}, func() {}}
}

// TestKill: kill -9 at random moments loses nothing that was taken, gives no number
// twice, and repeats no more than the broker's window per connection.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"up", "down", "flapping"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			killTest(t, killMosquitto(t), line, uint64(len(line)))
		})
	}
}

// TestKillLedger: the same with our own broker, whose ledger agrees.
func TestKillLedger(t *testing.T) {
	t.Parallel()
	killTest(t, ledgerBroker(t), "flapping", 5)
}

// TestKillFull: the same while the card is full and the oldest is dropped: each number arrives or is in a receipt.
func TestKillFull(t *testing.T) {
	t.Parallel()
	broker := killMosquitto(t)
	px := newProxy(t, broker.addr)
	cfg := testConfig(t, px.addr)
	cfg.Buffer.CommitInterval = 100 * time.Millisecond
	cfg.Buffer.MaxBytes = 1 << 20
	_, sub := trusting(t, cfg, broker.addr)
	names := []string{"a", "b", "c"}
	rng := rand.New(rand.NewPCG(11, 7))
	dir := t.TempDir()
	var plans []killPlan
	for cycle := range full(200, 20) {
		plan := killPlan{Config: cfg, Devices: names, Cycle: cycle, Taken: dir, Seed: rng.Uint64()}
		if cycle%2 == 1 {
			plan.AtLeast = 300 // the card fills on a slow machine, too
		}
		plans = append(plans, plan)
		runAndKill(t, plan, px, "down", rng)
	}
	px.set(false)
	a := start(t, cfg, Options{})
	eventually(t, "the backlog and its receipts are delivered", func() bool {
		held := a.Status().Buffer
		first, next := a.buffer.Bounds()
		return held.Raws == 0 && first == next && held.Drops == 0
	})
	a.stop()
	dropped := 0
	for _, name := range names {
		taken := uint64(totalTaken(t, plans, name))
		var got account
		if !settled(func() bool { got = accountOf(t, sub, name); return len(got.gaps) == 0 && got.total >= taken }) {
			t.Errorf("%s: of %d readings: %+v", name, taken, got)
		}
		if got.counted < taken {
			t.Errorf("%s: %d readings taken, %d arrived or are in a receipt", name, taken, got.counted)
		}
		dropped += got.dropped
	}
	if dropped == 0 {
		t.Error("nothing was dropped: this test proves nothing")
	}
	t.Logf("full: %d kills, %d messages arrived, %d dropped by receipt", len(plans), len(sub.all()), dropped)
}

func killTest(t *testing.T, broker killBroker, line string, seed uint64) {
	keys := &anyKey{}
	px := newProxy(t, broker.addr)
	cfg := testConfig(t, px.addr)
	cfg.Buffer.CommitInterval = 300 * time.Millisecond
	cfg.Buffer.MaxBytes = 1 << 30 // a fast machine must not fill it: that is TestKillFull
	id, err := OpenIdentity(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys.trust(id.Key.Public())
	broker.register(id)
	sub := subscribe(t, broker.addr, keys)

	names := []string{"a", "b", "c"}
	rng := rand.New(rand.NewPCG(seed, 7))
	dir := t.TempDir()
	var plans []killPlan
	for cycle := range full(200, 20) {
		plan := killPlan{Config: cfg, Devices: names, Cycle: cycle, Taken: dir, Seed: rng.Uint64()}
		if cycle%4 == 3 {
			plan.AtLeast = 10 // on a slow machine, too, something is taken
		}
		plans = append(plans, plan)
		runAndKill(t, plan, px, line, rng)
	}

	px.set(false)
	a := start(t, cfg, Options{})
	eventually(t, "the backlog is delivered", func() bool {
		raws := a.Status().Buffer.Raws // looked at first: what the last life had not sealed is a message when it is 0
		first, next := a.buffer.Bounds()
		return raws == 0 && first == next
	})
	epoch := a.Status().Epoch
	a.stop()
	settled(func() bool { // the broker still hands the rest to the subscriber
		for _, name := range names {
			if len(sub.numbers(t, name)) < totalTaken(t, plans, name) {
				return false
			}
		}
		return true
	})
	for _, name := range names {
		checkNothingLost(t, sub, plans, name, epoch)
	}
	_, dups := sub.data(t, names[0])
	for _, name := range names[1:] {
		_, n := sub.data(t, name)
		dups += n
	}
	broker.check()
	if most := broker.receiveMaximum * px.connections(); dups > most {
		t.Errorf("%d duplicates over %d connections: more than %d", dups, px.connections(), most)
	}
	t.Logf("%s: %d kills, %d connections, %d messages, %d duplicates", line, len(plans), px.connections(), len(sub.all()), dups)
}

// runAndKill runs one child and kills it after a random while, its start included.
func runAndKill(t *testing.T, plan killPlan, px *proxy, line string, rng *rand.Rand) {
	t.Helper()
	b, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(plan.Taken, "plan")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	px.set(line == "down")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killChildEnv+"="+file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	longest := 600
	if line == "flapping" {
		longest = 1500
	}
	life := time.NewTimer(time.Duration(20+rng.IntN(longest)) * time.Millisecond)
	defer life.Stop()
	for down := true; ; down = !down {
		var flap <-chan time.Time
		if line == "flapping" {
			phase := 100 + rng.IntN(300) // long enough to connect again
			if !down {
				phase = 10 + rng.IntN(50)
			}
			flap = time.After(time.Duration(phase) * time.Millisecond)
		}
		select {
		case <-flap:
			px.set(down)
			continue
		case <-life.C:
		}
		break
	}
	eventually(t, "enough is taken", func() bool { return plan.taken(t, plan.Devices[0]) >= plan.AtLeast })
	_ = cmd.Process.Signal(syscall.SIGKILL)
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("cycle %d: the agent ended by itself: %v", plan.Cycle, err)
	}
}

func totalTaken(t *testing.T, plans []killPlan, device string) (n int) {
	for _, p := range plans {
		n += p.taken(t, device)
	}
	return n
}

// checkNothingLost: each number that was taken arrived once, in order; the one or few
// beyond them that a kill caught inside Emit may have arrived too.
func checkNothingLost(t *testing.T, sub *subscriber, plans []killPlan, device, epoch string) {
	t.Helper()
	unique, _ := sub.data(t, device)
	byCycle := make([][]int, len(plans))
	next := map[string]uint64{}
	var total uint64
	for _, a := range unique {
		h := a.header
		if h.Epoch != epoch {
			t.Errorf("%s: epoch %s, but the journal was never lost: want %s", device, h.Epoch, epoch)
		}
		if next[h.Epoch]++; h.Seq != next[h.Epoch] {
			t.Fatalf("%s: message %d came in place %d", device, h.Seq, next[h.Epoch])
		}
		if total += uint64(h.N); h.Total != total {
			t.Fatalf("%s/%d: total %d, want %d", device, h.Seq, h.Total, total)
		}
		for _, r := range a.pack.Records {
			n := int(*r.V)
			byCycle[n/perCycle] = append(byCycle[n/perCycle], n%perCycle)
		}
	}
	for i, p := range plans {
		taken := p.taken(t, device)
		if got := len(byCycle[i]); got < taken || got > taken+3 {
			t.Errorf("%s, cycle %d: %d readings taken, %d arrived", device, i, taken, got)
		}
		for want, n := range byCycle[i] {
			if n != want {
				t.Fatalf("%s, cycle %d: reading %d arrived in place %d", device, i, n, want)
			}
		}
	}
	if totalTaken(t, plans, device) == 0 {
		t.Errorf("%s: no cycle took anything: this test proves nothing", device)
	}
}
