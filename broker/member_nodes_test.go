package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// place is a place for programs that become a cluster: their settings change while the test runs.
type place struct {
	t       *testing.T
	program string
	dir     string
	network string
	secret  string
	nodes   []*faultNode
}

// newPlace prepares n nodes on a loopback network of this test; none has settings or runs.
func newPlace(t *testing.T, program string, number, n int) *place {
	s := &place{t: t, program: program, dir: t.TempDir(), network: fmt.Sprintf("127.%d.%d.", 128+os.Getpid()%60, number)}
	s.secret = filepath.Join(s.dir, "secret")
	if err := os.WriteFile(s.secret, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprint("n", i+1)
		n := &faultNode{name: name, addr: fmt.Sprintf("%s1%d:1883", s.network, i+1), program: program,
			log: filepath.Join(s.dir, name+".log"), config: filepath.Join(s.dir, name+".toml"), data: s.data(i),
			in: func(fn func()) { fn() }, dial: func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, mostPatience) }}
		socket := filepath.Join(s.data(i), "admin.sock")
		n.admin = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
		t.Cleanup(n.kill)
		t.Cleanup(func() {
			if t.Failed() || os.Getenv("HOLDFAST_TEST_LOG") != "" {
				t.Logf("%s, the end of its log:\n%s", n.name, n.tailOf(60))
			}
		})
		s.nodes = append(s.nodes, n)
	}
	return s
}

func (s *place) data(i int) string { return filepath.Join(s.dir, fmt.Sprint("n", i+1)) }

