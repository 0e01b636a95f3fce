package broker

import (
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// TestRefusedDelay: a refused client waits for its answer, so that one which comes again at once does not do so a thousand times a
// second; so many may wait, and who is one too many is answered at once and counted. A client that gets in does not wait.
func TestRefusedDelay(t *testing.T) {
	t.Parallel()
	const delay = 300 * time.Millisecond
	u := newTestUsers()
	u.may("ann", "publish a")
	b := withUsers(t, u, func(c *Config) { c.Access.RefusedDelay = delay })
	refused := func(version byte) time.Duration {
		t.Helper()
		began := time.Now()
		_, ack, err := tryDial(t, b.addr, "c", opts{version: version, clean: true, user: "ann", secret: "wrong"})
		if err != nil || ack.body[1] != mqtt.BadUserOrPassword && ack.body[1] != 4 {
			t.Fatalf("%x, %v", ack.body, err)
		}
		return time.Since(began)
	}
	for _, version := range []byte{mqtt.V5, mqtt.V311} {
		if took := refused(version); took < delay {
			t.Errorf("version %d: answered after %s", version, took)
		}
	}
	eventually(t, "nobody waits any more", func() bool { return b.access.delayed.Load() == 0 })
	b.access.delayed.Add(maxDelayed)
	refused(mqtt.V5)
	if n := b.access.counts.Undelayed.Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
	b.access.delayed.Add(-maxDelayed)
	c, _ := dialRaw(t, b.addr, "c", as("ann", opts{}))
	for id := range uint16(100) { // nor is a connection that may stay held up by what it may not do
		if code := c.publish("b", "x", id+1).code(); code != mqtt.NotAuthorized {
			t.Errorf("0x%02x", code)
		}
	}
	c.quiet()
}
