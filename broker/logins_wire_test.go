package broker

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// TestGuessing: who guesses is told to wait, his guesses are not looked at any more, and whoever has the right password gets
// in all the while, at the same address and as the same user, if it was there before.
func TestGuessing(t *testing.T) {
	t.Parallel()
	u := newTestUsers()
	u.may("ann", "both #")
	u.may("bob", "both #")
	b := withUsers(t, u, nil)
	connect := func(user, password string, version byte) byte {
		t.Helper()
		c, ack, err := tryDial(t, b.addr, "c-"+user, opts{version: version, clean: true, user: user, secret: password})
		if err != nil {
			t.Fatal(err)
		}
		c.disconnect()
		return ack.body[1]
	}
	if code := connect("ann", "ann", mqtt.V5); code != 0 {
		t.Fatalf("0x%02X", code)
	}
	for i := range 5 {
		if code := connect("ann", fmt.Sprint("guess", i), mqtt.V5); code != mqtt.BadUserOrPassword {
			t.Errorf("guess %d: 0x%02X", i, code)
		}
	}
	asked := func() int {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.asked
	}
	eventually(t, "guesses are not looked at for a while", func() bool {
		before := asked()
		return connect("ann", "guess", mqtt.V5) == mqtt.ConnectionRateExceeded && asked() == before
	})
	if code := connect("ann", "guess", mqtt.V311); code != 3 && code != 4 { // 4: its wait is over just now
		t.Errorf("3.1.1: %d", code)
	}
	if code := connect("ann", "ann", mqtt.V5); code != 0 {
		t.Errorf("the password that was right before: 0x%02X", code)
	}
	if code := connect("bob", "bob", mqtt.V5); code != 0 {
		t.Errorf("another user at the same address: 0x%02X", code)
	}
	if b.Stats().LoginsFailed.Load() < 5 || b.Stats().Limits[limits.FailedLogins].Load() == 0 {
		t.Error("it is not counted")
	}
	u.fail(true)
	for range 10 {
		connect("bob", "x", mqtt.V5)
	}
	u.fail(false)
	if code := connect("bob", "other", mqtt.V5); code != mqtt.BadUserOrPassword {
		t.Errorf("what a source could not say counts: 0x%02X", code)
	}
}

// TestGuessingOverNodes: what fails at one node counts at the others.
func TestGuessingOverNodes(t *testing.T) {
	t.Parallel()
	users := []*testUsers{newTestUsers(), newTestUsers(), newTestUsers()}
	c := startNodes(t, 3)
	for i, u := range users {
		u.may("ann", "both #")
		c.cfgs[i].Auth, c.cfgs[i].Access.RefusedDelay = u.links(), 1
		c.cfgs[i].Limits.LoginFailures = 3
		c.cfgs[i].Limits.LoginBackoff = patience
	}
	c.begin()
	for i := range 3 {
		if _, ack, err := tryDial(t, c.up[0].addr, "c", opts{clean: true, user: "ann", secret: fmt.Sprint("guess", i)}); err != nil || ack.body[1] != mqtt.BadUserOrPassword {
			t.Fatal(ack, err)
		}
	}
	for _, n := range c.up[1:] {
		eventually(t, "the others know", func() bool { known, _ := n.logins.Remembered(); return known == 3 })
		if got := n.logins.Wait(n.logins.Login(limits.AddressOf(n.Addrs()[0]), "ann", []byte("another guess"))); got <= 0 {
			t.Errorf("%s: nobody waits", n.cfg.Node.Name)
		}
	}
	if text := scrape(t, c.up[1].Broker); !strings.Contains(text, metricPrefix+"logins_remembered 3") {
		t.Error("no metric of it")
	}
}
