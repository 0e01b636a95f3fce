package broker

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestCatchUp: a node that was down while the others stored a lot is back by itself, with all of it. HOLDFAST_SOAK=1
// has it 1 GiB behind; how long it took is in the test's output.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	messages := 64 // 4 MiB
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		messages = 1 << 30 / size
	}
	s := newPlace(t, buildBroker(t), 5, 3)
	for i := range 3 {
		s.settle(i, 3)
	}
	s.start(0, 1, 2)
	s.ready(0, 1, 2)
	if err := s.nodes[2].stop(); err != nil {
		t.Fatal(err)
	}
	pub, _ := s.dial(0, "pub", opts{version: 5, clean: true})
	payload := strings.Repeat("x", size)
	begin := time.Now()
	go func() {
		for i := range messages {
			if _, err := pub.nc.Write(pub.publishPacket("t", payload, 2, uint16(i%60000+1), nil)); err != nil {
				return // said below
			}
		}
	}()
	for range messages {
		p, err := pub.next()
		if err != nil || p.code() >= 0x80 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	stored := time.Since(begin)
	s.start(2)
	took := s.ready(0, 1, 2)
	t.Logf("%d MiB stored in %.1f s; the node that lacked them is ready %.1f s after its start", messages*size>>20, stored.Seconds(), took.Seconds())
}
