package modbus

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"holdfast/devices"
)

// TestDay: a day of polling a bad line (HOLDFAST_SOAK=1; else 20 minutes), compressed.
// Slave 1 is well, 2 answers late, damaged, amid noise or not at all now and then, 3 comes
// and goes, 4 is dead. The well one loses nothing, no good reading of anybody is wrong, and
// the dead one has its share of the line and no more.
func TestDay(t *testing.T) {
	span := 20 * time.Minute
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		span = 24 * time.Hour
	}
	in(t, func(t *testing.T, s *segment, r *rig) {
		rng := rand.New(rand.NewPCG(20261121, 4))
		const ms = time.Millisecond
		s.set(1, registers(1, 25*ms, plainly(1)))
		well := registers(2, 35*ms, plainly(2))
		s.set(2, func(pdu []byte) []burst { return spoil(rng, well(pdu)[0]) })
		fickle := registers(3, 15*ms, plainly(3))
		s.set(3, func(pdu []byte) []burst {
			if (r.clock.Now()/(97*time.Second))%3 == 1 {
				return nil
			}
			return fickle(pdu)
		})
		good := map[int]int{}
		var sinks []*sink
		for slave := 1; slave <= 4; slave++ {
			c := holding(slave, time.Second, 10, 4)
			c.Timeout = 300 * ms
			// Answers of the same form, about other registers.
			g := holding(slave, 1700*ms, 40, 4).Groups[0]
			c.Groups = append(c.Groups, g)
			k := r.startInto(c, &sink{keep: func(x devices.Reading) {
				if x.Quality != devices.Good {
					return
				}
				good[slave]++
				if want := fmt.Sprintf("r%.0f", x.Value.Num-100*float64(slave)); x.Metric != want {
					t.Fatalf("slave %d: %s has the value of %s", slave, x.Metric, want)
				}
			}})
			sinks = append(sinks, k)
		}
		lapse(span)
		r.stop() // before what it wrote is read
		polls := int(span/time.Second) + 1 + int(span/(1700*ms)) + 1
		if k := sinks[0]; k.counts["polls_missed"] > 0 || good[1] < 4*(polls-2) {
			t.Errorf("the well slave: %d good readings of %d; %v", good[1], 4*polls, k.counts)
		}
		if us := float64(sinks[3].counts["bus_microseconds"]); us > 0.05*float64(span/time.Microsecond) {
			t.Errorf("the dead slave took %.2f %% of the line", 100*us/float64(span/time.Microsecond))
		}
		if good[2] == 0 || good[3] == 0 || good[4] != 0 {
			t.Errorf("good readings: %v", good)
		}
		t.Logf("%v: good readings %v; %v", span, good, sinks[1].counts)
	})
}

// spoil is what becomes of an answer on a bad line.
func spoil(rng *rand.Rand, b burst) []burst {
	switch rng.IntN(30) {
	case 0:
		return nil
	case 1: // late, up to almost three time-outs
		return []burst{{b.after + time.Duration(rng.IntN(840))*time.Millisecond, b.data}}
	case 2:
		broken := clone(b.data)
		broken[rng.IntN(len(broken))] ^= byte(1 + rng.IntN(255))
		return []burst{{b.after, broken}}
	case 3:
		junk := make([]byte, rng.IntN(40))
		for i := range junk {
			junk[i] = byte(rng.Uint32())
		}
		return []burst{{b.after / 2, junk}, b}
	case 4:
		n := rng.IntN(len(b.data))
		return []burst{{b.after, b.data[:n]}, {b.after + 20*time.Millisecond, b.data[n:]}}
	case 5: // half of it
		return []burst{{b.after, b.data[:rng.IntN(len(b.data))]}}
	case 6: // twice
		return []burst{b, b}
	}
	return []burst{b}
}
