package broker

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// everyCut are the shapes of a partition around a node, each for a time. The lan is whole before and after.
var everyCut = map[string]func(l *lan, node int, d time.Duration){
	cutOff:   func(l *lan, n int, d time.Duration) { l.both(n, (n+1)%3); l.both(n, (n+2)%3); <-time.After(d) },
	cutLink:  func(l *lan, n int, d time.Duration) { l.both(n, (n+1)%3); <-time.After(d) },
	cutMute:  func(l *lan, n int, d time.Duration) { l.cut(n, (n+1)%3); l.cut(n, (n+2)%3); <-time.After(d) },
	cutDeaf:  func(l *lan, n int, d time.Duration) { l.cut((n+1)%3, n); l.cut((n+2)%3, n); <-time.After(d) },
	cutHalf:  func(l *lan, n int, d time.Duration) { l.cut(n, (n+1)%3); <-time.After(d) },
	cutAll:   func(l *lan, _ int, d time.Duration) { l.both(0, 1); l.both(0, 2); l.both(1, 2); <-time.After(d) },
	cutSlow:  func(l *lan, _ int, d time.Duration) { l.slow(100*time.Millisecond, 0.01); <-time.After(d) },
	cutFlaps: flap,
}

// The shapes of partitions.
const (
	cutOff   = "cut off from both"
	cutLink  = "cut off from the next"
	cutMute  = "heard by nobody"
	cutDeaf  = "hears nobody"
	cutHalf  = "not heard by the next"
	cutAll   = "all cut off"
	cutSlow  = "slow and lossy" // 100 ms and 1 % each way
	cutFlaps = "cut off again and again"
)

var cutsInOrder = []string{cutOff, cutLink, cutMute, cutDeaf, cutHalf, cutAll, cutSlow, cutFlaps}

func (l *lan) cut(from, to int) { l.set(from, to, wireRule{cut: true}) }
func (l *lan) both(a, b int)    { l.cut(a, b); l.cut(b, a) }
func (l *lan) slow(d time.Duration, loss float64) {
	for i := range l.ports {
		for j := range l.ports {
			l.set(i, j, wireRule{delay: d, loss: loss})
		}
	}
}

// flap cuts a node off for moments, with moments between.
func flap(l *lan, n int, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.both(n, (n+1)%3)
		l.both(n, (n+2)%3)
		<-time.After(1500 * time.Millisecond)
		l.heal()
		<-time.After(1 * time.Second)
	}
}

const (
	cutSeeds   = 20
	cutSeedsCI = 1
)

// TestPartitions: three nodes in network namespaces, cut off from each other in every shape by a seed, for moments
// and for longer than it takes to elect and to fence, with clients on all sides. What is demanded is that of TestFaults.
//
// HOLDFAST_SOAK=1 runs all seeds, each with every shape; HOLDFAST_SEED=n runs one seed alone.
func TestPartitions(t *testing.T) {
	t.Parallel()
	program := buildBroker(t)
	soak := os.Getenv("HOLDFAST_SOAK") == "1"
	first, last := uint64(1), uint64(cutSeedsCI)
	if soak {
		last = cutSeeds
	}
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, last = seed, seed
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { newCutRun(t, program, seed, soak).run() })
	}
}

func newCutRun(t *testing.T, program string, seed uint64, soak bool) *faultRun {
	rnd := rand.New(rand.NewPCG(seed, 5))
	kinds := cutsInOrder
	if !soak {
		kinds = []string{cutLink, cutAll} // TestMinority has the one that is cut off
	}
	if k := os.Getenv("HOLDFAST_CUT"); k != "" {
		kinds = []string{k}
	}
	var steps []faultStep
	for _, kind := range kinds {
		f := faultStep{Kind: kind, Node: rnd.IntN(3), After: time.Duration(200+rnd.IntN(1000)) * time.Millisecond, Down: 3 * time.Second, Settle: true}
		if soak && rnd.IntN(2) == 0 {
			f.Down = time.Duration(10+rnd.IntN(10)) * time.Second
		}
		steps = append(steps, f)
	}
	l := newLAN(t, 3, seed)
	r := faultRunOf(t, seed, rnd, steps, lanNodes(t, program, l))
	r.lan = l
	return r
}

