package counter

import (
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices/gpiocdev"
	"holdfast/devices/gpiocdev/gpiotest"
)

// BenchmarkTake is one edge on its way from the kernel's bytes into the count, ten of them
// read at once as at 1 kHz. The system calls are not in it.
func BenchmarkTake(b *testing.B) {
	for name, settle := range map[string]time.Duration{"counted": 0, "debounced": 100 * time.Microsecond} {
		b.Run(name, func(b *testing.B) {
			source := &endless{}
			line, err := gpiocdev.Open(source, "chip", 0, "bench", gpiocdev.Config{Edge: gpio.BothEdges})
			if err != nil {
				b.Fatal(err)
			}
			y := tally{edge: gpio.RisingEdge, states: true}
			y.Settle = settle
			y.begin(gpio.Low, 0)
			var edges []gpiocdev.Event
			b.ReportAllocs()
			for n := 0; b.Loop(); n-- {
				if n == 0 {
					if edges, err = line.Read(edges[:0]); err != nil || len(edges) != 10 {
						b.Fatal(len(edges), err)
					}
					n = 10
				}
				y.take(edges[10-n])
			}
			if y.lost > 0 || b.N > 100 && y.count < uint64(b.N)/2-10 {
				b.Fatalf("counted %d, lost %d", y.count, y.lost)
			}
		})
	}
}

// endless is a kernel whose one line gives ten edges at each read, half a millisecond apart.
type endless struct {
	seq uint32
	at  uint64
}

func (*endless) Chips() []string                      { return nil }
func (e *endless) Open(string) (gpiocdev.File, error) { return e, nil }
func (e *endless) Line(int) (gpiocdev.File, error)    { return e, nil }
func (*endless) BootOffset() time.Duration            { return 0 }
func (*endless) Ioctl(uint, []byte) error             { return nil }
func (*endless) Wait() error                          { return nil }
func (*endless) Close() error                         { return nil }
func (e *endless) Read(p []byte) (n int, err error) {
	for range 10 {
		e.seq++
		e.at += 500_000
		n += gpiotest.PutEdge(p[n:], e.at, e.seq%2 == 1, e.seq)
	}
	return n, nil
}
