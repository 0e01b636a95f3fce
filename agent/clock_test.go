package agent

import (
	"slices"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/uplink/wire"
)

func TestUnsyncedWallIsTheGreatestLowerBound(t *testing.T) {
	c := newFakeClock()
	c.synced = false
	c.offset = time.Unix(0, 0) // no battery: the kernel starts in 1970
	k := newTimekeeper(c, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
	if got := k.wall(); !got.Equal(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("after build: %v", got)
	}
	k.raise(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	c.Advance(time.Minute)
	if got := k.wall(); !got.Equal(time.Date(2026, 5, 1, 0, 1, 0, 0, time.UTC)) {
		t.Errorf("a minute after the last kept time: %v", got)
	}
	k.raise(time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)) // lower: nothing new
	if got := k.wall(); !got.Equal(time.Date(2026, 5, 1, 0, 1, 0, 0, time.UTC)) {
		t.Errorf("lowered to %v", got)
	}
	c.step(60*365*24*time.Hour, false) // the system's time, later than what is known
	if got := k.wall(); !got.Equal(c.System()) {
		t.Errorf("the system says %v, later, taken is %v", c.System(), got)
	}
}

func TestClockDisciplinedTo1970IsNotSynced(t *testing.T) {
	c := newFakeClock()
	c.offset = time.Unix(0, 0)
	if m := newTimekeeper(c, time.Time{}).now(); m.synced || m.wall.Before(oldest) {
		t.Errorf("%+v", m)
	}
}

// TestClockSteps: a day forth and back, synchronised or not, between readings of one
// batch and between batches: the order, the numbers and the distances stay.
func TestClockSteps(t *testing.T) {
	for _, synced := range []bool{true, false} {
		r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 4, Bytes: 1 << 20})
		r.clock.synced = synced
		s := r.station("scale", idle)
		steps := []time.Duration{0, 24 * time.Hour, -24 * time.Hour, -24 * time.Hour, 24 * time.Hour, 0}
		n := 0
		for _, by := range steps {
			r.clock.step(by, synced)
			for range 6 { // steps fall inside batches of 4, too
				s.Emit(r.reading(n))
				n++
				r.clock.Advance(time.Second)
			}
		}
		got := r.store.wait(n / 4) // the fake store checks that sequence numbers go 1, 2, 3 …
		if v := values(got, "scale"); !slices.IsSorted(v) || len(v) != n {
			t.Errorf("synced %v: %v", synced, v)
		}
		last := int64(-1)
		for _, m := range got {
			if m.Mono <= last {
				t.Errorf("mono %d after %d", m.Mono, last)
			}
			last = m.Mono
			for i, rec := range m.Records {
				if rec.Time != time.Duration(i)*time.Second {
					t.Errorf("synced %v: reading %d of the pack is at +%v", synced, i, rec.Time)
				}
			}
			if (m.Clock == wire.ClockSynced) != synced {
				t.Errorf("clock %q", m.Clock)
			}
		}
	}
}

// TestAnchorResolvesWhatWasUnsynced: taken in 1970, anchored later: whoever verifies
// gets the right time, and nothing was signed again.
func TestAnchorResolvesWhatWasUnsynced(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 1, Bytes: 1 << 20})
	truth := r.clock.offset
	r.clock.offset, r.clock.synced = time.Unix(0, 0), false
	s := r.station("scale", idle)
	takenAt := r.clock.Now()
	s.Emit(r.reading(0))
	r.store.wait(1)

	c := r.control(t, Identity{Key: r.key})
	if err := c.anchor(t.Context()); err != nil || c.clockStatus().Anchored {
		t.Fatalf("anchored while unsynchronised: %v", err)
	}
	r.clock.Advance(10 * time.Minute)
	r.clock.step(truth.Sub(time.Unix(0, 0)), true)
	if err := c.anchor(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := r.store.wait(2)
	var body wire.Anchor
	if err := wire.ParseControl(got[1].Pack, &body); err != nil || got[1].Type != wire.TypeAnchor {
		t.Fatalf("%v %+v", err, got[1].Header)
	}
	var resolver wire.Resolver
	if err := resolver.Anchor(got[1].Header, body); err != nil {
		t.Fatal(err)
	}
	p, how := resolver.Resolve(got[0].Header, got[0].Pack)
	if want := truth.Add(takenAt); !how.Synced || p.Base.Sub(want).Abs() > time.Millisecond {
		t.Errorf("resolved to %v (%+v), taken at %v", p.Base, how, want)
	}
}

func TestSystemClock(t *testing.T) {
	c, err := SystemClock()
	if err != nil {
		t.Fatal(err)
	}
	if c.BootID() == "" || c.Now() <= 0 || c.System().Before(oldest) {
		t.Errorf("%q %v %v", c.BootID(), c.Now(), c.System())
	}
	if synced, bound := c.Synced(); synced && bound < leastBound {
		t.Errorf("synchronised to %v", bound)
	}
	var _ devices.Clock = c
}

// TestHeardTime: a device that tells the time is believed when it agrees with itself, while the system does not know
// better, and not for ever.
func TestHeardTime(t *testing.T) {
	c := newFakeClock()
	c.synced = false
	c.offset = time.Unix(0, 0)
	k := newTimekeeper(c, time.Time{})
	truth := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	zero := truth.Add(-c.Now())
	tell := func(from string, late time.Duration) {
		k.hear(from, c.Now(), zero.Add(c.Now()-late), time.Second)
		c.Advance(time.Second)
	}
	unsynced := func(when string) {
		t.Helper()
		if m := k.now(); m.synced {
			t.Errorf("%s: %+v", when, m)
		}
	}
	k.hear("gps", c.Now(), time.Date(2006, 10, 15, 0, 0, 0, 0, time.UTC), time.Second) // 1024 weeks ago
	tell("gps", 900*time.Millisecond)
	tell("gps", 200*time.Millisecond)
	unsynced("two that agree")
	tell("gps", 700*time.Millisecond)
	m := k.now()
	if off := zero.Add(m.at).Sub(m.wall); !m.synced || m.source != "gps" || off < 0 || off > 201*time.Millisecond || m.bound < time.Second || m.bound > 1010*time.Millisecond {
		t.Errorf("the earliest of three is %v behind: %+v", off, m)
	}
	k.hear("other", c.Now(), zero.Add(c.Now()+time.Hour), time.Second)
	if n := k.now(); n.source != "gps" || n.wall.Sub(m.wall) > time.Second {
		t.Errorf("another device was believed: %+v", n)
	}
	k.hear("gps", c.Now(), zero.Add(c.Now()+time.Hour), time.Second)
	unsynced("it contradicts itself")
	for range 3 {
		tell("gps", 0)
	}
	c.step(truth.Sub(c.System()), true)
	if m := k.now(); m.source != sourceSystem {
		t.Errorf("the system knows: %+v", m)
	}
	c.step(0, false)
	c.Advance(50 * time.Minute)
	if m := k.now(); !m.synced || m.bound < time.Second+250*time.Millisecond {
		t.Errorf("50 minutes later: %+v", m)
	}
	before := k.wall()
	c.Advance(20 * time.Minute)
	unsynced("70 minutes later")
	if k.wall().Before(before) {
		t.Error("the time went back when nobody told it any more")
	}
	for range 3 {
		tell("other", 0)
	}
	if m := k.now(); m.source != "other" {
		t.Errorf("the first is silent: %+v", m)
	}
}
