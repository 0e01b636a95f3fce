package broker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// engineChild is one node in a process of its own: an engine and the writer of its messages log. It reads
// commands from its input and answers each with one line.
func engineChild(config string) {
	var cfg engineConfig
	var wire childConfig
	if err := json.Unmarshal([]byte(config), &wire); err != nil {
		panic(err)
	}
	cfg = engineConfig{dir: wire.Dir, node: wire.Node, id: wire.ID, syncAlways: true, cluster: &wire.Cluster}
	out := json.NewEncoder(os.Stdout)
	c := &childNode{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	var err error
	if c.engine, err = openEngine(cfg, c.log); err != nil {
		_ = out.Encode(reply{Err: err.Error()})
		os.Exit(1)
	}
	_ = out.Encode(reply{Text: "open"})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		text, err := c.do(strings.Fields(lines.Text()))
		r := reply{Text: text}
		if err != nil {
			r.Err = err.Error()
		}
		_ = out.Encode(r)
	}
	os.Exit(0)
}

type childConfig struct {
	Dir, Node, ID string
	Cluster       ClusterConfig
}

type reply struct{ Text, Err string }

type childNode struct {
	*engine
	log   *slog.Logger
	s     *logStream
	w     *writer
	acked atomic.Int64
	gap   atomic.Int64 // the longest time between two acknowledgements since gap was asked for, ns
}

func (c *childNode) do(words []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch words[0] {
	case "begin": // life, first number
		life, _ := strconv.ParseUint(words[1], 10, 64)
		from, _ := strconv.Atoi(words[2])
		return "", c.begin(ctx, life, from)
	case "acked":
		return fmt.Sprint(c.acked.Load()), nil
	case "gap":
		return fmt.Sprint(time.Duration(c.gap.Swap(0))), nil
	case "failure":
		return fmt.Sprint(c.w.failure()), nil
	case "topics": // of a node
		got, err := topics(ctx, c.engine, words[1])
		return strings.Join(got, " "), err
	case "fence": // a node
		at, err := c.fence(ctx, kindMessages, words[1], 0, Header{Incarnation: 99, Time: 1}, nil)
		return at.String(), err
	case "home":
		return fmt.Sprint(c.s.isHome()), nil
	}
	return "", errors.New("what?")
}

// begin opens the log and writes numbers, one after the other, each when the one before is acknowledged.
func (c *childNode) begin(ctx context.Context, life uint64, from int) error {
	s, err := c.open(ctx, kindMessages, 1<<30)
	if err == nil {
		err = s.bringHome(ctx)
	}
	if err != nil {
		return err
	}
	begin := time.Now()
	w, err := openWriter(ctx, s, writerConfig{node: c.cfg.node, incarnation: life, batchBytes: batchBytes, window: batchWindow,
		pending: pendingBytes, timeout: c.patience(), room: c.room, begin: c.roomToBegin, reopen: c.reopen, commit: func(*Batch) {},
		mark: func(uint64) {}, announce: c.announcer(kindMessages), why: c.whyNot, wall: time.Now, mono: func() time.Duration { return time.Since(begin) }, log: c.log})
	if err != nil {
		return err
	}
	w.start()
	if err := w.begin(ctx); err != nil {
		return err
	}
	c.s, c.w = s, w
	go func() {
		last := time.Now()
		for i := from; w.put(context.Background(), &Record{Kind: KindMessage, Topic: fmt.Sprint(i)}) == nil; i++ {
			c.acked.Store(int64(i))
			c.gap.Store(max(c.gap.Load(), int64(time.Since(last))))
			last = time.Now()
		}
	}()
	return nil
}

// childProc is such a process, seen from the test.
type childProc struct {
	t   *testing.T
	cfg childConfig
	cmd *exec.Cmd
	mu  sync.Mutex
	in  io.WriteCloser
	out *json.Decoder
}

func startChildren(t *testing.T, n int) (out []*childProc) {
	for _, cfg := range clusterConfigs(t, n) {
		c := &childProc{t: t, cfg: childConfig{cfg.dir, cfg.node, cfg.id, *cfg.cluster}}
		t.Cleanup(c.kill)
		c.start()
		out = append(out, c)
	}
	return out
}

func (c *childProc) start() {
	c.t.Helper()
	config, err := json.Marshal(c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), "HOLDFAST_TEST_ENGINE="+string(config))
	log := &childLog{c: c}
	c.cmd.Stderr = log
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.out = json.NewDecoder(out)
	var r reply
	if err := c.out.Decode(&r); err != nil || r.Text != "open" {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // its log is whole then
		c.cmd = nil
		c.t.Fatalf("%s does not open: %+v, %v; its log ends with\n%s", c.cfg.Node, r, err, strings.Join(log.last, ""))
	}
}

// childLog keeps the last lines that a child logged as warnings or errors: the reason, if it does not open.
type childLog struct {
	c    *childProc
	mu   sync.Mutex
	last []string
}

func (l *childLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	for line := range strings.Lines(string(p)) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "level=DEBUG") { // a panic's lines, too
			l.last = append(l.last[max(0, len(l.last)-19):], line)
		}
	}
	l.mu.Unlock()
	if os.Getenv("HOLDFAST_TEST_LOG") != "" {
		fmt.Fprintf(os.Stderr, "%s: %s", l.c.cfg.Node, p)
	}
	return len(p), nil
}

func (c *childProc) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
}

