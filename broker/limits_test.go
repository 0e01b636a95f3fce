package broker

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// TestWhoDoesNotReadItsAnswers is cut off before they fill the memory.
func TestWhoDoesNotReadItsAnswers(t *testing.T) {
	t.Parallel()
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "deaf", v5)
	if err := c.nc.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	b.conns.mu.Lock()
	for own := range b.conns.m { // else megabytes of answers are in the kernel before the broker keeps any
		if err := own.nc.(*net.TCPConn).SetWriteBuffer(4096); err != nil {
			t.Error(err)
		}
	}
	b.conns.mu.Unlock()
	full := make([]string, limits.DefaultSubscriptions)
	for i := range full {
		full[i] = strconv.Itoa(i)
	}
	c.subscribe(0, full...)
	body := c.props([]byte{0, 1}, nil)
	for range 200_000 {
		body = append(mqtt.AppendText(body, "a"), 0) // too many: a byte of the SUBACK for each
	}
	question := frame(mqtt.SUBSCRIBE<<4|2, body)
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
	for range 128 { // 100 MB
		_, err := c.nc.Write(question)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal("neither cut off nor taken")
		}
		if err != nil {
			return // cut off
		}
	}
	t.Fatal("25 MB of answers are kept for a client that reads none")
}

// TestSubscriptionsAreBounded: what is too much is refused in the SUBACK; what is there can
// still be changed, and what was given up makes room.
func TestSubscriptionsAreBounded(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "greedy", opts{expiry: 100})
	filters := make([]string, limits.DefaultSubscriptions+2)
	for i := range filters {
		filters[i] = fmt.Sprintf("a/%d", i)
	}
	codes := c.subscribe(1, filters...)
	if codes[limits.DefaultSubscriptions-1] != 1 || codes[limits.DefaultSubscriptions] != mqtt.QuotaExceeded || codes[limits.DefaultSubscriptions+1] != mqtt.QuotaExceeded {
		t.Fatalf("% x", codes[limits.DefaultSubscriptions-2:])
	}
	if codes := c.subscribe(0, "a/0", "a/new"); codes[0] != 0 || codes[1] != mqtt.QuotaExceeded {
		t.Fatalf("% x", codes)
	}
	long := strings.Repeat("x", 60_000)
	d, _ := dialRaw(t, b.addr, "wordy", opts{expiry: 100})
	if codes := d.subscribe(1, long+"1", long+"2", long+"3", long+"4", long+"5", "short"); codes[3] != 1 || codes[4] != mqtt.QuotaExceeded || codes[5] != 1 {
		t.Fatalf("% x", codes)
	}
}
