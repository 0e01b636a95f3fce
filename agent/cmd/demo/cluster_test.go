package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/paho"
)

func TestHowMany(t *testing.T) {
	for in, want := range map[string]int{"": 1, "1": 1, "3": 3, "0": 0, "2": 0, "5": 0, "-1": 0, "three": 0, "03": 0} {
		n, err := howMany(in)
		if n != want || (err == nil) != (want > 0) {
			t.Errorf("NODES=%q: %d, %v", in, n, err)
		}
		if err != nil && !strings.Contains(err.Error(), "NODES=3") {
			t.Errorf("NODES=%q: %v: what should one write?", in, err)
		}
	}
}

// mosquittoLine is what mosquitto_sub prints of a message with -F "%t %x %P".
func mosquittoLine(p *paho.Publish) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %x", p.Topic, p.Payload)
	for _, u := range p.Properties.User {
		fmt.Fprintf(&b, " %s:%s", u.Key, u.Value)
	}
	return b.String() + "\n"
}

// TestMosquittoLines: what mosquitto_sub prints counts as what the demo's own client
// receives, and a line that is missing, cut or changed condemns.
func TestMosquittoLines(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(line string) string
		lost  bool
	}{
		"all":       {func(l string) string { return l }, false},
		"twice":     {func(l string) string { return l + l }, false},
		"dropped":   {func(string) string { return "" }, true},
		"unsigned":  {func(l string) string { return strings.Join(strings.Fields(l)[:2], " ") + "\n" }, true},
		"cut":       {func(l string) string { return l[:len(l)/2] + "\n" }, true},
		"no hex":    {func(l string) string { return strings.Replace(l, " ", " x", 1) }, true},
		"topic":     {func(l string) string { return "x" + l }, true},
		"a message": {func(l string) string { return l + "Error: no such thing\n" }, true},
	} {
		g := newGateway()
		s := &subscriber{key: g.key.Public().(ed25519.PublicKey), tally: newTally()}
		var text strings.Builder
		for i := range 10 {
			line := mosquittoLine(g.next(uint64(10*i+1), uint64(10*i+10)))
			if i == 4 {
				line = c.spoil(line)
			}
			text.WriteString(line)
		}
		s.listen(strings.NewReader(text.String()))
		v := account(s.tally, 100, nil)
		if v.lost() != c.lost {
			t.Errorf("%s: lost %v: %+v, %v", name, v.lost(), s.tally.counts(), s.tally.bad)
		}
	}
}

// TestLedgersAgree: one node that says anything else than the others condemns.
func TestLedgersAgree(t *testing.T) {
	well := ledger{devices: 1, received: 10}
	for name, c := range map[string]struct {
		of   []ledger
		lost bool
		says string
	}{
		"one":         {[]ledger{well}, false, "The broker's ledger, in messages: received 10"},
		"three":       {[]ledger{well, well, well}, false, "the same on all 3 nodes, in messages: received 10"},
		"missing":     {[]ledger{{devices: 1, received: 10, missing: 1}}, true, "missing 1"},
		"one behind":  {[]ledger{well, well, {devices: 1, received: 9}}, true, "the nodes do not agree: n1 says"},
		"one has not": {[]ledger{well, {}, well}, true, "the nodes do not agree: n1 says"},
	} {
		v := arrive(asItIs)
		v.agree(c.of)
		var said bytes.Buffer
		v.print(&said, false)
		if v.lost() != c.lost || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: lost %v, want %v and %q in\n%s", name, v.lost(), c.lost, c.says, said.String())
		}
	}
}

// TestNextNode: a subscriber that lost its node tries all of them, the lost one last.
func TestNextNode(t *testing.T) {
	s := &subscriber{stage: &stage{nodes: []*node{{name: "n1"}, {name: "n2"}, {name: "n3"}}}}
	s.at.Store(2)
	was := s.node().name
	for range 3 {
		s.next()
		was += s.node().name
	}
	if was != "n3n1n2n3" {
		t.Error(was)
	}
}

// TestLookout asks servers that answer as the broker and the agent do.
func TestLookout(t *testing.T) {
	serve := func(path string, status int, body string) string {
		mux := http.NewServeMux()
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintln(w, body)
		})
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	ready := &node{name: "n1", mqtt: "127.0.0.1:1", admin: serve("/readyz", 200, "ready")}
	drained := &node{name: "n2", mqtt: "127.0.0.1:2", admin: serve("/readyz", 503, "this node is being emptied (cluster drain)")}
	behind := &node{name: "n3", mqtt: "127.0.0.1:3", admin: serve("/readyz", 503, "still reading")}
	dead := &node{name: "n4", mqtt: "127.0.0.1:4", admin: "127.0.0.1:0"}
	l := newLookout(&stage{nodes: []*node{ready, drained, behind, dead}})
	for n, want := range map[*node]string{ready: stateReady, drained: stateDrained, behind: stateNotReady, dead: stateNotReady} {
		if got := l.askNode(context.Background(), n); got != want {
			t.Errorf("%s: %s, want %s", n.name, got, want)
		}
	}
	for body, want := range map[string]*node{
		`{"uplink": {"connected": true, "server": "mqtt://127.0.0.1:2"}}`:  drained,
		`{"uplink": {"connected": false, "server": "mqtt://127.0.0.1:2"}}`: nil,
		`{"uplink": {"connected": true, "server": "mqtt://127.0.0.1:9"}}`:  nil,
		`{}`: nil,
		`no`: nil,
	} {
		l.st.status = serve("/status.json", 200, body)
		if got := l.askAgent(context.Background()); got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
}

// TestPanelOfNodes: each node has its lamp, and one broker has none. A line that is wider
// than a terminal would spoil the picture.
func TestPanelOfNodes(t *testing.T) {
	var out bytes.Buffer
	p := &panel{w: &out, live: true, width: 80, total: 8}
	v := view{nodes: []lamp{
		{name: "n1", says: "is dead"},
		{name: "n2", on: true, says: "drained"},
		{name: "n3", on: true, ready: true, says: "← agent → subscriber"},
	}}
	p.draw(v)
	with := p.height
	for _, want := range []string{"○ n1 is dead", "● n2 drained", "● n3 ← agent → subscriber", "cluster is dead"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if got := v.nodeWords(); got != "  n1 is dead, n2 drained, n3 ← agent → subscriber" {
		t.Errorf("%q", got)
	}
	for _, busy := range []string{"not ready", "is dead"} {
		l := p.nodes([]lamp{{name: "n1", says: busy}, {name: "n2", says: "not ready ← agent → subscriber"}, {name: "n3", says: busy}})
		if n := utf8.RuneCountInString(l[0]); n > 80 {
			t.Errorf("%d wide: %q", n, l[0])
		}
	}
	out.Reset()
	p.draw(view{broker: true})
	if p.height != with-1 || strings.Contains(out.String(), "n1") || !strings.Contains(out.String(), "● broker ") {
		t.Errorf("%d lines after %d:\n%s", p.height, with, out.String())
	}
}
