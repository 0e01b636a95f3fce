package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

// in runs a test in a bubble, with a segment and a rig on it.
func in(t *testing.T, f func(t *testing.T, s *segment, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		clock := newBubble()
		s := newSegment(clock)
		r := newRig(t, clock, s.driver())
		defer r.stop()
		f(t, s, r)
	})
}

// atLength is d, or a part of it where time is dear (emulated boards).
func atLength(d time.Duration) time.Duration {
	if testing.Short() {
		return d / 6
	}
	return d
}

func lapse(d time.Duration) { <-time.After(d); synctest.Wait() }

func TestPolls(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		s.set(1, registers(1, 30*time.Millisecond, plainly(1)))
		k, _ := r.start(holding(1, time.Second, 7, 3))
		lapse(2500 * time.Millisecond)
		// 8 characters are on the wire for 0.7 ms; the answer is there 30 ms after the frame was handed over.
		for i, want := range []string{"107@30ms 107@1.03s 107@2.03s", "108@30ms 108@1.03s 108@2.03s", "109@30ms 109@1.03s 109@2.03s"} {
			if got := strings.Join(k.only(fmt.Sprint("r", 7+i)), " "); got != want {
				// the first request waits for the silence that the line must have had
				if got != strings.Replace(want, "@30ms", "@32ms", 1) {
					t.Errorf("r%d: %s", 7+i, got)
				}
			}
		}
		if s.asked[1] != 3 || k.count("answers") != 3 || k.count("requests") != 3 {
			t.Errorf("%d requests for 3 polls of adjacent registers; %v", s.asked[1], k.counts)
		}
	})
}

// TestSlowSlaveDoesNotDrift: polls that take longer than the interval are left out and
// counted; those that follow are on the grid.
func TestSlowSlaveDoesNotDrift(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		slow := registers(1, 2300*time.Millisecond, plainly(1))
		fast := registers(1, 0, plainly(1))
		n := 0
		s.set(1, func(pdu []byte) []burst {
			if n++; n == 3 {
				return slow(pdu)
			}
			return fast(pdu)
		})
		c := holding(1, time.Second, 0, 1)
		c.Timeout = 5 * time.Second
		k, _ := r.start(c)
		lapse(6500 * time.Millisecond)
		if got, want := strings.Join(k.only("r0"), " "), "100@2ms 100@1s 100@4.3s 100@4.302s 100@5s 100@6s"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if k.count("polls_missed") != 1 {
			t.Errorf("%v", k.counts)
		}
	})
}

// TestDeadSlave: it takes a twentieth of the bus at most, and no reading from the others;
// it is told, and found again.
func TestDeadSlave(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		var live []*sink
		for id := 1; id <= 3; id++ {
			s.set(byte(id), registers(byte(id), 40*time.Millisecond, plainly(byte(id))))
			k, _ := r.start(holding(id, time.Second, 0, 10))
			live = append(live, k)
		}
		dead, _ := r.start(holding(9, time.Second, 0, 10))
		hour := int(atLength(time.Hour) / time.Second)
		lapse(time.Duration(hour)*time.Second - 500*time.Millisecond)
		for i, k := range live {
			if n := len(k.only("r0")); n != hour || k.count("polls_missed") != 0 {
				t.Errorf("slave %d: %d readings in %d s; %v", i+1, n, hour, k.counts)
			}
			for _, x := range k.all() {
				if x.Quality != devices.Good {
					t.Fatalf("slave %d: %v", i+1, x)
				}
			}
			// After the first minute the probes stay in the gaps between polls: nobody waits for one.
			for _, x := range k.all()[100*10:] {
				if late := (x.At - time.Hour) % time.Second; late > 200*time.Millisecond {
					t.Fatalf("slave %d was read %v after it was due", i+1, late)
				}
			}
		}
		// The line was its own for the time-out after each request to it.
		if share := float64(s.asked[9]) * 0.5 / float64(hour); share > 0.05 || dead.count("probes") < uint64(hour/36) {
			t.Errorf("the dead slave took %.1f %% of the bus (%d probes)", 100*share, dead.count("probes"))
		}
		if us := dead.count("bus_microseconds"); us > uint64(hour)*1e6/20 || us < uint64(hour)*1e6/50 {
			t.Errorf("by its own count %d us", us)
		}
		got := dead.only("r3")
		if len(got) < hour/80 || len(got) > hour/60+1 || !strings.HasPrefix(got[0], "timeout@1.") {
			t.Errorf("told %d times, first %v", len(got), got[:1])
		}
		s.set(9, registers(9, 40*time.Millisecond, plainly(9)))
		lapse(time.Minute)
		if got := dead.only("r3"); !strings.HasPrefix(got[len(got)-1], "903@") || len(got) < hour/80+30 {
			t.Errorf("it came back: %v", got[len(got)-3:])
		}
	})
}

