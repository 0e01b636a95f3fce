package broker

import (
	"fmt"
	"testing"

	"holdfast/broker/limits"
)

// TestPace: a client that publishes faster than it may is slowed, and nothing of what it sends is lost; another one is
// not slowed.
func TestPace(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits.MessagesPerSecond, cfg.Limits.BytesPerSecond = 20, 1<<20
	b := start(t, cfg)
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "a")
	for _, qos := range []byte{0, 1} {
		pub, _ := dialRaw(t, b.addr, fmt.Sprint("pub", qos), v5)
		const n = 60 // only a broker that stands still for two seconds meanwhile need not slow it
		for i := range n {
			pub.write(pub.publishPacket("a", fmt.Sprint(i), qos<<1, uint16(i+1)*uint16(qos), nil))
		}
		for i := range n {
			if m := sub.take(); m.payload != fmt.Sprint(i) {
				t.Fatalf("%q after %d messages", m.payload, i)
			}
		}
	}
	if b.Stats().Limits[limits.Messages].Load() == 0 {
		t.Error("nobody was slowed")
	}
}

// TestPaceEnds: a connection that is ended while its client rests ends.
func TestPaceEnds(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits.BytesPerSecond = 1 // its CONNECT was free; what comes next lets it rest longer than any test
	b := start(t, cfg)
	c, _ := dialRaw(t, b.addr, "c", v5)
	c.write(c.publishPacket("a", string(make([]byte, 1<<20-64)), 0, 0, nil))
	eventually(t, "it rests", func() bool { return b.Stats().Limits[limits.Bytes].Load() > 0 })
	if _, err := b.kickSession(t.Context(), "c", false); err != nil {
		t.Fatal(err)
	}
	c.closed()
}
