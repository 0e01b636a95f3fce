package gpiocdev

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
)

const ms = time.Millisecond

func at(events ...int) (out []Event) {
	level := gpio.Low
	for i, t := range events {
		level = !level
		out = append(out, Event{At: devices.Instant(t) * ms, Level: level, Seq: uint32(i + 1)})
	}
	return out
}

func TestDebounce(t *testing.T) {
	for name, c := range map[string]struct {
		edges []Event
		end   int // ms: looked at then
		want  []State
	}{
		"a clean change":               {at(100), 105, []State{{gpio.High, 100 * ms}}},
		"not long enough":              {at(100), 104, nil},
		"a bounce":                     {at(100, 101), 200, nil},
		"a bouncing change":            {at(100, 101, 103), 200, []State{{gpio.High, 100 * ms}}},
		"a pulse, looked at late":      {at(100, 105), 200, []State{{gpio.High, 100 * ms}, {gpio.Low, 105 * ms}}},
		"a pulse too short":            {at(100, 104), 200, nil},
		"bounces at both its ends":     {at(100, 101, 102, 150, 151, 152), 200, []State{{gpio.High, 100 * ms}, {gpio.Low, 150 * ms}}},
		"bounces for ever":             {at(100, 104, 108, 112, 116, 120, 124), 128, nil},
		"… and then not":               {at(100, 104, 108, 112, 116, 120, 124), 129, []State{{gpio.High, 100 * ms}}},
		"a glitch, then a real change": {at(100, 101, 120), 200, []State{{gpio.High, 120 * ms}}},
	} {
		d := Debouncer{Settle: 5 * ms}
		d.Begin(gpio.Low)
		if got := run(&d, c.edges, devices.Instant(c.end)*ms); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// run feeds edges and then looks.
func run(d *Debouncer, edges []Event, end devices.Instant) (got []State) {
	level := d.Level()
	for _, e := range edges {
		if s, changed := d.Edge(e); changed {
			got = append(got, s)
		}
		level = e.Level
	}
	if s, changed, _ := d.Look(level, end); changed {
		got = append(got, s)
	}
	return got
}

// TestDebounceAgainstTheDefinition: over random trains of bounces, looked at at random times
// or never, what is told is what the definition says: the levels that lasted for Settle, in turn.
func TestDebounceAgainstTheDefinition(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		settle := time.Duration(1+rng.IntN(20)) * ms
		var edges []Event
		now, level := devices.Instant(time.Hour), gpio.Low
		for i := range rng.IntN(60) {
			pause := time.Duration(rng.Int64N(int64(settle)))
			if rng.IntN(4) == 0 {
				pause = settle + time.Duration(rng.Int64N(int64(3*settle)))
			}
			now, level = now+max(pause, 1), !level
			edges = append(edges, Event{At: now, Level: level, Seq: uint32(i + 1)})
		}
		end := now + 2*settle

		var want []gpio.Level // by definition
		for i, e := range edges {
			until := end
			if i+1 < len(edges) {
				until = edges[i+1].At
			}
			if last := len(want) == 0 && e.Level == gpio.Low || len(want) > 0 && want[len(want)-1] == e.Level; until-e.At >= settle && !last {
				want = append(want, e.Level)
			}
		}

		d := Debouncer{Settle: settle}
		d.Begin(gpio.Low)
		var got []State
		keep := func(s State, changed bool) {
			if changed {
				got = append(got, s)
			}
		}
		level = gpio.Low
		for i, e := range edges {
			keep(d.Edge(e))
			level = e.Level
			until := end
			if i+1 < len(edges) {
				until = edges[i+1].At
			}
			for when := e.At; rng.IntN(2) == 0; { // looks between two edges
				when += time.Duration(rng.Int64N(int64(settle)))
				if when >= until {
					break
				}
				s, changed, missed := d.Look(level, when)
				keep(s, changed)
				if missed {
					t.Fatalf("seed %d: an edge was missed, it says", seed)
				}
			}
		}
		s, changed, _ := d.Look(level, end)
		keep(s, changed)
		var told []gpio.Level
		for i, s := range got {
			told = append(told, s.Level)
			if i > 0 && s.At < got[i-1].At {
				t.Fatalf("seed %d: %v", seed, got)
			}
		}
		if !slices.Equal(told, want) {
			t.Fatalf("seed %d, settle %v: told %v, want %v\n%v", seed, settle, told, want, edges)
		}
	}
}

// TestLookFindsWhatNoEdgeTold: but only when the edge cannot be on its way any more.
func TestLookFindsWhatNoEdgeTold(t *testing.T) {
	for _, settle := range []time.Duration{0, ms, 50 * ms} {
		d := Debouncer{Settle: settle}
		d.Begin(gpio.Low)
		begin := devices.Instant(time.Hour)
		if _, changed, missed := d.Look(gpio.High, begin); changed || missed {
			t.Errorf("settle %v: at once", settle)
		}
		due, moving := d.Due()
		if !moving || due != begin+max(settle, overdue) {
			t.Fatalf("settle %v: looks again after %v", settle, due-begin)
		}
		if s, changed, missed := d.Look(gpio.High, due); !changed || !missed || s != (State{gpio.High, begin}) {
			t.Errorf("settle %v: %v %v %v", settle, s, changed, missed)
		}
		// And an edge that was late by a moment is no edge missed.
		d.Look(gpio.Low, begin+time.Second)
		s, changed := d.Edge(Event{At: begin + time.Second - 1, Level: gpio.Low, Seq: 9})
		if settle == 0 && (!changed || s.Level != gpio.Low) {
			t.Errorf("%v %v", s, changed)
		}
		if settle > 0 {
			if s, changed, missed := d.Look(gpio.Low, begin+2*time.Second); !changed || missed || s.Level != gpio.Low {
				t.Errorf("settle %v: %v %v %v", settle, s, changed, missed)
			}
		}
		if _, moving := d.Moving(); moving {
			t.Errorf("settle %v: still", settle)
		}
	}
}
