package counter

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

const ms = time.Millisecond

// seeds is how many random trains are tried.
func seeds() uint64 {
	if testing.Short() { // on an emulated processor
		return 300
	}
	return 3000
}

// train is a random signal: its edges, of which some bounce.
func train(rng *rand.Rand, n int, settle time.Duration) (edges []gpiocdev.Event) {
	now, level := devices.Instant(time.Hour), gpio.Low
	for range n {
		pause := 1 + time.Duration(rng.Int64N(int64(settle)))
		if rng.IntN(3) == 0 {
			pause += settle
		}
		now, level = now+pause, !level
		edges = append(edges, gpiocdev.Event{At: now, Level: level})
	}
	return edges
}

// kernel numbers the edges that were asked for, and drops runs of them as a full queue does.
func kernel(rng *rand.Rand, edges []gpiocdev.Event, asked gpio.Edge) (told []gpiocdev.Event, dropped uint64) {
	var seq uint32
	for _, e := range edges {
		if asked != gpio.BothEdges && bool(e.Level) != (asked == gpio.RisingEdge) {
			continue
		}
		seq++
		e.Seq = seq
		told = append(told, e)
	}
	for range rng.IntN(4) {
		if len(told) < 3 {
			break
		}
		from := rng.IntN(len(told) - 1) // the latest is never dropped: the queue drops the oldest
		to := from + 1 + rng.IntN(len(told)-1-from)
		dropped += uint64(to - from)
		told = append(told[:from:from], told[to:]...)
	}
	return told, dropped
}

// TestEveryNumberIsCounted: without debounce the count is exact and the lost ones are told, whatever the queue dropped.
func TestEveryNumberIsCounted(t *testing.T) {
	for seed := range seeds() {
		rng := rand.New(rand.NewPCG(seed, 2))
		edge := []gpio.Edge{gpio.RisingEdge, gpio.FallingEdge, gpio.BothEdges}[rng.IntN(3)]
		asked := edge
		if rng.IntN(2) == 0 {
			asked = gpio.BothEdges // for the duty
		}
		edges := train(rng, rng.IntN(200), ms)
		var want uint64
		for _, e := range edges {
			if edge == gpio.BothEdges || bool(e.Level) == (edge == gpio.RisingEdge) {
				want++
			}
		}
		told, dropped := kernel(rng, edges, asked)
		y := tally{edge: edge, states: asked == gpio.BothEdges}
		y.begin(gpio.Low, time.Hour)
		for _, e := range told {
			y.take(e)
		}
		if y.count != want || y.lost != dropped || y.missed != 0 || y.doubt != "" {
			t.Fatalf("seed %d, %v of %v: counted %d of %d, lost %d of %d, missed %d, %q", seed, edge, asked, y.count, want, y.lost, dropped, y.missed, y.doubt)
		}
	}
}

// TestNumbersWrap: after 2³² edges they begin anew.
func TestNumbersWrap(t *testing.T) {
	y := tally{edge: gpio.RisingEdge}
	y.begin(gpio.Low, 0)
	y.seq = math.MaxUint32 - 1
	for i, seq := range []uint32{math.MaxUint32, 0, 5} {
		y.take(gpiocdev.Event{At: devices.Instant(i), Level: gpio.High, Seq: seq})
	}
	if y.count != 7 || y.lost != 4 {
		t.Errorf("counted %d, lost %d", y.count, y.lost)
	}
}

// TestDebouncedCount: states are counted once, and where the queue dropped edges either the count is right or it says that it may not be.
func TestDebouncedCount(t *testing.T) {
	sure := 0
	for seed := range seeds() {
		rng := rand.New(rand.NewPCG(seed, 3))
		settle := time.Duration(1+rng.IntN(20)) * ms
		edges := train(rng, rng.IntN(100), settle)
		if len(edges) == 0 {
			continue
		}
		end := edges[len(edges)-1].At + settle
		var want uint64
		level := gpio.Low
		for i, e := range edges { // by definition
			until := end
			if i+1 < len(edges) {
				until = edges[i+1].At
			}
			if until-e.At >= settle && e.Level != level {
				if level = e.Level; level {
					want++
				}
			}
		}
		told, dropped := kernel(rng, edges, gpio.BothEdges)
		y := tally{edge: gpio.RisingEdge, states: true}
		y.Settle = settle
		y.begin(gpio.Low, time.Hour)
		for _, e := range told {
			y.take(e)
		}
		y.look(edges[len(edges)-1].Level, end)
		switch {
		case y.lost != dropped:
			t.Fatalf("seed %d: lost %d of %d", seed, y.lost, dropped)
		case y.doubt == "" && y.count != want:
			t.Fatalf("seed %d: counted %d of %d and is sure of it; %d dropped", seed, y.count, want, dropped)
		case dropped == 0 && y.doubt != "":
			t.Fatalf("seed %d: in doubt (%s) without a reason", seed, y.doubt)
		case y.doubt == "" && dropped > 0:
			sure++
		}
	}
	if sure == 0 {
		t.Error("it is in doubt about every lost edge: also about those among bounces")
	}
}

