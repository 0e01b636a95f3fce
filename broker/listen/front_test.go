package listen

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/broker/limits"
)

// echo answers what it reads: it stands where MQTT begins.
func echo(_ context.Context, nc net.Conn, _ *limits.Entrance) {
	_, _ = io.Copy(nc, nc)
	_ = nc.Close()
}

// everyListener opens all four on free ports.
func everyListener(t testing.TB) Config {
	certFile, keyFile := certificate(t)
	return Config{MQTT: "127.0.0.1:0", MQTTS: "127.0.0.1:0", WS: "127.0.0.1:0", WSS: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile}
}

// opened is listeners that serve until end.
func opened(t *testing.T, cfg Config, timeout time.Duration) (f *Front, end func()) {
	env := testEnv()
	f = newFront(cfg, env)
	f.timeout = timeout
	if err := f.listen(t.Context(), cfg, env); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		f.Serve(ctx, echo)
	}()
	return f, func() {
		cancel()
		f.Close()
		<-done
	}
}

// TestSlowHandshakes: who does not come as far as MQTT in time is gone.
func TestSlowHandshakes(t *testing.T) {
	cfg := everyListener(t)
	cfg.ProxyProtocol, cfg.TrustedProxies = []string{"wss"}, []string{"127.0.0.0/8"}
	f, end := opened(t, cfg, 50*time.Millisecond)
	defer end()
	slow := &f.counts.Refused[refusedSlow]
	for n, c := range []struct {
		listener int
		send     string
	}{
		{1, ""}, {1, "\x16\x03\x01"}, {2, ""}, {2, "GET /mqtt HTTP/1.1\r\nHost: "}, {3, ""}, {3, "PROXY TCP4 1"}, {3, v2Header(0x20, 0)},
	} {
		nc, err := net.Dial("tcp", f.Doorways[c.listener].Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(nc, c.send)
		_, _ = io.Copy(io.Discard, nc) // until it is closed
		nc.Close()
		eventually(t, "it is counted as slow", func() bool { return slow.Load() == uint64(n+1) })
	}
}

// TestEndWhileShaking: the end does not wait for those who have not come as far as MQTT.
func TestEndWhileShaking(t *testing.T) {
	f, end := opened(t, everyListener(t), time.Hour)
	for i := 1; i < 4; i++ {
		nc, err := net.Dial("tcp", f.Doorways[i].Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
	}
	eventually(t, "three are waited for", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.shaking) == 3
	})
	end()
	if n := f.counts.Refused[refusedSlow].Load(); n != 0 {
		t.Errorf("%d counted as turned away", n)
	}
}

// flaky is a listener whose Accept fails now and then.
type flaky struct {
	net.Listener
	n int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.n++; f.n%2 == 1 {
		return nil, fmt.Errorf("accept: too many open files")
	}
	return f.Listener.Accept()
}

// TestAcceptErrors: a failing Accept ends no listener.
func TestAcceptErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	f := newFront(Config{}, testEnv())
	f.guard(ctx, &gate{clientListener: clientListener{name: "flaky"}}, &flaky{Listener: l})
	done := make(chan struct{})
	go func() {
		f.Serve(ctx, echo)
		close(done)
	}()
	for range 3 {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 4)
		if _, err := io.WriteString(nc, "here"); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(nc, said); err != nil || string(said) != "here" {
			t.Errorf("%q, %v", said, err)
		}
		nc.Close()
	}
	if n := f.counts.AcceptErrors.Load(); n < 3 {
		t.Errorf("%d errors of Accept counted", n)
	}
	f.Close()
	<-done
}

// TestListenErrorsSayWhatToDo: where it is, and what to do.
func TestListenErrorsSayWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	certFile, keyFile := certificate(t)
	_, otherKey := certificate(t)
	for _, c := range []struct {
		name string
		cfg  Config
		says string
	}{
		{"port in use", Config{WS: taken.Addr().String()}, "listen.ws: listen tcp " + taken.Addr().String() + ": bind: address already in use; another program has this port"},
		{"not this host's", Config{MQTT: "192.0.2.1:1883"}, "this host does not have that address"},
		{"no files", Config{MQTTS: "127.0.0.1:0", CertFile: "none", KeyFile: "none"}, "listen.mqtts: open none: no such file or directory; cert_file and key_file"},
		{"another's key", Config{WSS: "127.0.0.1:0", CertFile: certFile, KeyFile: otherKey}, "listen.wss: " + otherKey + " is not the key of " + certFile},
		{"files changed round", Config{WSS: "127.0.0.1:0", CertFile: keyFile, KeyFile: certFile}, keyFile + " holds no usable certificate"},
		{"no network", Config{MQTT: "127.0.0.1:0", TrustedProxies: []string{"x"}}, "listen.trusted_proxies"},
	} {
		_, err := Open(t.Context(), c.cfg, testEnv())
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}
