package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestDamagedCopyThatIsNeeded: with two of three copies damaged there is no majority to heal from. Nobody sets anything aside or
// founds a new cluster; both say what is the matter. When an administrator says that one of them is to be used, it is,
// and the other heals.
func TestDamagedCopyThatIsNeeded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(12, 1))
	c := startNodes(t, 3)
	c.begin()
	reader, _ := dialRaw(t, c.up[2].addr, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	pub, _ := dialRaw(t, c.up[2].addr, "writer", v5)
	numbers(pub, 1, 20, 3000)
	pub.disconnect()
	for _, b := range c.up { // none has to look first, though one may have heard of the founding a moment after the others
		if b.id.Empty || b.disk.empty.Load() {
			t.Errorf("%s does not know that its copy is whole", b.cfg.Node.Name)
		}
	}
	c.end()
	for i := range c.up {
		c.up[i] = nil
	}
	flip(t, rnd, files(t, c.cfgs[0].Node.DataDir, "HF_messages_6e33", ".blk")[0])
	remove(t, files(t, c.cfgs[1].Node.DataDir, "HF_messages_6e31", ".blk")...)

	begin := func(i int) *waiting { return c.beginWaiting(i, "nodes with whole copies", asItIs) }
	all := []*waiting{begin(0), begin(1), begin(2)}
	for i, w := range all[:2] {
		select {
		case <-w.says:
		case err := <-w.got:
			t.Fatalf("n%d did not wait: %v", i+1, err)
		}
	}
	all[1].end()
	if err := <-all[1].got; !errors.Is(err, context.Canceled) {
		t.Fatalf("n2 did not wait: %v", err)
	}
	for i, cfg := range c.cfgs {
		if aside, _ := filepath.Glob(cfg.Node.DataDir + "/jetstream.*"); len(aside) > 0 {
			t.Errorf("n%d has set its store aside: %q", i+1, aside)
		}
	}
	if err := os.WriteFile(filepath.Join(c.cfgs[1].Node.DataDir, "jetstream", asItIs), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all[1] = begin(1)
	for i, w := range all {
		if err := <-w.got; err != nil {
			t.Fatalf("n%d: %v", i+1, err)
		}
	}
	var serving sync.WaitGroup
	for i, w := range all {
		serving.Go(func() { c.up[i] = serveBroker(t, w.b) })
	}
	serving.Wait()
	if got := []int{c.up[0].id.Replaced, c.up[1].id.Replaced, c.up[2].id.Replaced}; got[0] != 1 || got[1]+got[2] != 0 {
		t.Errorf("replaced: %v", got)
	}
	reader, present := c.comesBack(0, "reader")
	if !present {
		t.Fatal("the session is gone")
	}
	hears(reader, 1, 20)
	c.end()
}

// waiting is a node that is starting.
type waiting struct {
	says chan struct{} // closed when a line of its log has all the words
	end  context.CancelFunc
	got  chan error // when it has started, or will not
	b    *Broker

	doing atomic.Pointer[string]

	t    testing.TB
	logs lastLines
}

// lastLines are the last of a node's log: what a test that fails has to tell.
type lastLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *lastLines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= 300 {
		l.lines = l.lines[1:]
	}
	l.lines = append(l.lines, line)
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// eventuallySays waits until what the node waits for has all the words.
func (w *waiting) eventuallySays(n int, words ...string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("n%d says %q", n, words), func() bool {
		select {
		case err := <-w.got:
			w.t.Fatalf("n%d did not wait: %v", n, err)
		default:
		}
		said := w.words()
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(said, word) })
	})
}

// words are what it does or waits for now.
func (w *waiting) words() string {
	if p := w.doing.Load(); p != nil {
		return *p
	}
	return ""
}

// beginWaiting starts a node that may have to wait, and listens to what it says.
func (c *nodes) beginWaiting(i int, words ...string) *waiting {
	w := &waiting{says: make(chan struct{}), got: make(chan error, 1), t: c.t}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("%s said last: %s\nits log:\n%s", c.cfgs[i].Node.Name, w.words(), &w.logs)
		}
	})
	var once sync.Once
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(p), word) }) {
			once.Do(func() { close(w.says) })
		}
		w.logs.add(string(p))
		if os.Getenv("HOLDFAST_TEST_LOG") != "" || bytes.Contains(p, []byte("level=ERROR")) {
			c.t.Logf("%s: %s", c.cfgs[i].Node.Name, p)
		}
		return len(p), nil
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(c.t.Context())
	w.end = cancel
	go func() {
		var err error
		w.b, err = newNode(c.cfgs[i], Options{Log: log, Starting: ctx, Starts: func(doing string) { w.doing.Store(&doing) }})
		w.got <- err
	}()
	return w
}