// TestManyDead: all dead slaves together have the share of one; when the line comes back,
// all are found soon.
func TestManyDead(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		var sinks []*sink
		for id := 1; id <= 10; id++ {
			k, _ := r.start(holding(id, time.Second, 0, 1))
			sinks = append(sinks, k)
		}
		lapse(time.Hour)
		var us uint64
		for _, k := range sinks {
			us += k.count("bus_microseconds")
		}
		if us > 3600e6/20 {
			t.Errorf("ten dead slaves took %.1f %% of the bus", 100*float64(us)/3600e6)
		}
		for id := 1; id <= 10; id++ {
			s.set(byte(id), registers(byte(id), 10*time.Millisecond, plainly(byte(id))))
		}
		lapse(2 * time.Minute)
		for i, k := range sinks {
			if got := k.only("r0"); !strings.HasPrefix(got[len(got)-1], fmt.Sprint(100*(i+1), "@")) || len(got) < 80 {
				t.Errorf("slave %d: %v", i+1, got[len(got)-1])
			}
		}
	})
}

// TestLateAnswers: answers that come after the time-out are never taken for another
// request's, however late.
func TestLateAnswers(t *testing.T) {
	for _, latency := range []time.Duration{150, 230, 260, 390, 480, 510, 740, 1000, 1700} {
		for _, retries := range []int{0, 1, 3} {
			in(t, func(t *testing.T, s *segment, r *rig) {
				s.set(1, registers(1, latency*time.Millisecond, plainly(1)))
				c := holding(1, time.Second, 0, 1)
				c.Timeout, c.Retries = 250*time.Millisecond, retries
				for g := 1; g < 4; g++ { // other registers, answers of the same form
					a := 10 * g
					c.Groups = append(c.Groups, Group{Interval: 700 * time.Millisecond, Registers: []Register{{Metric: fmt.Sprint("r", a), Address: &a}}})
				}
				k, _ := r.start(c)
				lapse(atLength(20 * time.Minute))
				good := 0
				for _, x := range k.all() {
					if x.Quality == devices.Good {
						if good++; x.Metric != fmt.Sprintf("r%.0f", x.Value.Num-100) {
							t.Fatalf("latency %d ms, %d retries: %s = %v", latency, retries, x.Metric, x.Value.Num)
						}
					}
				}
				if latency < 250 && good < int(atLength(4000)) {
					t.Errorf("latency %d ms: %d good readings", latency, good)
				}
			})
		}
	}
}

// TestNoise: what is not the answer is passed over and counted; a damaged answer is asked
// for again.
func TestNoise(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		good := registers(1, 20*time.Millisecond, plainly(1))
		n := 0
		s.set(1, func(pdu []byte) []burst {
			b := good(pdu)
			answer := b[0].data
			switch n++; n % 5 {
			case 1: // noise around it, in pieces
				return []burst{{time.Millisecond, []byte{0, 0xFF}}, {20 * time.Millisecond, answer[:2]}, {25 * time.Millisecond, answer[2:]}}
			case 2: // another slave's frame before it
				return []burst{{10 * time.Millisecond, frame("02 03 02 0001")}, b[0]}
			case 3: // a bit is wrong
				broken := clone(answer)
				broken[3] ^= 4
				return []burst{{20 * time.Millisecond, broken}}
			}
			return b
		})
		k, _ := r.start(holding(1, time.Second, 5, 1))
		lapse(100*time.Second - time.Millisecond)
		if got := k.only("r5"); len(got) != 100 || slices.ContainsFunc(got, func(v string) bool { return !strings.HasPrefix(v, "105@") }) {
			t.Errorf("%d readings: %v", len(got), got)
		}
		if k.count("crc_errors") == 0 || k.count("crc_errors") != k.count("retries") || k.count("foreign_bytes") == 0 || k.count("timeouts") != 0 {
			t.Errorf("%v", k.counts)
		}
	})
}

// TestExceptionsAreBadQuality: with the code; and a register that the slave does not know
// does not spoil those beside it.
func TestExceptionsAreBadQuality(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		s.set(1, registers(1, 0, func(a uint16) (uint16, bool) { return a, a != 4 }))
		k, _ := r.start(holding(1, time.Second, 2, 5))
		lapse(1500 * time.Millisecond)
		for metric, want := range map[string]string{"r2": "2", "r3": "3", "r4": "exception-2", "r5": "5", "r6": "6"} {
			if got := k.only(metric); len(got) != 2 || !strings.HasPrefix(got[0], want+"@") || !strings.HasPrefix(got[1], want+"@") {
				t.Errorf("%s: %v", metric, got)
			}
		}
		if k.count("blocks_split") != 1 || k.count("exceptions") != 3 || s.asked[1] != 1+5+5 {
			t.Errorf("%v, %d requests", k.counts, s.asked[1])
		}
	})
}

// TestGatewayException: a gateway that says its slave is silent is a silent slave.
func TestGatewayException(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		s.set(1, func([]byte) []burst { return []burst{{800 * time.Millisecond, frame("01 83 0B")}} })
		c := holding(1, time.Second, 2, 5)
		c.Timeout = 2 * time.Second
		k, _ := r.start(c)
		lapse(10 * time.Minute)
		if got := k.only("r2"); !strings.HasPrefix(got[0], "exception-11@") || len(got) > 11 || s.asked[1] > 50 {
			t.Errorf("%v, asked %d times", got, s.asked[1])
		}
	})
}