// TestFrequencyAndDuty of a signal that does not fit the windows: they are of the edges' own times.
func TestFrequencyAndDuty(t *testing.T) {
	for _, c := range []struct{ period, active, window time.Duration }{
		{ms, ms / 4, time.Second}, {ms, 9 * ms / 10, 100 * ms}, {333 * ms, 111 * ms, time.Second}, {1700 * ms, 800 * ms, 2 * time.Second},
	} {
		y := tally{edge: gpio.RisingEdge, states: true}
		now := devices.Instant(time.Hour)
		y.begin(gpio.Low, now)
		var seq uint32
		var duties, measured float64
		next, level := now+c.period/3, gpio.Low
		for range 50 {
			now += c.window
			for next <= now {
				level = !level
				seq++
				y.take(gpiocdev.Event{At: next, Level: level, Seq: seq})
				if level {
					next += c.active
				} else {
					next += c.period - c.active
				}
			}
			f, duty, blurred := y.measure(now)
			if want := float64(time.Second) / float64(c.period); measured > 0 && math.Abs(float64(f)/float64(physic.Hertz)-want) > 1e-5*want+1e-6 {
				t.Errorf("period %v: %v", c.period, f)
			}
			if blurred != "" {
				t.Errorf("period %v: %s", c.period, blurred)
			}
			duties, measured = duties+duty, measured+1
		}
		if got, want := duties/measured, float64(c.active)/float64(c.period); math.Abs(got-want) > 0.02 {
			t.Errorf("period %v: active for %v of the time, want %v", c.period, got, want)
		}
	}
}

// TestFrequencyAfterARest: what was long ago is not in it, and a line at rest has none.
func TestFrequencyAfterARest(t *testing.T) {
	y := tally{edge: gpio.RisingEdge}
	y.begin(gpio.Low, 0)
	seq := uint32(0)
	window := func(end time.Duration, at ...time.Duration) float64 {
		for _, x := range at {
			seq++
			y.take(gpiocdev.Event{At: x, Level: gpio.High, Seq: seq})
		}
		f, _, _ := y.measure(end)
		return float64(f) / float64(physic.Hertz)
	}
	for i, c := range []struct {
		got, want float64
	}{
		{window(10 * time.Second), 0},
		{window(20*time.Second, 12*time.Second), 0}, // one edge is no frequency
		{window(30*time.Second, 22*time.Second), 0.1},
		{window(40 * time.Second), 0},
		{window(3600 * time.Second), 0},
		{window(3610*time.Second, 3601*time.Second, 3602*time.Second, 3603*time.Second), 1},
	} {
		if math.Abs(c.got-c.want) > 1e-6 {
			t.Errorf("window %d: %v Hz, want %v", i, c.got, c.want)
		}
	}
}

// TestDutyOfALineAtRest: it is 0 or 1 without any edge.
func TestDutyOfALineAtRest(t *testing.T) {
	for _, level := range []gpio.Level{gpio.Low, gpio.High} {
		y := tally{edge: gpio.RisingEdge, states: true}
		y.begin(level, 0)
		y.look(level, time.Second)
		if _, duty, _ := y.measure(time.Second); duty != float64(one(bool(level))) {
			t.Errorf("%v: %v", level, duty)
		}
	}
}

// TestDoubt: edges in one direction, and a level without an edge, are told.
func TestDoubt(t *testing.T) {
	y := tally{edge: gpio.RisingEdge, states: true}
	y.begin(gpio.Low, 0)
	y.take(gpiocdev.Event{At: ms, Level: gpio.High, Seq: 1})
	y.take(gpiocdev.Event{At: 2 * ms, Level: gpio.High, Seq: 2})
	if _, _, blurred := y.measure(time.Second); y.doubt != edgeMissed || blurred != edgeMissed || y.missed != 1 || y.count != 2 {
		t.Errorf("%q, %q, %d missed, %d counted", y.doubt, blurred, y.missed, y.count)
	}
	y.doubt = ""
	y.look(gpio.Low, 2*time.Second)
	if y.missed != 1 {
		t.Error("the edge may be on its way")
	}
	y.look(gpio.Low, 2*time.Second+20*ms)
	if _, duty, _ := y.measure(3 * time.Second); y.doubt != edgeMissed || y.missed != 2 || duty > 0.52 {
		t.Errorf("%q, %d missed, duty %v", y.doubt, y.missed, duty)
	}
	lost := tally{edge: gpio.RisingEdge, states: true}
	lost.begin(gpio.Low, 0)
	lost.take(gpiocdev.Event{At: ms, Level: gpio.High, Seq: 3})
	if _, _, blurred := lost.measure(time.Second); blurred != edgesLost || lost.count != 2 || lost.lost != 2 || lost.doubt != "" {
		t.Errorf("%q, %d counted, %d lost, %q", blurred, lost.count, lost.lost, lost.doubt)
	}
}