// settle writes a node's settings: alone, or as one of a cluster of so many nodes.
func (s *place) settle(i, cluster int, more ...string) {
	s.t.Helper()
	text := fmt.Sprintf("[node]\nname = %q\ndata_dir = %q\n[listen]\nmqtt = %q\nadmin = \"\"\n%s\n",
		s.nodes[i].name, s.data(i), s.nodes[i].addr, strings.Join(more, "\n"))
	if cluster > 1 {
		var peers []string
		for j := range cluster {
			if j != i {
				peers = append(peers, fmt.Sprintf(`"%s1%d:6222"`, s.network, j+1))
			}
		}
		text += fmt.Sprintf("[cluster]\nname = \"site\"\nlisten = \"%s1%d:6222\"\nsecret_file = %q\npeers = [%s]\n", s.network, i+1, s.secret, strings.Join(peers, ", "))
	}
	if err := os.WriteFile(s.nodes[i].config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// start starts nodes that have settings.
func (s *place) start(which ...int) {
	s.t.Helper()
	for _, i := range which {
		if err := s.nodes[i].start(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// ready waits until nodes are ready and, in a cluster, tell the same about each other: clients may publish meanwhile.
func (s *place) ready(which ...int) time.Duration {
	s.t.Helper()
	took, err := within(2*readyWithin(), func() error {
		var list []*faultNode
		for _, i := range which {
			list = append(list, s.nodes[i])
		}
		if err := allReady(list); err != nil {
			return err
		}
		first := ""
		for _, n := range list {
			show, err := n.told(false)
			if err != nil {
				return err
			}
			if first == "" {
				first = show
			}
			if show != first || strings.Contains(show, "ready false") || strings.Count(show, ";") != len(which) {
				return fmt.Errorf("%s says %q, %s says %q", list[0].name, first, n.name, show)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return took
}

// dial connects to a node; one that has just become ready may refuse for a moment.
func (s *place) dial(i int, id string, o opts) (c *rawClient, present bool) {
	s.t.Helper()
	eventually(s.t, id+" is taken by "+s.nodes[i].name, func() bool {
		nc, ack, err := tryDial(s.t, s.nodes[i].addr, id, o)
		if err != nil {
			return false
		}
		if ack.body[1] != 0 {
			nc.nc.Close()
			<-time.After(50 * time.Millisecond)
			return false
		}
		c, present = nc, ack.body[0] == 1
		return true
	})
	return c, present
}

// run runs a command of the program against a node and returns what it prints, and its exit code.
func (s *place) run(i int, args ...string) (string, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*readyWithin())
	defer cancel()
	c := exec.CommandContext(ctx, s.program, append([]string{"--config", s.nodes[i].config}, args...)...)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// must is run for what has to succeed.
func (s *place) must(i int, args ...string) string {
	s.t.Helper()
	out, code := s.run(i, args...)
	if code != 0 {
		s.t.Fatalf("%v: exit code %d: %s", args, code, out)
	}
	return out
}

// members is what a node says about the cluster.
func (s *place) members(i int) (ClusterBody, error) {
	var b ClusterBody
	code, body, err := s.nodes[i].get("/v1/cluster")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d %s", code, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &b)
	}
	return b, err
}

// guests is publishers and subscribers who go on while nodes come and go.
type guests struct {
	t       *testing.T
	writers []*numberer
	readers []*reader
	writing sync.WaitGroup
	reading sync.WaitGroup
	hops    bool // from node to node as soon as a connection ends
	stopW   chan struct{}
	stopR   chan struct{}

	mu     sync.Mutex
	absent []string
}

// newGuests makes one writer and one session for each home, who come back where they were, and one of each
// that roams over all of the nodes.
func newGuests(t *testing.T, nodes []*faultNode, homes ...int) *guests {
	tr := &guests{t: t, stopW: make(chan struct{}), stopR: make(chan struct{})}
	rnd := newRand(uint64(len(nodes)))
	client := func(id string, home int) *roamer { return &roamer{id: id, nodes: nodes, home: home, rnd: rnd()} }
	for _, h := range homes {
		w := &numberer{roamer: client(fmt.Sprint("writer-", h+1), h), refused: map[int]bool{}, resent: map[int]bool{}, last: time.Now()}
		tr.writers = append(tr.writers, w)
		tr.readers = append(tr.readers, &reader{client(fmt.Sprint("reader-", h+1), h), newGatherer()})
	}
	return tr
}

// begin makes the sessions at the homes and lets all go on.
func (tr *guests) begin() {
	for _, s := range tr.readers {
		c := s.settle(tr.t)
		c.subscribe(1, "f/#")
		c.nc.Close()
	}
	for _, w := range tr.writers {
		tr.writing.Go(func() { tr.going(w.roamer)(tr.t, tr.stopW, w.use) })
	}
	for _, s := range tr.readers {
		tr.reading.Go(func() {
			tr.going(s.roamer)(tr.t, tr.stopR, func(c *rawClient, present bool) {
				if !present {
					tr.mu.Lock()
					tr.absent = append(tr.absent, s.id)
					tr.mu.Unlock()
				}
				pinged(c, s.got.read)
			})
		})
	}
}

func (tr *guests) going(r *roamer) func(testing.TB, <-chan struct{}, func(*rawClient, bool)) {
	if tr.hops {
		return r.hop
	}
	return r.run
}

// gaps is the longest time without PUBACK of any writer since it was last asked for.
func (tr *guests) gaps() (longest time.Duration) {
	for _, w := range tr.writers {
		longest = max(longest, w.takeGap())
	}
	return longest
}

// acked is how many messages are acknowledged.
func (tr *guests) acked() (n int) {
	for _, w := range tr.writers {
		w.mu.Lock()
		n += w.acked
		w.mu.Unlock()
	}
	return n
}

// goesOn waits until every writer has some more acknowledged.
func (tr *guests) goesOn() {
	tr.t.Helper()
	for _, w := range tr.writers {
		w.mu.Lock()
		was := w.acked
		w.mu.Unlock()
		eventually(tr.t, w.id+" goes on", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.acked >= was+20
		})
	}
}

// end stops all and looks whether everything that was acknowledged has come, to sessions that were always there.
func (tr *guests) end() {
	tr.t.Helper()
	close(tr.stopW)
	tr.writing.Wait()
	_, err := within(deliverWithin(), func() error {
		var errs []error
		for _, s := range tr.readers {
			for _, w := range tr.writers {
				if lost := s.got.missing(w.topic(), w.acked); len(lost) > 0 {
					errs = append(errs, fmt.Errorf("%s misses of %s, %d acknowledged: %s", s.id, w.topic(), w.acked, shorten(lost)))
				}
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		tr.t.Errorf("LOST: %v", err)
	}
	close(tr.stopR)
	tr.reading.Wait()
	for _, a := range tr.absent {
		tr.t.Errorf("the session of %s was not there", a)
	}
	twice := 0
	for _, s := range tr.readers {
		twice += s.got.twice
		for _, o := range s.got.reorder {
			tr.t.Errorf("ORDER: %s: %s", s.id, o)
		}
	}
	tr.t.Logf("%d acknowledged and delivered to %d sessions, %d twice", tr.acked(), len(tr.readers), twice)
}

// placed is nil when every log is stored on the nodes of its ring, as a node of the cluster shows it.
func (s *place) placed(i, replicas int) error {
	b, err := s.members(i)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range b.Members {
		names = append(names, m.Name)
	}
	for _, m := range b.Members {
		if m.Copying != "" {
			return fmt.Errorf("%s %s", m.Name, m.Copying)
		}
		for _, l := range m.Logs {
			want := slices.Sorted(slices.Values(ring(names, m.Name, replicas)))
			if fmt.Sprint(l.On) != fmt.Sprint(want) {
				return fmt.Errorf("the %s log of %s is on %v, not on %v", l.Name, m.Name, l.On, want)
			}
		}
	}
	return nil
}

// over says whether the process has ended.
func (n *faultNode) over() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd == nil
}
