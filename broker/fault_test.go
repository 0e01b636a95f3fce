package broker

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The fault rig: three programs, one cluster, clients that move, and faults from a seed.
const (
	faultSeeds   = 300 // of make soak
	faultSeedsCI = 8   // which have every kind of fault between them, six a SIGSTOP
	faultsAtOnce = 4   // of make soak, beside each other: they mostly wait
	faultsInCI   = 4   // of CI, beside other tests that wait
)

// readyWithin is for all nodes, after a fault: a minute in make soak, which judges it; CI's machine may be slow.
func readyWithin() time.Duration {
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		return time.Minute
	}
	return patience
}

// deliverWithin is for what was acknowledged, then.
func deliverWithin() time.Duration { return readyWithin() }

// TestFaults: three nodes, killed, paused and stopped by the schedule of a seed. What was acknowledged is
// delivered to sessions that move from node to node, in order; a QoS 2 message once; nothing else comes;
// all nodes are ready again and tell the same about each other.
//
// HOLDFAST_SOAK=1 runs all seeds with longer schedules, and goes on where it was interrupted:
// bin/faults-PROGRAM lists what that build of the program has passed, and bin/faults-seed-N has the nodes' logs of a seed that
// failed. HOLDFAST_SEED=n runs one seed alone.
func TestFaults(t *testing.T) {
	program := buildBroker(t)
	soak := os.Getenv("HOLDFAST_SOAK") == "1"
	kinds, faults := everyFault, 2
	if soak {
		faults = 5
	}
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		newFaultRun(t, program, seed, kinds, faults).run()
		return
	}
	if !soak {
		t.Parallel()
		runFaults(t, program, faultSeedsCI, faultsInCI, kinds, faults, nil)
		return
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	passed, err := openPassed(filepath.Join("..", "bin", "faults-"+hex.EncodeToString(sum[:6])))
	if err != nil {
		t.Fatal(err)
	}
	defer passed.file.Close()
	runFaults(t, program, faultSeeds, faultsAtOnce, kinds, faults, passed)
}

// runFaults runs the seeds 1 to n, so many at once.
func runFaults(t *testing.T, program string, n, atOnce int, kinds []string, faults int, passed *passedSeeds) {
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for seed := range seeds {
				if t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { newFaultRun(t, program, seed, kinds, faults).run() }) {
					passed.add(t, seed)
				}
			}
		})
	}
	for seed := uint64(1); seed <= uint64(n); seed++ {
		if !passed.has(seed) {
			seeds <- seed
		}
	}
	close(seeds)
	workers.Wait()
}

// passedSeeds is the file of seeds that need not run again; nil is none.
type passedSeeds struct {
	mu   sync.Mutex
	file *os.File
	set  map[uint64]bool
}

func openPassed(name string) (*passedSeeds, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	p := &passedSeeds{file: file, set: map[uint64]bool{}}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if seed, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil { // a line cut short: run it again
			p.set[seed] = true
		}
	}
	return p, nil
}

func (p *passedSeeds) has(seed uint64) bool { return p != nil && p.set[seed] }

func (p *passedSeeds) add(t *testing.T, seed uint64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintln(p.file, seed); err != nil {
		t.Error(err)
	}
}

// faultRun is one seed.
type faultRun struct {
	t       *testing.T
	seed    uint64
	lan     *lan // nil: the nodes are on the loopback, and nothing is cut
	steps   []faultStep
	nodes   []*faultNode
	writers []*numberer
	readers []*reader
	group   *sharers
	once    *onceSender
	onceBy  *roamer
	twoBy   *roamer
	two     *onceReceiver
	again   int // of QoS 2: arrived more than once
	lost    sync.Mutex
	absent  []string // sessions that were not there
}

// reader is a subscriber with a session.
type reader struct {
	*roamer
	got *gatherer
}

