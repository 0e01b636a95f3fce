//go:build guest

package guest

import (
	"fmt"
	"syscall"
	"testing"
)

// pins sets levels of the PL061 so that the kernel has queued each edge before the next one: when
// guest-init has answered, the interrupt's thread, of a higher priority on the one processor, has run.
type pins struct {
	*Pins
	x *bench
}

func openPins(t *testing.T, x *bench) *pins {
	t.Helper()
	p, err := x.Pins("pl061")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return &pins{p, x}
}

func (p *pins) set(t *testing.T, pin int, high bool) {
	t.Helper()
	if err := p.Set(pin, high); err != nil {
		t.Fatal(err)
	}
	if _, err := p.x.List("/run"); err != nil {
		t.Fatal(err)
	}
}

// pulses are for a line that asks for rising edges: the falling ones need not be waited for.
func (p *pins) pulses(t *testing.T, pin, n int) {
	t.Helper()
	for range n {
		p.set(t, pin, true)
		if err := p.Set(pin, false); err != nil {
			t.Fatal(err)
		}
	}
}

// testGPIO: each edge on a line is one verified reading, in order; a bounce is none.
func testGPIO(t *testing.T, x *bench) {
	p := openPins(t, x)
	for pin := range 3 {
		p.set(t, pin, false)
	}
	mark := x.heard.now()
	x.agent(t, `
[[device]]
name = "cabinet"
driver = "gpio"
interval = "0s"
lines = [
  { metric = "door", line = "9030000.pl061:0" },
  { metric = "relay", line = "9030000.pl061:1", active_low = true },
  { metric = "button", line = "9030000.pl061:2", debounce = "8s" },
]
`)
	state := func(metric string, active bool) func(reading) bool {
		return func(r reading) bool {
			return r.device == "cabinet" && r.name == metric && r.value == active && r.quality == ""
		}
	}
	x.heard.wait(t, mark, "the door's first state", state("door", false))
	x.heard.wait(t, mark, "the relay's first state", state("relay", true))
	x.heard.wait(t, mark, "the button's first state", state("button", false))
	used := 0
	for _, c := range x.offered(t).GPIO {
		for _, l := range c.Lines {
			if c.Label == "9030000.pl061" && l.Offset < 3 && l.Used != "" {
				used++
			}
		}
	}
	if used != 3 {
		t.Errorf("holdfast devices says that %d of the 3 lines are used", used)
	}

	mark = x.heard.now()
	const changes = 40
	for i := range changes {
		p.set(t, 0, i%2 == 0)
		p.set(t, 1, i%2 == 0)
	}
	for i := range 6 {
		p.set(t, 2, i%2 == 0)
	}
	p.set(t, 2, true)
	x.heard.wait(t, mark, "the button, settled", state("button", true))
	p.set(t, 0, true)
	p.set(t, 1, true)
	within(t, "the last changes are heard", func() error {
		door, relay := heardOf(x, mark, "door"), heardOf(x, mark, "relay")
		if len(door) < changes+1 || len(relay) < changes+1 {
			return fmt.Errorf("%d and %d of %d changes", len(door), len(relay), changes+1)
		}
		return nil
	})
	for metric, first := range map[string]bool{"door": true, "relay": false} {
		for i, r := range heardOf(x, mark, metric) {
			if r.quality != "" || r.value != (first == (i%2 == 0)) {
				t.Fatalf("%s, change %d: %+v", metric, i, r)
			}
		}
	}
	if button := heardOf(x, mark, "button"); len(button) != 1 {
		t.Errorf("a button that bounced and then stayed: %+v", button)
	}
}

func heardOf(x *bench, mark int, metric string) (out []reading) {
	for _, r := range x.heard.since(mark, "cabinet") {
		if r.name == metric {
			out = append(out, r)
		}
	}
	return out
}

// testCounter: no pulse is missing from the count, not even those that the kernel had to drop while
// the agent did not run; it says how many those were; and it goes on after a restart.
func testCounter(t *testing.T, x *bench) {
	p := openPins(t, x)
	p.set(t, 4, false)
	const device = `
[[device]]
name = "meter"
driver = "counter"
line = "9030000.pl061:4"
interval = "500ms"
`
	mark := x.heard.now()
	counted := func(mark int, n float64, quality string) int {
		t.Helper()
		_, mark = x.heard.wait(t, mark, fmt.Sprintf("the count %v", n), func(r reading) bool {
			if r.device == "meter" && r.name == "count" && r.value != nil && r.value.(float64) > n {
				t.Errorf("counted %v of %v pulses", r.value, n)
			}
			return r.device == "meter" && r.name == "count" && r.value == n && r.quality == quality
		})
		return mark
	}
	t.Run("each", func(t *testing.T) {
		a := x.agent(t, device)
		mark = counted(mark, 0, "")
		p.pulses(t, 4, 200)
		mark = counted(mark, 200, "")

		// The kernel keeps 1024 edges of a line for the agent; it numbers all.
		before := mark
		if err := a.Signal(a.pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		p.pulses(t, 4, 1100)
		if err := a.Signal(a.pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		mark = counted(mark, 1300, "")
		r, _ := x.heard.wait(t, before, "how many were lost", func(r reading) bool { return r.device == "meter" && r.name == "lost" && r.value != 0.0 })
		if lost, ok := r.value.(float64); !ok || lost < 50 || lost > 100 { // 1100-1024, but for what the agent was just reading
			t.Errorf("lost: %+v", r)
		}
	})
	if t.Failed() {
		return
	}
	t.Run("restart", func(t *testing.T) {
		p.pulses(t, 4, 3) // nobody sees them
		x.agent(t, device)
		mark = counted(mark, 1300, "uncertain")
		p.pulses(t, 4, 7)
		counted(mark, 1307, "")
	})
}