// TestMinority: a node that is cut off serves what needs no other: QoS 0 among its own, pings, its admin API. It refuses
// the rest with the reason, says so in /readyz, and comes back by itself. The majority goes on.
func TestMinority(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 3, 1)
	nodes := lanNodes(t, buildBroker(t), l)
	defer func() {
		for _, n := range nodes {
			if t.Failed() {
				t.Logf("%s, the end of its log:\n%s", n.name, n.tailOf(40))
			}
		}
	}()
	for _, n := range nodes {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	settled := func() {
		t.Helper()
		if _, err := within(eventualReady, func() error { return allReady(nodes) }); err != nil {
			t.Fatal(err)
		}
	}
	settled()
	try := func(i int, id string, o opts) (*rawClient, packet, error) {
		nc, err := nodes[i].dial(nodes[i].addr)
		if err != nil {
			return nil, packet{}, err
		}
		return tryConnect(t, nc, id, o)
	}
	come := func(i int, id string, o opts) (c *rawClient, present bool) { // one that has just become ready may refuse for a moment
		t.Helper()
		if _, err := within(eventualReady, func() error {
			r, ack, err := try(i, id, o)
			if err == nil && ack.body[1] != 0 {
				r.nc.Close()
				err = fmt.Errorf("%q", ack.body)
			}
			if err == nil {
				c, present = r, ack.body[0] == 1
			}
			return err
		}); err != nil {
			t.Fatalf("connect %s: %v", id, err)
		}
		return c, present
	}
	dial := func(i int, id string, o opts) *rawClient {
		t.Helper()
		c, _ := come(i, id, o)
		return c
	}
	listener := dial(0, "listener", opts{clean: true})
	listener.subscribe(0, "q0/#")
	kept := dial(0, "kept", opts{expiry: 3600})
	kept.subscribe(1, "q1/#")
	five, three := dial(0, "five", v5), dial(0, "three", opts{version: mqtt.V311, clean: true})
	five.publish("q1/x", "before", 1)
	if m := kept.take(); m.payload != "before" {
		t.Fatalf("got %q", m.payload)
	}

	l.both(0, 1)
	l.both(0, 2)
	if _, err := within(eventualReady, func() error {
		code, body, err := nodes[0].get("/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(string(body), "no quorum")) {
			err = fmt.Errorf("/readyz says %d %s", code, body)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	three.write(three.publishPacket("q1/x", "three", 2, 7, nil))
	if p := three.closed(); p.kind != 0 {
		t.Errorf("3.1.1 got %+v: it must not be acknowledged", p)
	}
	five.write(five.publishPacket("q1/x", "five", 2, 7, nil))
	if p := five.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.ImplementationSpecific || !strings.Contains(string(p.body), "no quorum") {
		t.Errorf("5.0 got %d %q", p.kind, p.body)
	}
	if _, ack, err := try(0, "five", v5); err != nil || ack.body[1] != mqtt.ServerUnavailable || !strings.Contains(string(ack.body), "no quorum") {
		t.Errorf("CONNECT: %q, %v", ack.body, err)
	}
	if _, ack, err := try(0, "three", opts{version: mqtt.V311}); err != nil || ack.body[1] != 3 {
		t.Errorf("CONNECT of 3.1.1: %x, %v", ack.body, err)
	}
	listener.write(listener.publishPacket("q0/x", "here", 0, 0, nil))
	if m := listener.take(); m.payload != "here" {
		t.Errorf("QoS 0: got %q", m.payload)
	}
	kept.quiet() // it is pinged
	if code, body, err := nodes[0].get("/healthz"); err != nil || code != http.StatusOK {
		t.Errorf("/healthz: %d %s, %v", code, body, err)
	}
	other := dial(1, "other", v5)
	if p := other.publish("q1/x", "meanwhile", 1); p.code() != 0 {
		t.Errorf("the majority refuses with 0x%02X", p.code())
	}
	// Not before both its logs are closed: so what is tested is how a node comes back that was given up, and what it could not
	// store is not stored afterwards.
	if _, err := within(eventualReady, func() error {
		for _, kind := range []string{kindState, kindMessages} {
			if !strings.Contains(nodes[1].tailOf(1000)+nodes[2].tailOf(1000), `log of a node that is gone is closed" log=`+kind+" of=n1") {
				return fmt.Errorf("the %s log of n1 is not closed", kind)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	l.heal()
	settled()
	kept.nc.Close()
	kept, present := come(0, "kept", opts{expiry: 3600})
	if !present {
		t.Fatal("the session is not there")
	}
	m := kept.take()
	if m.payload == "before" { // the node was cut off before it had saved that this was acknowledged
		m = kept.take()
	}
	if m.payload != "meanwhile" {
		t.Errorf("got %q", m.payload)
	}
	for _, n := range nodes {
		for _, d := range n.died {
			t.Error(d)
		}
	}
}

// eventualReady is for what takes seconds on a machine that is free.
const eventualReady = 5 * time.Minute
