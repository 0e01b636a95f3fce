package broker

import (
	"fmt"
	"testing"
)

// TestNothingIsLostBetweenTwoConnections: a client acknowledges, disconnects at once, and what comes
// just then waits for it. The acknowledgement wakes the writer while the connection ends; a writer
// that read on for a session that was left made it live without being handed anything.
func TestNothingIsLostBetweenTwoConnections(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	keep := opts{expiry: 3600}
	sub, _ := dialRaw(t, b.addr, "sub", keep)
	sub.subscribe(1, "t")
	const n = 60
	for i := range n {
		pub.publish("t", fmt.Sprint(i), uint16(i+1))
		if m := sub.take(); m.payload != fmt.Sprint(i) {
			t.Fatalf("%+v instead of %d", m, i)
		}
		sub.disconnect()
		pub.publish("t", fmt.Sprint("away ", i), uint16(n+i+1))
		sub, _ = dialRaw(t, b.addr, "sub", keep)
		if m := sub.take(); m.payload != fmt.Sprint("away ", i) {
			t.Fatalf("%+v instead of what came while it was away, round %d", m, i)
		}
	}
}
