package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// sharers is the members of a group in a test with programs: together they get everything.
type sharers struct {
	filter  string
	members []*roamer
	mu      sync.Mutex
	times   map[string]map[int]int // topic → number → how often it came to any of them
	absent  []string               // sessions that were not there
}

func newSharers(filter string, members ...*roamer) *sharers {
	return &sharers{filter: filter, members: members, times: map[string]map[int]int{}}
}

// subscribe makes the members' sessions.
func (s *sharers) subscribe(t testing.TB) {
	for _, m := range s.members {
		c := m.settle(t)
		if code := c.subscribe(1, s.filter)[0]; code != 1 {
			t.Fatalf("%s: SUBACK 0x%02X", m.id, code)
		}
		c.nc.Close()
	}
}

// run reads with all members until stop.
func (s *sharers) run(t testing.TB, reading *sync.WaitGroup, stop <-chan struct{}) {
	for _, m := range s.members {
		reading.Go(func() {
			m.run(t, stop, func(c *rawClient, present bool) {
				if !present {
					s.mu.Lock()
					s.absent = append(s.absent, fmt.Sprintf("%s at %s", m.id, m.nodes[m.at.Load()].name))
					s.mu.Unlock()
				}
				pinged(c, s.read)
			})
		})
	}
}

func (s *sharers) read(c *rawClient) {
	for {
		p, err := c.next()
		if err != nil {
			return
		}
		if p.kind != mqtt.PUBLISH {
			continue
		}
		m := p.message(c.version)
		seq := 0
		for _, u := range mqtt.UserProperties(m.props) {
			if u.Key == "seq" {
				fmt.Sscan(u.Value, &seq)
			}
		}
		s.mu.Lock()
		if s.times[m.topic] == nil {
			s.times[m.topic] = map[int]int{}
		}
		s.times[m.topic][seq]++
		s.mu.Unlock()
		if _, err := c.nc.Write(mqtt.AppendAck(nil, mqtt.PUBACK, c.version, m.id, 0, "")); err != nil {
			return
		}
	}
}

// missing is what writers know to be stored and no member got.
func (s *sharers) missing(writers []*numberer) error {
	var errs []error
	for _, w := range writers {
		w.mu.Lock()
		acked := w.acked
		w.mu.Unlock()
		errs = append(errs, s.missingOf(w, acked))
	}
	return errors.Join(errs...)
}