// TestLostBus: told at once by every device, again after a while, and over when it is back.
func TestLostBus(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		var sinks []*sink
		for id := 1; id <= 2; id++ {
			s.set(byte(id), registers(byte(id), 0, plainly(byte(id))))
			k, _ := r.start(holding(id, 10*time.Second, 0, 1))
			sinks = append(sinks, k)
		}
		lapse(12 * time.Second)
		s.cut(&tty.Error{Reason: tty.Lost, Err: errors.New("unplugged")})
		lapse(time.Second)
		for i, k := range sinks {
			if got := k.only("r0"); len(got) != 3 || got[2] != "port-lost@12s" {
				t.Errorf("slave %d: %v", i+1, got)
			}
		}
		lapse(2 * time.Minute)
		s.restore()
		lapse(15 * time.Second)
		for i, k := range sinks {
			got := k.only("r0")
			lost := len(got) - 1
			for lost > 0 && !strings.HasPrefix(got[lost], "port-lost") {
				lost--
			}
			if lost < 3 || lost > 5 || len(got)-lost < 2 {
				t.Errorf("slave %d: %v", i+1, got)
			}
		}
	})
}

// TestReopenedAtOnce: a link that ends in the middle of a poll and can be opened again at
// once costs no reading.
func TestReopenedAtOnce(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		good := registers(1, 0, plainly(1))
		n := 0
		s.set(1, func(pdu []byte) []burst {
			if n++; n == 9 {
				s.mu.Lock()
				l := s.links[len(s.links)-1]
				s.mu.Unlock()
				l.inbox.fail(&linkError{connectionLost, errors.New("closed")})
				return nil
			}
			return good(pdu)
		})
		k, _ := r.start(holding(1, time.Second, 0, 1))
		lapse(20500 * time.Millisecond)
		got := k.only("r0")
		if len(got) != 21 || slices.ContainsFunc(got, func(v string) bool { return !strings.HasPrefix(v, "100@") }) || len(s.links) != 2 {
			t.Errorf("%d: %v, opened %d times", len(got), got, len(s.links))
		}
	})
}

func TestHold(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		s.set(1, registers(1, 0, plainly(1)))
		k, _ := r.start(holding(1, time.Second, 0, 1))
		lapse(1500 * time.Millisecond)
		k.mu.Lock()
		k.hold = true
		k.mu.Unlock()
		lapse(3 * time.Second)
		if len(k.all()) != 2 || k.count("polls_skipped") != 3 {
			t.Errorf("%d readings, %v", len(k.all()), k.counts)
		}
	})
}

func TestWrite(t *testing.T) {
	in(t, func(t *testing.T, s *segment, r *rig) {
		var got []string
		s.set(1, func(pdu []byte) []burst {
			if pdu[0] < 5 {
				return registers(1, 0, plainly(1))(pdu)
			}
			got = append(got, fmt.Sprintf("%x", pdu))
			answer := append([]byte{1}, pdu...)
			if binary.BigEndian.Uint16(pdu[1:]) == 9 {
				answer = []byte{1, pdu[0] | exceptionBit, 2}
			}
			return []burst{{10 * time.Millisecond, binary.LittleEndian.AppendUint16(answer, crc16(answer))}}
		})
		k, d := r.start(holding(1, time.Second, 0, 1))
		lapse(100 * time.Millisecond)
		if err := errors.Join(d.WriteCoil(r.ctx, 3, true), d.WriteCoil(r.ctx, 3, false), d.WriteRegister(r.ctx, 7, 1234)); err != nil {
			t.Error(err)
		}
		var e Exception
		if err := d.WriteRegister(r.ctx, 9, 1); !errors.As(err, &e) || e != illegalAddress {
			t.Error(err)
		}
		if want := []string{"050003ff00", "0500030000", "06000704d2", "0600090001"}; !slices.Equal(got, want) {
			t.Errorf("sent %v", got)
		}
		ctx, cancel := context.WithTimeout(r.ctx, time.Millisecond)
		defer cancel()
		s.set(1, nil)
		if err := d.WriteCoil(ctx, 3, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		r.stop()
		if err := d.WriteCoil(context.Background(), 3, true); !errors.Is(err, ErrNotRunning) {
			t.Error(err)
		}
		if len(k.all()) == 0 {
			t.Error("no readings beside the writes")
		}
	})
}

// TestOneBusOneSetting: two devices that mean the same line differently cannot both be right.
func TestOneBusOneSetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newBubble()
		s := newSegment(clock)
		r := newRig(t, clock, s.driver())
		defer r.stop()
		r.start(holding(1, time.Second, 0, 1))
		lapse(time.Millisecond)
		c := holding(2, time.Second, 0, 1)
		c.Baud = 9600
		dev, err := r.driver.New(c, devices.Env{Name: "x", Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Run(r.ctx, &sink{}); err == nil || !strings.Contains(err.Error(), "must agree") {
			t.Error(err)
		}
	})
}
