package broker

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// full is n with HOLDFAST_SOAK=1, else less.
func full(n, less int) int {
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		return n
	}
	return less
}

// TestFrontGarbage: altered PROXY headers, altered TLS handshakes, altered WebSocket requests and noise end their own
// connections, and nobody else's.
func TestFrontGarbage(t *testing.T) {
	t.Parallel()
	cfg, tc := everyListener(t)
	cfg.Listen.ProxyProtocol, cfg.Listen.TrustedProxies = []string{"mqtt"}, []string{"127.0.0.1"}
	cfg.Limits = limits.Config{ConnectTimeout: 30 * time.Second} // the witness has to keep it, too
	b, err := New(cfg, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := serveBroker(t, b)
	witness := speak(t, r, 1, "", "witness", tc)
	hello := clientHello(t)
	seeds := [][]string{
		{"PROXY TCP4 192.0.2.7 10.0.0.1 49153 1883\r\n", "PROXY UNKNOWN\r\n", v2Header(0x21, 0x11, inet4...), v2Header(0x21, 0x21, inet6...), v2Header(0x20, 0), v2Header(0x21, 0x11, append(inet4, tlvs...)...)},
		{hello, hello[:5], "\x16\x03\x01\xff\xff", "\x15\x03\x03\x00\x02\x02\x28"},
		{"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x82\x05", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"},
	}
	seeds = append(seeds, seeds[1])
	rnd := rand.New(rand.NewPCG(6, 3))
	for i := range full(20000, 600) {
		listener := i % 4
		data := []byte(seeds[listener][rnd.IntN(len(seeds[listener]))])
		for range rnd.IntN(5) {
			switch at := rnd.IntN(len(data)); rnd.IntN(4) {
			case 0:
				data[at] = byte(rnd.Uint32())
			case 1:
				data = data[:at+1]
			case 2:
				data = append(data[:at+1], data[at:]...)
			case 3:
				data = append(data, connectPacket("x", opts{version: mqtt.V5})...)
			}
		}
		nc, err := net.Dial("tcp", r.Addrs()[listener].String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write(data)
		if i%3 == 0 {
			_ = nc.(*net.TCPConn).CloseWrite()
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			_, _ = io.Copy(io.Discard, nc)
		}
		nc.Close()
	}
	witness.quiet()
	eventually(t, "nothing is left of it", func() bool { known, half := r.book.Load().Addresses(); return half == 0 && known == 1 })
	if n := r.Stats().Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// clientHello is what a TLS client begins with.
func clientHello(t *testing.T) string {
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		_ = tls.Client(b, &tls.Config{InsecureSkipVerify: true}).Handshake() // to a pipe that is closed when its first bytes are there
		b.Close()
	}()
	buf := make([]byte, 4096)
	n, err := a.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestReconnects: clients that come again and again leave nothing behind, and each gets in.
func TestReconnects(t *testing.T) {
	t.Parallel()
	b := start(t, testConfig(t.TempDir()))
	var left atomic.Int64
	left.Store(int64(full(20000, 2000)))
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				c, ack, err := tryDial(t, b.addr, fmt.Sprint("c", w), opts{clean: true})
				if err != nil || ack.body[1] != 0 {
					t.Errorf("%v: %x", err, ack.body)
					return
				}
				c.disconnect()
			}
		})
	}
	all.Wait()
	eventually(t, "nothing is left", func() bool { known, half := b.book.Load().Addresses(); return known+half == 0 })
}

// TestNoSecretsInLogs: whatever is said at the noisiest level has no password, token or key in it.
func TestNoSecretsInLogs(t *testing.T) {
	t.Parallel()
	log := &logBuffer{}
	cfg, tc := everyListener(t)
	u := newTestUsers() // nobody
	cfg.Auth, cfg.Access.RefusedDelay = u.links(), time.Millisecond
	b, err := New(cfg, Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	r := serveBroker(t, b)
	const password = "pässword-3f9a"
	login := func(id string) []byte {
		body := append(mqtt.AppendText(nil, "MQTT"), mqtt.V5, 0xc2, 0, 0, 0)
		return frame(mqtt.CONNECT<<4, mqtt.AppendText(mqtt.AppendText(mqtt.AppendText(body, id), "user"), password))
	}
	send := func(nc net.Conn, data []byte) {
		t.Helper()
		_, _ = nc.Write(data)
		_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		_, _ = io.Copy(io.Discard, nc)
		nc.Close()
	}
	good := login("c")
	for i := range good { // cut off everywhere, and altered everywhere
		for _, data := range [][]byte{good[:i], append(bytes.Clone(good[:i]), append([]byte{^good[i]}, good[i+1:]...)...)} {
			nc, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			send(nc, data)
		}
	}
	for _, l := range []int{1, 3} { // in clear to a TLS listener
		nc, err := net.Dial("tcp", r.Addrs()[l].String())
		if err != nil {
			t.Fatal(err)
		}
		send(nc, good)
	}
	nc, err := tls.Dial("tcp", r.Addrs()[1].String(), tc)
	if err != nil {
		t.Fatal(err)
	}
	send(nc, append(good, 0, 0, 0))
	console := NewConsole(b, "")
	secret := addToken(t, console, "ann", "admin", 0)
	if _, err := console.RemoveToken(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	for what, s := range map[string]string{"the password": password, "the password in hex": hex.EncodeToString([]byte(password)), "the password, quoted": `p\xc3\xa4ssword`, "a part of it": "ssword-3f9a", "a token": secret[len(tokenMark):]} {
		if at := strings.Index(log.String(), s); at >= 0 {
			t.Errorf("%s is in the log: …%s…", what, log.String()[max(0, at-200):at+50])
		}
	}
	if !strings.Contains(log.String(), "connection ended") {
		t.Error("the log says nothing at all")
	}
}