func newFaultRun(t *testing.T, program string, seed uint64, kinds []string, faults int) *faultRun {
	rnd := rand.New(rand.NewPCG(seed, 3))
	return faultRunOf(t, seed, rnd, schedule(rnd, kinds, faults), faultNodes(t, program, seed))
}

// faultRunOf is a run with a schedule and nodes of its own.
func faultRunOf(t *testing.T, seed uint64, rnd *rand.Rand, steps []faultStep, nodes []*faultNode) *faultRun {
	r := &faultRun{t: t, seed: seed, steps: steps, nodes: nodes}
	client := func(id string, moves bool) *roamer {
		return &roamer{id: id, nodes: r.nodes, home: rnd.IntN(3), moves: moves, rnd: rand.New(rand.NewPCG(seed, rnd.Uint64()))}
	}
	for i := range 3 {
		w := client(fmt.Sprint("stays-", i+1), false)
		w.home = i
		r.writers = append(r.writers, &numberer{roamer: w})
	}
	r.writers = append(r.writers, &numberer{roamer: client("roams-1", true)}, &numberer{roamer: client("roams-2", true)})
	for _, w := range r.writers {
		w.refused, w.resent, w.last = map[int]bool{}, map[int]bool{}, time.Now()
	}
	r.readers = []*reader{{client("reader-1", true), newGatherer()}, {client("reader-2", false), newGatherer()}}
	r.group = newSharers("$share/g/f/#", client("member-1", true), client("member-2", false), client("member-3", true))
	r.once, r.onceBy = &onceSender{}, client("once-sender", true)
	r.two, r.twoBy = &onceReceiver{held: map[uint16]bool{}}, client("once-receiver", true)
	return r
}