func (c *childProc) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// try sends a command and returns the answer.
func (c *childProc) try(command string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r reply
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		return "", err
	}
	if err := c.out.Decode(&r); err != nil {
		return "", err
	}
	if r.Err != "" {
		return r.Text, errors.New(r.Err)
	}
	return r.Text, nil
}

func (c *childProc) ask(command string) string {
	c.t.Helper()
	text, err := c.try(command)
	if err != nil {
		c.t.Fatalf("%s: %s: %v", c.cfg.Node, command, err)
	}
	return text
}

func (c *childProc) acked() int {
	c.t.Helper()
	n, err := strconv.Atoi(c.ask("acked"))
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// all does something to each at once.
func all(cs []*childProc, fn func(*childProc)) {
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() { fn(c) })
	}
	wg.Wait()
	if cs[0].t.Failed() {
		cs[0].t.FailNow()
	}
}

// goesOn waits for more acknowledgements.
func (c *childProc) goesOn(n int) {
	c.t.Helper()
	goal := c.acked() + n
	eventually(c.t, c.cfg.Node+" goes on", func() bool { return c.acked() >= goal })
}

// holds checks that the log of a node has the numbers 1, 2, … in order, each once, at least up to acked. A leader that is
// new may have something to enter yet.
func (c *childProc) holds(node string, acked int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("the log of %s has all %d that were acknowledged, as %s reads it", node, acked, c.cfg.Node), func() bool {
		got := strings.Fields(c.ask("topics " + node))
		for i, s := range got {
			if s != fmt.Sprint(i+1) {
				c.t.Fatalf("the log of %s has %s in place of %d, as %s reads it", node, s, i+1, c.cfg.Node)
			}
		}
		return len(got) >= acked
	})
}

// TestKilledEngines: kill -9 of one node stops no other; without a quorum nothing is acknowledged and the
// reason is told; all killed and started again have everything that was acknowledged, and go on.
func TestKilledEngines(t *testing.T) {
	t.Parallel()
	nodes := startChildren(t, 3)
	all(nodes, func(c *childProc) { c.ask("begin 1 1") })
	n1, n2, n3 := nodes[0], nodes[1], nodes[2]
	for _, c := range nodes {
		c.goesOn(20)
		c.ask("gap")
	}
	acked2 := n2.acked()
	n2.kill()
	n1.goesOn(50)
	n3.goesOn(50)
	t.Logf("longest gap of the others after a kill: %s, %s", n1.ask("gap"), n3.ask("gap"))
	n3.holds("n2", acked2) // as soon as its stream has a new leader

	acked3 := n3.acked()
	n3.kill()
	begin := time.Now()
	eventually(t, "n1 says that it has no quorum", func() bool { return strings.Contains(n1.ask("failure"), "no quorum") })
	t.Logf("no quorum said after %s", time.Since(begin))
	stuck := n1.acked()
	n2.start()
	n1.goesOn(1) // what was in doubt is stored now, once
	if n1.acked() < stuck {
		t.Error("acknowledgements went back")
	}
	n3.start()
	n1.goesOn(20)
	acked1 := n1.acked()
	all(nodes, func(c *childProc) { c.kill() })

	all(nodes, func(c *childProc) { c.start() })
	n2.holds("n1", acked1)
	n2.holds("n2", acked2)
	n2.holds("n3", acked3)
	all(nodes, func(c *childProc) {
		have := len(strings.Fields(c.ask("topics " + c.cfg.Node)))
		c.ask(fmt.Sprintf("begin 2 %d", have+1))
	})
	for _, c := range nodes {
		c.goesOn(20)
	}
	n1.holds("n2", n2.acked())
}

// TestPausedEngine: a node that is stopped (SIGSTOP) holds nobody up; its log is fenced meanwhile; when it
// wakes, nothing that it still has in hand is acknowledged, and its writer stops for good. When
// its store is lost it joins as a new peer, which takes the old one's place in the quorum.
func TestPausedEngine(t *testing.T) {
	t.Parallel()
	nodes := startChildren(t, 3)
	all(nodes, func(c *childProc) { c.ask("begin 1 1") })
	n1, n2, n3 := nodes[0], nodes[1], nodes[2]
	for _, c := range nodes {
		c.goesOn(20)
		c.ask("gap")
	}
	n1.signal(syscall.SIGSTOP)
	n2.goesOn(50)
	n3.goesOn(50)
	at := n3.ask("fence n1")
	t.Logf("longest gap of the others after a pause: %s, %s; fence at %s", n2.ask("gap"), n3.ask("gap"), at)
	if again := n2.ask("fence n1"); again != at {
		t.Errorf("fenced at %s and at %s", at, again)
	}
	n2.holds("n3", n3.acked())
	n1.signal(syscall.SIGCONT)
	eventually(t, "n1's writer has stopped", func() bool { return strings.Contains(n1.ask("failure"), errForeign.Error()) })
	acked := n1.acked()
	n2.holds("n1", acked)
	if got := len(strings.Fields(n2.ask("topics n1"))); got > acked+1 { // the last may be stored and not be told
		t.Errorf("%d messages are in the log, %d were acknowledged", got, acked)
	}

	n1.kill()
	if err := os.RemoveAll(n1.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	n1.cfg.ID = "b2"
	n1.start()
	have := len(strings.Fields(n2.ask("topics n1")))
	n1.ask(fmt.Sprintf("begin 3 %d", have+1))
	n1.goesOn(20)
	n1.holds("n2", n2.acked())
	n2.kill() // the new replica counts in the quorum
	n1.goesOn(20)
	n3.holds("n1", n1.acked())
}
