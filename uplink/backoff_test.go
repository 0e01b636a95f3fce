package uplink

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	b := backoff{base: time.Second, max: time.Minute}
	var got []time.Duration
	for range 8 {
		got = append(got, b.next(func() float64 { return 0.5 }))
	}
	want := []time.Duration{500e6, 1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}
	if !slices.Equal(got, want) {
		t.Fatal(got)
	}
	for range 100 {
		b.next(func() float64 { return 1 })
	}
	b.reset()
	if d := b.next(func() float64 { return 0 }); d != 0 {
		t.Fatal(d)
	}
	if d := b.slow(func() float64 { return 0 }); d != time.Second {
		t.Fatal(d)
	}
}

// newOutage is the one of a fresh roster, with the product's durations.
func newOutage() outage { return newRoster([]server{{}}, defaultTuning()).list[0].wait }

// TestOutage: the longest wait by the length of the outage.
func TestOutage(t *testing.T) {
	whole := func() float64 { return 1 }
	o := newOutage()
	at := time.Hour // since boot
	for n, want := range []time.Duration{1, 2, 4, 5, 5, 5, 5, 5} {
		if d := o.next(at, whole); d != want*time.Second {
			t.Fatalf("wait %d: %v", n, d)
		}
	}
	for after, want := range map[time.Duration]time.Duration{
		59 * time.Second: 5 * time.Second, time.Minute: 5 * time.Second, 2 * time.Minute: 10 * time.Second,
		12 * time.Minute: time.Minute, 30 * 24 * time.Hour: time.Minute,
	} {
		if d := o.next(at+after, whole); d != want {
			t.Errorf("after %v: %v, want %v", after, d, want)
		}
	}
	at += time.Hour
	o.ease(at, 2)
	if d := o.next(at, whole); d != 4*time.Second {
		t.Error("after progress:", d)
	}
	o.reset()
	if d := o.next(at+time.Hour, whole); d != time.Second {
		t.Error("a new outage begins with", d)
	}
}

// TestFleet loses a fleet's broker at one instant and gives it back after a while. Every
// gateway is soon back, and they do not come all at once.
func TestFleet(t *testing.T) {
	const gateways = 2000
	for down, want := range map[time.Duration]struct {
		last     time.Duration // after the broker's return
		second   float64       // share of the fleet that any one second brings
		attempts float64       // in vain, of each gateway
	}{
		0:                {time.Second, 1, 0},
		3 * time.Second:  {5 * time.Second, 0.45, 4},
		10 * time.Second: {5 * time.Second, 0.45, 7},
		time.Minute:      {5 * time.Second, 0.45, 29},
		5 * time.Minute:  {25 * time.Second, 0.12, 70},
		time.Hour:        {time.Minute, 0.05, 200},
	} {
		t.Run(fmt.Sprint(down), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(down)))
			var back []time.Duration
			vain := 0
			for range gateways {
				o := newOutage()
				at := o.next(0, r.Float64)
				for ; at < down; vain++ {
					at += o.next(at, r.Float64)
				}
				back = append(back, at-down)
			}
			slices.Sort(back)
			most := 0
			for i, j := 0, 0; j < len(back); j++ {
				for back[j]-back[i] >= time.Second {
					i++
				}
				most = max(most, j-i+1)
			}
			last, share, each := back[gateways-1], float64(most)/gateways, float64(vain)/gateways
			t.Logf("last %v, most in a second %.2f, in vain %.1f", last, share, each)
			if last > want.last || share > want.second || each > want.attempts {
				t.Errorf("want at most %+v", want)
			}
		})
	}
}

// TestBusy: a server that asks for less is not tried at once, nor called a refusal.
func TestBusy(t *testing.T) {
	for _, code := range []byte{0x89, 0x97, 0x9F} {
		u, err := newUplink(Config{Servers: []string{"mqtt://a"}, ClientID: "gw"}, Options{
			Source: newSource(numbered), Open: openBlob, Now: func() time.Duration { return 0 }, Rand: func() float64 { return 0 },
		}, defaultTuning())
		if err != nil {
			t.Fatal(err)
		}
		u.failed(server{}, false, &refused{code: code, text: "busy"})
		if _, _, at := u.roster.next(0); at != 3*time.Second {
			t.Errorf("0x%02X: next try at %v", code, at)
		}
		if s := u.Status(); s.Stopped != "" || s.LastError == "" {
			t.Errorf("0x%02X: %+v", code, s)
		}
	}
}
