package agent

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
)

// Clock is the agent's whole access to time. The boot-monotonic part orders things;
// the wall clock only labels them.
type Clock interface {
	devices.Clock
	// System returns the system's wall clock, right or wrong.
	System() time.Time
	// Synced says whether the wall clock is disciplined, and its error either way.
	Synced() (bool, time.Duration)
	// BootID changes with each boot of the machine.
	BootID() string
}

// SystemClock returns the real Clock. It fails where the kernel gives no boot id.
func SystemClock() (Clock, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	return systemClock{devices.BootClock(), strings.TrimSpace(string(b))}, nil
}

type systemClock struct {
	devices.Clock
	boot string
}

func (c systemClock) System() time.Time { return time.Now().Round(0) } // the wall alone
func (c systemClock) BootID() string    { return c.boot }

const (
	// timesyncd touches this when it has set the clock in this boot (systemd-timesyncd.service(8)).
	timesyncdMark = "/run/systemd/timesync/synchronized"
	// unknownBound is assumed where the kernel may not be asked: public NTP is better than this.
	unknownBound = time.Second
	// leastBound: daemons reset the kernel's figure to 0, which no clock is.
	leastBound = time.Millisecond
)

// Synced asks the kernel (adjtimex(2)), which knows of every daemon, of a step by
// hand, and of a discipline that ended hours ago. Where a sandbox forbids the call
// (ProtectClock=), the mark of timesyncd has to do.
func (c systemClock) Synced() (bool, time.Duration) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		_, err := os.Stat(timesyncdMark)
		return err == nil, unknownBound
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return false, 0
	}
	bound := time.Duration(max(t.Maxerror, t.Esterror)) * time.Microsecond
	return true, max(bound, leastBound)
}

// oldest is the moment before which no gateway of this code can have run. It also
// keeps packs clear of 2²⁸ s, below which RFC 8428 section 4.5.3 takes times as relative.
var oldest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// timekeeper says what time packs carry: the system's if it is synchronised,
// otherwise the greatest lower bound known.
type timekeeper struct {
	clock Clock

	mu      sync.Mutex
	floor   time.Time     // the present was this late …
	floorAt time.Duration // … at this moment of the boot
	heard   heard
}

func newTimekeeper(c Clock, built time.Time) *timekeeper {
	t := &timekeeper{clock: c, floor: oldest, floorAt: c.Now()}
	t.raise(built)
	return t
}

// raise says that the present is not earlier than lower.
func (t *timekeeper) raise(lower time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.clock.Now(); lower.After(t.floor.Add(now - t.floorAt)) {
		t.floor, t.floorAt = lower, now
	}
}

// moment is one instant by both clocks.
type moment struct {
	at     time.Duration
	wall   time.Time
	synced bool
	bound  time.Duration // of wall, either way; only if synced
	source string        // who synchronised it: sourceSystem or a device's name; only if synced
}

const sourceSystem = "system"

// now reads both clocks. The system's clock counts if it is synchronised, else a device that
// knows the time. A synchronised wall clock becomes the floor of what follows, so that a step
// while unsynchronised cannot go behind it.
func (t *timekeeper) now() moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := moment{at: t.clock.Now(), wall: t.clock.System().UTC()}
	lower := t.floor.Add(m.at - t.floorAt)
	m.synced, m.bound = t.clock.Synced()
	if m.synced && m.wall.Before(oldest) {
		m.synced = false // a daemon that disciplined a clock to 1970 knows nothing
	}
	if m.synced {
		m.source = sourceSystem
	} else if wall, bound, ok := t.heard.present(m.at); ok {
		m.wall, m.bound, m.synced, m.source = wall, bound, true, t.heard.from
	}
	switch {
	case m.synced:
		t.floor, t.floorAt = m.wall, m.at
	case m.wall.Before(lower):
		m.wall = lower
	}
	return m
}

func (t *timekeeper) wall() time.Time { return t.now().wall }

// when returns the wall time of an earlier (or later) instant of this boot.
func (m moment) when(at time.Duration) time.Time { return m.wall.Add(at - m.at) }
