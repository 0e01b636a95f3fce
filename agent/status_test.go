package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"holdfast/buffer"
	"holdfast/uplink"
)

// fakeSource is a StatusSource that says what a test wants.
type fakeSource struct {
	status         Status
	ready, healthy []string
}

func (f fakeSource) Status() Status    { return f.status }
func (f fakeSource) Ready() []string   { return f.ready }
func (f fakeSource) Healthy() []string { return f.healthy }

func shown() Status {
	return Status{
		Gateway: "gw-1", Kid: "k", Alg: "EdDSA", Epoch: "e", Version: "1", Ready: true,
		Devices: []DeviceStatus{
			{Name: "scale", Driver: "serial-line", State: StateRunning, Quality: "good", Taken: 7, Bad: 2, LastAge: 1500 * time.Millisecond,
				Counters: map[string]uint64{"lines_too_long": 3}},
			{Name: "door", Driver: "gpio", State: StateFailed, Quality: "bad"},
		},
		Buffer: buffer.Stats{Messages: 5, DiskBytes: 4096, MaxBytes: 1 << 20, Oldest: 2 * time.Minute},
		Uplink: uplink.Status{Connected: true, RTT: 20 * time.Millisecond, Acked: 11},
	}
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHealthAndReadiness(t *testing.T) {
	well := StatusHandler(fakeSource{status: shown()})
	ill := StatusHandler(fakeSource{ready: []string{"epoch not opened"}, healthy: []string{"sealing stands still"}})
	for _, c := range []struct {
		h    http.Handler
		path string
		code int
		body string
	}{
		{well, "/healthz", 200, `{"healthy":true}`},
		{well, "/readyz", 200, `{"ready":true}`},
		{ill, "/healthz", 503, `{"healthy":false,"reasons":["sealing stands still"]}`},
		{ill, "/readyz", 503, `{"ready":false,"reasons":["epoch not opened"]}`},
		{well, "/nothing", 404, "404 page not found"},
	} {
		if code, body := get(t, c.h, c.path); code != c.code || strings.TrimSpace(body) != c.body {
			t.Errorf("%s: %d %s", c.path, code, body)
		}
	}
	w := httptest.NewRecorder()
	well.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/status.json", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestStatusPageIsSelfContained(t *testing.T) {
	code, page := get(t, StatusHandler(fakeSource{}), "/")
	if code != 200 {
		t.Fatal(code)
	}
	for _, outside := range []string{"http://", "https://", "//cdn", "innerHTML"} {
		if strings.Contains(page, outside) {
			t.Errorf("the page has %q", outside)
		}
	}
	if !strings.Contains(page, `name="viewport"`) || len(page) > 32<<10 {
		t.Errorf("not for a phone, or %d bytes", len(page))
	}
}

func TestMetrics(t *testing.T) {
	_, text := get(t, StatusHandler(fakeSource{status: shown()}), "/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "holdfast_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		`holdfast_readings_taken_total{device="scale"} 7`,
		`holdfast_readings_bad_total{device="scale"} 2`,
		`holdfast_device_last_reading_age_seconds{device="scale"} 1.5`,
		`holdfast_device_events_total{device="scale",event="lines_too_long"} 3`,
		`holdfast_device_running{device="door"} 0`,
		`holdfast_buffer_bytes 4096`,
		`holdfast_buffer_oldest_seconds 120`,
		`holdfast_uplink_rtt_seconds 0.02`,
		`holdfast_uplink_acked_total 11`,
		`holdfast_info{alg="EdDSA",epoch="e",gateway="gw-1",kid="k",version="1"} 1`,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// serve runs a status server until the test ends.
func serve(t *testing.T, src StatusSource, sockets []string, listen string) *StatusServer {
	t.Helper()
	s, err := ListenStatus(src, sockets, listen, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStatusOverTheSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "made", "agent.sock")
	serve(t, fakeSource{status: shown()}, []string{socket}, "127.0.0.1:0")
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v", info.Mode(), err)
	}
	got, err := AskStatus(t.Context(), []string{filepath.Join(dir, "elsewhere"), socket})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(shown())
	if string(a) != string(b) {
		t.Errorf("asked %s\nwant %s", a, b)
	}
}

func TestStatusSocketOfADeadProcessIsReplaced(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := AskStatus(t.Context(), []string{socket}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a dead socket answers: %v", err)
	}
	serve(t, fakeSource{status: shown()}, []string{socket}, "")
	if _, err := AskStatus(t.Context(), []string{socket}); err != nil {
		t.Error(err)
	}
}

func TestStatusSocketOfALivingAgentStays(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	serve(t, fakeSource{status: shown()}, []string{socket}, "")
	s, err := ListenStatus(fakeSource{}, []string{socket}, "", slog.New(slog.DiscardHandler))
	if s != nil || err == nil || !strings.Contains(err.Error(), "another agent answers there") {
		t.Errorf("%v, %v", s, err)
	}
	if st, err := AskStatus(t.Context(), []string{socket}); err != nil || st.Gateway != "gw-1" {
		t.Errorf("the first one does not answer any more: %v", err)
	}
}

func TestStatusSocketFallsBack(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(dir, "agent.sock")
	s := serve(t, fakeSource{}, []string{filepath.Join(dir, "file", "agent.sock"), second}, "")
	if got := s.Addrs()[0].String(); got != second {
		t.Errorf("listens on %s", got)
	}
}

func TestStatusAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := ListenStatus(fakeSource{}, []string{filepath.Join(t.TempDir(), "s")}, l.Addr().String(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "choose another address") || s == nil || len(s.Addrs()) != 1 {
		t.Fatalf("%v, %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); err != nil {
		t.Error(err)
	}
}

// TestStatusServerEndsWithAReaderThatHangs: one slow reader does not hold the agent.
func TestStatusServerEndsWithAReaderThatHangs(t *testing.T) {
	s := serve(t, fakeSource{}, []string{filepath.Join(t.TempDir(), "s")}, "127.0.0.1:0")
	conn, err := net.Dial("tcp", s.Addrs()[1].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n"); err != nil { // and never the end of it
		t.Fatal(err)
	}
}
