package broker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
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
	if k := os.Getenv("HOLDFAST_CUT"); k != "" {
		kinds = []string{k}
	}
	var steps []faultStep
	for _, kind := range kinds {
		f := faultStep{Kind: kind, Node: rnd.IntN(3), After: time.Duration(200+rnd.IntN(1000)) * time.Millisecond, Down: 3 * time.Second, Settle: true}
		if rnd.IntN(2) == 0 {
			f.Down = time.Duration(10+rnd.IntN(10)) * time.Second
		}
		steps = append(steps, f)
	}
	l := newLAN(t, 3, seed)
	r := faultRunOf(t, seed, rnd, steps, lanNodes(t, program, l))
	r.lan = l
	return r
}