func (s *sharers) missingOf(w *numberer, upTo int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lost []int
	for i := 1; i <= upTo; i++ {
		if s.times[w.topic()][i] == 0 {
			lost = append(lost, i)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("the members of %s miss of %s, %d acknowledged: %s", s.filter, w.topic(), upTo, shorten(lost))
}

// twice counts what came more than once and was published once; and what nobody published.
func (s *sharers) twice(t testing.TB, writers []*numberer) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range writers {
		w.mu.Lock()
		sent, resent := w.sent, maps.Clone(w.resent)
		w.mu.Unlock()
		for seq, times := range s.times[w.topic()] {
			if seq < 1 || seq > sent {
				t.Errorf("a member of %s got %s %d, which nobody sent", s.filter, w.topic(), seq)
			}
			if times > 1 && !resent[seq] {
				n += times - 1
			}
		}
	}
	return n
}

// shareOwner is the node that owns a group, by what a node says of one of its members.
func shareOwner(n *faultNode, member string) (string, error) {
	code, body, err := n.get("/v1/sessions/" + member)
	if err != nil || code != http.StatusOK {
		return "", fmt.Errorf("%s: %d %s %w", n.name, code, body, err)
	}
	var d SessionDetail
	if err := json.Unmarshal(body, &d); err != nil {
		return "", err
	}
	for _, s := range d.Subs {
		if s.Share != nil && s.Share.Owner != "" {
			return s.Share.Owner, nil
		}
	}
	return "", fmt.Errorf("%s knows no owner", n.name)
}

// dealtAgain is how many messages of groups the nodes, since they started, have dealt again because another one was gone.
func dealtAgain(t testing.TB, nodes []*faultNode) (sum int) {
	t.Helper()
	for _, n := range nodes {
		code, body, err := n.get("/metrics")
		m := regexp.MustCompile(`(?m)^` + metricPrefix + `shared_dealt_again_total (\d+)$`).FindSubmatch(body)
		if err != nil || code != http.StatusOK || m == nil {
			t.Fatalf("%s: /metrics: %d %v %s", n.name, code, err, body)
		}
		k, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		sum += k
	}
	return sum
}

// TestShareKill: the node that owns a group is killed, then one that has members, and, with HOLDFAST_SOAK=1,
// the owner's is stopped for a while. Nobody misses anything that was acknowledged; what comes twice had
// been with a node that was killed or stopped.
func TestShareKill(t *testing.T) {
	t.Parallel()
	nodes := faultNodesIn(t, buildBroker(t), networkOfShareKill)
	for _, n := range nodes {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := within(readyWithin(), func() error { return allReady(nodes) }); err != nil {
		t.Fatal(err)
	}
	var writers []*numberer
	var members []*roamer
	for i := range nodes {
		w := &numberer{roamer: &roamer{id: fmt.Sprint("w", i+1), nodes: nodes, home: i, patience: patience, rnd: rand.New(rand.NewPCG(1, uint64(i)))}, refused: map[int]bool{}, resent: map[int]bool{}, last: time.Now()}
		writers = append(writers, w)
		members = append(members, &roamer{id: fmt.Sprint("m", i+1), nodes: nodes, home: i, patience: patience, rnd: rand.New(rand.NewPCG(2, uint64(i)))})
	}
	s := newSharers("$share/g/f/#", members...)
	s.subscribe(t)
	stopWriting, stopReading := make(chan struct{}), make(chan struct{})
	var writing, reading sync.WaitGroup
	s.run(t, &reading, stopReading)
	for _, w := range writers {
		writing.Go(func() { w.run(t, stopWriting, w.use) })
	}
	owner := func() (at int) {
		if _, err := within(readyWithin(), func() error {
			name, err := shareOwner(nodes[0], "m1")
			for i, n := range nodes {
				if n.name == name {
					at = i
				}
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		return at
	}
	goesOn := func(what string) {
		target := map[*numberer]int{}
		for _, w := range writers {
			w.mu.Lock()
			target[w] = w.acked + 50
			w.mu.Unlock()
		}
		took, err := within(deliverWithin(), func() error {
			for _, w := range writers {
				w.mu.Lock()
				acked := w.acked
				w.mu.Unlock()
				if acked < target[w] {
					return fmt.Errorf("%s has %d acknowledged", w.id, acked)
				}
				if err := s.missingOf(w, target[w]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%s: everything is delivered again %.1f s later, %d twice so far", what, took.Seconds(), s.twice(t, writers))
	}
	goesOn("at the start")
	before := s.twice(t, writers)
	if again := dealtAgain(t, nodes); before > again { // nodes so slow that they hold each other for dead deal some again, and count them
		t.Errorf("%d came twice, %d were dealt again, and nothing has happened", before, again)
	}
	type fault struct {
		what string
		of   func() int
		down time.Duration
		stop bool
	}
	faults := []fault{
		{"kill -9 of the owner's node", owner, 4 * time.Second, false},
		{"kill -9 of a member's node", func() int { return (owner() + 1) % 3 }, time.Second, false},
	}
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		faults = append(faults, fault{"SIGSTOP of the owner's node", owner, 6 * time.Second, true})
	}
	for _, f := range faults {
		n := nodes[f.of()]
		if f.stop {
			n.signal(syscall.SIGSTOP, false)
			<-time.After(f.down)
			n.signal(syscall.SIGCONT, false)
		} else {
			n.kill()
			<-time.After(f.down)
			if err := n.start(); err != nil {
				t.Fatal(err)
			}
		}
		goesOn(f.what)
		if _, err := within(readyWithin(), func() error { return allReady(nodes) }); err != nil {
			t.Fatal(err)
		}
		// One member was on that node. It acknowledges at once, so little of its window was in use; the rest is
		// what the group had finished there since its last save.
		now := s.twice(t, writers)
		if now-before > window311+maxWindow {
			t.Errorf("%s: %d came twice", f.what, now-before)
		}
		before = now
	}
	close(stopWriting)
	writing.Wait()
	if _, err := within(deliverWithin(), func() error { return s.missing(writers) }); err != nil {
		t.Errorf("LOST: %v", err)
	}
	close(stopReading)
	reading.Wait()
	for _, a := range s.absent {
		t.Errorf("the session of %s is gone", a)
	}
	if t.Failed() {
		for _, n := range nodes {
			t.Logf("%s:\n%s", n.name, n.tailOf(40))
		}
	}
}
