package modbus

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
)

func upTo(n int) (out []byte) {
	for i := range n {
		out = append(out, byte(i+1))
	}
	return out
}

// TestScanFinds: slaves at one setting of many, a slow one among them, one that has no
// such register, and one that is heard but never understood.
func TestScanFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newBubble()
		right := newSegment(clock)
		right.set(3, registers(3, 30*time.Millisecond, plainly(3)))
		right.set(5, registers(5, 700*time.Millisecond, plainly(5)))
		right.set(6, registers(6, 10*time.Millisecond, func(uint16) (uint16, bool) { return 0, false }))
		wrong := newSegment(clock)
		wrong.set(3, func([]byte) []burst { return []burst{{40 * time.Millisecond, []byte{0xFE, 0x13, 0x80}}} })
		var steps []Step
		s := Scan{Port: "/dev/x", Bauds: []int{9600, 19200, 38400}, Frames: []string{"8N1", "8E1"}, Slaves: upTo(8), Timeout: 200 * time.Millisecond, Count: 4,
			Clock: clock, Step: func(s Step) { steps = append(steps, s) }}
		s.open = func(c busConfig, clock devices.Clock) opener {
			switch c.mode.String() {
			case "19200 8N1":
				return wrong.driver().opener(c, clock)
			case "19200 8E1":
				return right.driver().opener(c, clock)
			}
			return newSegment(clock).driver().opener(c, clock)
		}
		got, err := s.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var found []byte
		for _, f := range got.Found {
			found = append(found, f.Slave)
			if f.Baud != 19200 || f.Frame != "8E1" || f.Requests != 4 || f.Answers != 4 || f.Timeouts+f.CRCErrors != 0 || f.MinMS > f.MeanMS || f.MeanMS > f.MaxMS {
				t.Errorf("%+v", f)
			}
		}
		if slices.Sort(found); !slices.Equal(found, []byte{3, 5, 6}) {
			t.Errorf("found %v", found)
		}
		if f := got.Found[0]; f.Slave != 3 || f.Answer != "register" || f.MeanMS < 20 || f.MeanMS > 30 {
			t.Errorf("%+v", f)
		}
		for _, f := range got.Found {
			if f.Slave == 6 && f.Answer != "exception 2 (illegal data address)" {
				t.Errorf("%+v", f)
			}
		}
		if !slices.Equal(got.Heard, []string{"19200 8N1"}) || got.Done != 32 || got.Total != 48 || len(steps) != 32 {
			t.Errorf("heard %v, %d of %d, %d steps", got.Heard, got.Done, got.Total, len(steps))
		}
		if d := s.Longest(); d < 48*200*time.Millisecond || d > 48*250*time.Millisecond+6*time.Second {
			t.Errorf("longest %v", d)
		}
	})
}

// TestScanIsBounded: it ends with its context and keeps what it has.
func TestScanIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newBubble()
		seg := newSegment(clock)
		seg.set(1, registers(1, 0, plainly(1)))
		s := Scan{Port: "/dev/x", Bauds: []int{9600}, Frames: []string{"8N1"}, Slaves: upTo(247), Timeout: time.Second, Count: 1, Clock: clock, open: func(c busConfig, clock devices.Clock) opener { return seg.driver().opener(c, clock) }}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := s.Run(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || len(got.Found) != 1 || got.Done < 9 || got.Done > 11 {
			t.Errorf("%v: %+v", err, got)
		}
	})
}

func TestScanCheck(t *testing.T) {
	good := Scan{Port: "/dev/x", Bauds: []int{9600}, Frames: []string{"8N1"}, Slaves: []byte{1}, Timeout: time.Second, Count: 1}
	for key, spoil := range map[string]func(*Scan){
		"":        func(*Scan) {},
		"port":    func(s *Scan) { s.Server = "x" },
		"slaves":  func(s *Scan) { s.Slaves = []byte{0} },
		"bauds":   func(s *Scan) { s.Bauds = nil },
		"frames":  func(s *Scan) { s.Frames = []string{"9X3"} },
		"timeout": func(s *Scan) { s.Count = 0 },
	} {
		s := good
		spoil(&s)
		problems := s.Check()
		if key == "" && len(problems) > 0 || key != "" && (len(problems) != 1 || problems[0].Key != key) {
			t.Errorf("%s: %v", key, problems)
		}
		if _, err := s.Run(t.Context()); key != "" && err == nil {
			t.Errorf("%s: it ran", key)
		}
	}
}

// TestScanPeers: libmodbus on a line and pymodbus on another are found as they are.
func TestScanPeers(t *testing.T) {
	drivertest.NoLeak(t)
	c := join(t, 2, nil)
	for i, slave := range []int{2, 7} {
		launch(t, cServer(t), "rtu", c.peers[i].Path, strconv.Itoa(slave))
	}
	py := join(t, 1, nil)
	launch(t, python, "testdata/server.py", "rtu", py.peers[0].Path, "2", "7")
	for _, w := range []*wires{c, py} {
		s := Scan{Port: w.ours.Path, Bauds: []int{115200}, Frames: []string{"8N1"}, Slaves: []byte{2, 3, 7}, Timeout: 500 * time.Millisecond, Count: 3, Clock: devices.BootClock()}
		var got Scanned
		var err error
		for range 20 { // a loaded machine may miss one
			if got, err = s.Run(t.Context()); err != nil || len(got.Found) == 2 {
				break
			}
		}
		if err != nil || len(got.Found) != 2 || got.Found[0].Slave != 2 || got.Found[1].Slave != 7 || got.Found[0].Answer != "register" {
			t.Errorf("%v: %+v", err, got)
		}
	}
}
