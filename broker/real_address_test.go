package broker

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"holdfast/broker/mqtt"
)

// TestRealAddress: behind a proxy it is the client's own address that rules, limits and failed logins go by, and that
// the log has.
func TestRealAddress(t *testing.T) {
	t.Parallel()
	cfg := fileConfig(t, "[[user]]\nname = \"ann\"\npassword = %q\n[[rule]]\naction = \"allow\"\nfilters = [\"near/#\"]\naddresses = [\"192.0.2.0/24\", \"2001:db8:1::/48\"]\n", "secret")
	cfg.Listen.ProxyProtocol, cfg.Listen.TrustedProxies = []string{"mqtt"}, []string{"127.0.0.1"}
	cfg.Limits.ConnectionsPerAddress, cfg.Limits.LoginFailures, cfg.Limits.LoginBackoff = 2, 3, patience
	b, log := logged(t, cfg)
	v1 := func(addr string) string {
		if strings.Contains(addr, ":") {
			return fmt.Sprintf("PROXY TCP6 %s 2001:db8::1 49153 1883\r\n", addr)
		}
		return fmt.Sprintf("PROXY TCP4 %s 10.0.0.1 49153 1883\r\n", addr)
	}
	from := func(header, id, password string) (*rawClient, byte) {
		t.Helper()
		nc := mustDial(t, b.addr)
		if _, err := io.WriteString(nc, header); err != nil {
			t.Fatal(err)
		}
		c, ack, err := tryConnect(t, nc, id, opts{clean: true, user: "ann", secret: password})
		if err != nil {
			t.Fatal(err)
		}
		return c, ack.body[1]
	}
	for header, code := range map[string]byte{
		v1("192.0.2.9"): 0, v1("192.0.3.9"): mqtt.NotAuthorized, v1("2001:db8:1::7"): 0, v2Header(0x21, 0x11, inet4...): 0, v2Header(0x21, 0x21, inet6...): mqtt.NotAuthorized,
	} {
		c, ack := from(header, fmt.Sprintf("c%x", header), "secret")
		if ack != 0 {
			t.Fatalf("%q: 0x%02x", header, ack)
		}
		if got := c.publish("near/x", "x", 1).code(); got != code && !(code == 0 && got == mqtt.NoMatchingSubscribers) {
			t.Errorf("%q: 0x%02x, want 0x%02x", header, got, code)
		}
		c.disconnect()
	}
	for _, addr := range []string{"addr=192.0.3.9:49153", `addr="[2001:db8::7]:49153"`} {
		if !strings.Contains(log.String(), addr) && !strings.Contains(log.String(), strings.ReplaceAll(addr, `"`, "")) {
			t.Errorf("%s is not in the log: %s", addr, log)
		}
	}
	for i := range 2 {
		if _, ack := from(v1("192.0.2.20"), fmt.Sprint("many", i), "secret"); ack != 0 {
			t.Errorf("0x%02x", ack)
		}
	}
	if _, ack := from(v1("192.0.2.20"), "one-more", "secret"); ack != mqtt.QuotaExceeded {
		t.Errorf("a third connection of one address: 0x%02x", ack)
	}
	if _, ack := from(v1("192.0.2.21"), "another", "secret"); ack != 0 {
		t.Errorf("the first one of another: 0x%02x", ack)
	}
	for i := range 3 {
		if _, ack := from(v1("192.0.2.66"), fmt.Sprint("guess", i), "guess"); ack != mqtt.BadUserOrPassword {
			t.Errorf("0x%02x", ack)
		}
	}
	if _, ack := from(v1("192.0.2.66"), "guess", "guess"); ack != mqtt.ConnectionRateExceeded {
		t.Errorf("who guesses is not told to wait: 0x%02x", ack)
	}
	if _, ack := from(v1("192.0.2.67"), "right", "secret"); ack != 0 {
		t.Errorf("another address, through the same proxy: 0x%02x", ack)
	}
}