func (r *faultRun) run() {
	t := r.t
	begin := time.Now()
	defer func() {
		if t.Failed() {
			r.explain()
		}
	}()
	for _, n := range r.nodes {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	up, err := within(readyWithin(), func() error { return allReady(r.nodes) })
	if err != nil {
		t.Fatalf("at the start: %v", err)
	}
	r.subscribe()
	stopWriting, stopReading := make(chan struct{}), make(chan struct{})
	var writing, reading sync.WaitGroup
	r.begin(&writing, &reading, stopWriting, stopReading)
	struck := r.strikeAll()
	settled, err := within(readyWithin(), func() error { return allReady(r.nodes) })
	if err != nil {
		t.Errorf("after the last fault: %v", err)
	}
	if struck != nil {
		t.Error(struck)
	}
	<-time.After(500 * time.Millisecond)
	if err != nil || struck != nil { // what did not come back cannot have delivered: that would look like loss
		r.sayWhere()
		close(stopWriting)
		close(stopReading)
		writing.Wait()
		reading.Wait()
		return
	}
	close(stopWriting)
	writing.Wait()
	delivered, err := within(deliverWithin(), r.complete)
	if err != nil {
		t.Errorf("LOST: %v", err)
	}
	close(stopReading)
	reading.Wait()
	r.check()
	total, twice := r.totals()
	t.Logf("seed %d: %d acknowledged and delivered, %d twice, to the members of a group %d twice; of QoS 2 %d, %d twice; first ready after %.1f s, again after %.1f s, delivered %.1f s later; %.0f s in all",
		r.seed, total, twice, r.group.twice(t, r.writers), r.onceDone(), r.again, up.Seconds(), settled.Seconds(), delivered.Seconds(), time.Since(begin).Seconds())
	var ending sync.WaitGroup
	for _, n := range r.nodes {
		ending.Go(n.kill)
	}
	ending.Wait()
}

// sayWhere makes the nodes that are not ready write to their logs what each of their goroutines does.
func (r *faultRun) sayWhere() {
	for _, n := range r.nodes {
		if n.ready() != nil {
			if ended := n.signal(syscall.SIGABRT, true); ended != nil {
				<-ended
			}
		}
	}
}

// subscribe makes the sessions.
func (r *faultRun) subscribe() {
	for _, s := range []struct {
		*roamer
		qos    byte
		filter string
	}{{r.readers[0].roamer, 1, "f/#"}, {r.readers[1].roamer, 1, "f/#"}, {r.twoBy, 2, "once"}} {
		c := s.settle(r.t)
		c.subscribe(s.qos, s.filter)
		c.nc.Close()
	}
	r.group.subscribe(r.t)
}

func (r *faultRun) begin(writing, reading *sync.WaitGroup, stopWriting, stopReading <-chan struct{}) {
	for _, w := range r.writers {
		writing.Go(func() { w.run(r.t, stopWriting, w.use) })
	}
	writing.Go(func() { r.sendOnce(stopWriting) })
	for _, s := range r.readers {
		reading.Go(func() {
			s.run(r.t, stopReading, func(c *rawClient, present bool) {
				r.expect(present, s.roamer)
				pinged(c, s.got.read)
			})
		})
	}
	r.group.run(r.t, reading, stopReading)
	reading.Go(func() {
		r.twoBy.run(r.t, stopReading, func(c *rawClient, present bool) {
			r.expect(present, r.twoBy)
			pinged(c, r.two.read)
		})
	})
}

// sendOnce publishes with QoS 2.
func (r *faultRun) sendOnce(stopWriting <-chan struct{}) {
	first := true
	r.onceBy.run(r.t, stopWriting, func(c *rawClient, present bool) {
		r.expect(present || first, r.onceBy)
		for dup := true; !ended(stopWriting); dup = false {
			if !r.once.open {
				r.once.n, r.once.open, r.once.received, dup = r.once.n+1, true, false, false
			}
			if r.once.step(c, dup) != nil {
				return
			}
			first = false
		}
	})
}

// expect notes a session that is gone.
func (r *faultRun) expect(present bool, who *roamer) {
	if !present {
		r.lost.Lock()
		r.absent = append(r.absent, fmt.Sprintf("%s at %s", who.id, who.nodes[who.at.Load()].name))
		r.lost.Unlock()
	}
}

func (r *faultRun) strikeAll() error {
	for _, f := range r.steps {
		<-time.After(f.After)
		for _, w := range r.writers {
			w.takeGap()
		}
		if err := r.strike(f); err != nil {
			return err
		}
		if !f.Settle {
			continue
		}
		took, err := within(readyWithin(), func() error { return allReady(r.nodes) })
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		var gaps []string
		for _, w := range r.writers {
			gaps = append(gaps, fmt.Sprintf("%s %d ms", w.id, w.takeGap().Milliseconds()))
		}
		r.t.Logf("%s: ready %.1f s later; longest time without PUBACK: %s", f, took.Seconds(), strings.Join(gaps, ", "))
	}
	return nil
}

// complete is nil when all that was acknowledged has been delivered.
func (r *faultRun) complete() error {
	var errs []error
	for _, s := range r.readers {
		for _, w := range r.writers {
			if lost := s.got.missing(w.topic(), w.acked); len(lost) > 0 {
				errs = append(errs, fmt.Errorf("%s misses of %s, %d acknowledged: %s", s.id, w.topic(), w.acked, shorten(lost)))
			}
		}
	}
	if err := r.group.missing(r.writers); err != nil {
		errs = append(errs, err)
	}
	if want := fmt.Sprint(r.onceDone()); !r.two.has(want) {
		errs = append(errs, fmt.Errorf("%s has not got message %s", r.twoBy.id, want))
	}
	return errors.Join(errs...)
}

// onceDone is how many messages of QoS 2 are acknowledged.
func (r *faultRun) onceDone() int {
	if r.once.open && !r.once.received {
		return r.once.n - 1 // the last one may have arrived or not
	}
	return r.once.n
}

func shorten(list []int) string {
	if len(list) > 20 {
		return fmt.Sprintf("%d, among them %v … %v", len(list), list[:10], list[len(list)-5:])
	}
	return fmt.Sprint(list)
}

// check is what is wrong besides what is missing.
func (r *faultRun) check() {
	t := r.t
	for _, n := range r.nodes {
		for _, d := range n.died {
			t.Error(d)
		}
	}
	for _, a := range slices.Concat(r.absent, r.group.absent) {
		t.Errorf("the session of %s is gone", a)
	}
	for _, s := range r.readers {
		topics := map[string]*numberer{}
		for _, w := range r.writers {
			topics[w.topic()] = w
		}
		for topic, seen := range s.got.seen {
			for seq := range seen {
				if w := topics[topic]; w == nil || seq < 1 || seq > w.sent {
					t.Errorf("%s got %s %d, which nobody sent", s.id, topic, seq)
				}
			}
		}
		for _, o := range s.got.reorder {
			if w := topics[o.topic]; !w.refused[o.seq] {
				t.Errorf("ORDER: %s: %s", s.id, o)
			}
		}
	}
	r.checkOnce()
	r.sameShow()
	r.undamaged()
}

// checkOnce: each number of QoS 2 arrived once, in order, and none that was not sent.
func (r *faultRun) checkOnce() {
	times := map[int]int{}
	last := 0
	for i, got := range r.two.got {
		n, err := strconv.Atoi(got)
		if err != nil || n < 1 || n > r.once.n {
			r.t.Errorf("QoS 2: %q arrived, which nobody sent", got)
			continue
		}
		if times[n]++; times[n] == 2 {
			r.again++
		}
		if n != last+1 {
			r.t.Errorf("QoS 2: at place %d arrived %d behind %d", i+1, n, last)
		}
		last = n
	}
	for n := 1; n <= r.onceDone(); n++ {
		if times[n] == 0 {
			r.t.Errorf("LOST: QoS 2: %d of %d", n, r.onceDone())
		}
	}
}

// sameShow: every node tells the same about the cluster.
func (r *faultRun) sameShow() {
	if _, err := within(readyWithin(), func() error { return sameShow(r.nodes) }); err != nil {
		r.t.Errorf("cluster show: %v", err)
	}
}

// undamaged: no fault of the rig damages a disk, and none is taken for damage.
func (r *faultRun) undamaged() {
	for _, n := range r.nodes {
		if log, err := os.ReadFile(n.log); err != nil || strings.Contains(string(log), errStoreDamaged.Error()) {
			r.t.Errorf("%s says that its copy of the logs is damaged, %v", n.name, err)
		}
	}
}

func sameShow(nodes []*faultNode) error {
	first := ""
	for _, n := range nodes {
		s, err := n.show()
		if err != nil {
			return err
		}
		if first == "" {
			first = s
		}
		if s != first || strings.Contains(s, "ready false") || strings.Contains(s, "quorum false") {
			return fmt.Errorf("%s says %q, %s says %q", nodes[0].name, first, n.name, s)
		}
	}
	return nil
}

func (r *faultRun) totals() (acked, twice int) {
	for _, w := range r.writers {
		acked += w.acked
	}
	for _, s := range r.readers {
		twice += s.got.twice
	}
	return acked, twice
}

// explain says what one needs to see a failure again.
func (r *faultRun) explain() {
	test, _, _ := strings.Cut(r.t.Name(), "/")
	r.t.Logf("again: HOLDFAST_SOAK=%s HOLDFAST_SEED=%d go test -v -run %s ./broker", os.Getenv("HOLDFAST_SOAK"), r.seed, test)
	for _, f := range r.steps {
		r.t.Logf("  %s", f)
	}
	dir := filepath.Join("..", "bin", fmt.Sprintf("faults-seed-%d", r.seed))
	for _, n := range r.nodes {
		r.t.Logf("%s, the end of its log:\n%s", n.name, n.tailOf(40))
		if os.Getenv("HOLDFAST_SOAK") != "1" {
			continue
		}
		log, err := os.ReadFile(n.log)
		if err == nil {
			err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, n.name+".log"), log, 0o644))
		}
		r.t.Logf("all of it: %s %v", dir, err)
	}
}
