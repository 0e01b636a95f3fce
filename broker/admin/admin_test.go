package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is everything that a server shows.
type fake struct {
	notReady []string
	added    AddDevice
	revoked  string
	approved string
	err      error
	lines    chan any
	tailing  chan string
}

func (f *fake) Ready() []string  { return f.notReady }
func (f *fake) Status() any      { return map[string]int{"answer": 42} }
func (f *fake) ListDevices() any { return []string{"gw-1"} }
func (f *fake) ShowDevice(gateway string) (any, error) {
	return gateway, f.err
}
func (f *fake) AddDevice(_ context.Context, r AddDevice) (any, error) {
	f.added = r
	return "added", f.err
}
func (f *fake) ApproveDevice(_ context.Context, gateway, kid string) (any, error) {
	f.approved = gateway + " " + kid
	return "approved", f.err
}
func (f *fake) NewEnrolToken(_ context.Context, gateway string, _ NewEnrolToken, _ string) (any, error) {
	return EnrolToken{Gateway: gateway, Secret: "hfe_secret"}, nil
}
func (f *fake) RecordCertificate(_ context.Context, gateway string, _ RecordCertificate, _ string) (any, error) {
	return gateway, nil
}
func (f *fake) RevokeCertificates(_ context.Context, gateway, _ string) (any, error) {
	return gateway, nil
}
func (f *fake) RevokeDevice(_ context.Context, gateway, kid string) (any, error) {
	f.revoked = gateway + " " + kid
	return "revoked", f.err
}
func (f *fake) ReportLedger(_ context.Context, gateway string) (any, error) {
	return "ledger of " + gateway, f.err
}
func (f *fake) Tail(ctx context.Context, filter string, emit func(any) error) error {
	if f.err != nil {
		return f.err
	}
	if err := emit(nil); err != nil {
		return err
	}
	f.tailing <- filter
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case l := <-f.lines:
			if err := emit(l); err != nil {
				return err
			}
		}
	}
}

// asAdmin asks as an administrator.
func asAdmin(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, as(r, Who{Name: "test", Role: RoleAdmin}))
	})
}

const testToken = "0123456789abcdef0123456789abcdef"

// serve starts a server on both listeners.
func serve(t *testing.T, f *fake) (tcp, sock *Client, base string) {
	t.Helper()
	f.lines, f.tailing = make(chan any), make(chan string, maxTails)
	h, err := NewHost(testToken, func() string { return "nobody is up" }, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Show(t.Context(), New(Options{Health: f, Devices: f, Ledger: f, Tail: f,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics\n") })}))
	dir := t.TempDir()
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ul, err := ListenUnix(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, tl, ul) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	base = "http://" + tl.Addr().String()
	tcp, sock = client(t, base, testToken), client(t, "unix:"+filepath.Join(dir, SocketFile), "")
	return tcp, sock, base
}

func client(t *testing.T, address, token string) *Client {
	t.Helper()
	c, err := NewClient(address, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestBothListenersAnswer(t *testing.T) {
	f := &fake{}
	tcp, sock, _ := serve(t, f)
	for _, c := range []*Client{tcp, sock} {
		var status map[string]int
		if err := c.Get(t.Context(), "/v1/status", &status); err != nil || status["answer"] != 42 {
			t.Errorf("%s: status %v, %v", c.name, status, err)
		}
		var s string
		if err := c.Get(t.Context(), "/v1/ledger?gateway=gw-1", &s); err != nil || s != "ledger of gw-1" {
			t.Errorf("%s: %q, %v", c.name, s, err)
		}
		if err := c.Get(t.Context(), "/v1/devices/gw-7", &s); err != nil || s != "gw-7" {
			t.Errorf("%s: %q, %v", c.name, s, err)
		}
		if err := c.Post(t.Context(), "/v1/devices", AddDevice{Gateway: "gw-2", Key: "k"}, &s); err != nil || f.added.Gateway != "gw-2" {
			t.Errorf("%s: %+v, %v", c.name, f.added, err)
		}
		if err := c.Delete(t.Context(), "/v1/devices/gw-2?kid=K", &s); err != nil || f.revoked != "gw-2 K" {
			t.Errorf("%s: %q, %v", c.name, f.revoked, err)
		}
	}
}

func TestTokenIsDemanded(t *testing.T) {
	_, _, base := serve(t, &fake{})
	for _, token := range []string{"", "wrong", testToken[:31]} {
		err := client(t, base, token).Get(t.Context(), "/v1/status", new(any))
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusUnauthorized || !strings.Contains(e.Hint, "admin.token") {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

// get asks without token and with a Host header, if one is given.
func get(t *testing.T, url, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestOpenPages(t *testing.T) {
	f := &fake{}
	_, _, base := serve(t, f)
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n", "/metrics": "metrics\n", "/": "<!doctype html>"} {
		if status, body := get(t, base+path, ""); status != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %.40q", path, status, body)
		}
	}
	f.notReady = []string{"it starts", "disk"}
	if status, body := get(t, base+"/readyz", ""); status != 503 || body != "it starts\ndisk\n" {
		t.Errorf("/readyz: %d %q", status, body)
	}
	if status, _ := get(t, base+"/healthz", ""); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
}

func TestForeignHostIsRefused(t *testing.T) {
	_, _, base := serve(t, &fake{})
	for host, want := range map[string]int{"evil.example": 421, "evil.example:18083": 421, "localhost:1": 200, "127.0.0.1": 200, "[::1]:5": 200, "10.0.0.1": 421} {
		if status, _ := get(t, base+"/healthz", host); status != want {
			t.Errorf("Host %q: %d, want %d", host, status, want)
		}
	}
}

func TestErrorsAreJSONWithAHint(t *testing.T) {
	f := &fake{err: &Error{Status: http.StatusNotFound, Message: "no such gateway", Hint: "look again"}}
	_, sock, _ := serve(t, f)
	for _, path := range []string{"/v1/devices/x", "/v1/ledger?gateway=x", "/v1/tail?filter=x"} {
		err := sock.Get(t.Context(), path, new(any))
		var e *Error
		if !errors.As(err, &e) || e.Status != 404 || e.Message != "no such gateway" || e.Hint != "look again" {
			t.Errorf("%s: %v", path, err)
		}
	}
	f.err = errors.New("disk")
	var e *Error
	if err := sock.Get(t.Context(), "/v1/devices/x", new(any)); !errors.As(err, &e) || e.Status != 500 || e.Message != "disk" {
		t.Errorf("%v", err)
	}
	if err := sock.Get(t.Context(), "/v1/nothing", new(any)); !errors.As(err, &e) || e.Status != 404 || e.Hint == "" {
		t.Errorf("%v", err)
	}
}

func TestBodiesAreChecked(t *testing.T) {
	_, sock, _ := serve(t, &fake{})
	for name, body := range map[string]any{
		"unknown field": map[string]string{"gatway": "x"},
		"wrong type":    []int{1},
		"too large":     map[string]string{"key": strings.Repeat("x", maxBody)},
	} {
		err := sock.Post(t.Context(), "/v1/devices", body, new(any))
		var e *Error
		if !errors.As(err, &e) || e.Status != 400 || e.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTailStreams(t *testing.T) {
	f := &fake{}
	tcp, _, _ := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- tcp.Lines(ctx, "/v1/tail?filter=gw%2F%23", func() {}, func(line []byte) error {
			got <- string(line)
			return nil
		})
	}()
	if filter := <-f.tailing; filter != "gw/#" {
		t.Errorf("filter %q", filter)
	}
	for _, want := range []string{`{"a":1}`, `{"b":"ü"}`} {
		f.lines <- json.RawMessage(want)
		if line := <-got; line != want {
			t.Errorf("line %q, want %q", line, want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestTailsAreBounded(t *testing.T) {
	f := &fake{}
	tcp, _, base := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, maxTails)
	for range maxTails {
		go func() { done <- tcp.Lines(ctx, "/v1/tail", func() {}, func([]byte) error { return nil }) }()
		<-f.tailing
	}
	err := client(t, base, testToken).Get(t.Context(), "/v1/tail", new(any))
	var e *Error
	if !errors.As(err, &e) || e.Status != 503 {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for range maxTails {
		<-done
	}
}

// deadlined is a listener whose connection tells what read deadline it has got last.
type deadlined struct {
	net.Listener
	last atomic.Pointer[time.Time]
}

type deadlinedConn struct {
	net.Conn
	of *deadlined
}

func (d *deadlined) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	return deadlinedConn{c, d}, err
}

func (c deadlinedConn) SetReadDeadline(t time.Time) error {
	c.of.last.Store(&t)
	return c.Conn.SetReadDeadline(t)
}

// A tail outlives the time that a request may take to be read.
func TestTailHasNoReadDeadline(t *testing.T) {
	f := &fake{}
	s := New(Options{Health: f, Devices: f, Ledger: f, Tail: f, Metrics: http.NotFoundHandler()})
	f.lines, f.tailing = make(chan any), make(chan string, 1)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &deadlined{Listener: tcp}
	had := make(chan bool, 1)
	handler, handled := asAdmin(s.Handler()), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	srv := &http.Server{ReadTimeout: time.Hour, BaseContext: func(net.Listener) context.Context { return ctx }, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(handled)
		had <- !l.last.Load().IsZero()
		handler.ServeHTTP(w, r)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// Of a request that is whole, the server itself forgets the deadline: this one owes a byte.
	if _, err := io.WriteString(conn, "GET /v1/tail HTTP/1.0\r\nContent-Length: 1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-f.tailing
	if !<-had {
		t.Error("the request had no deadline: this test proves nothing")
	}
	if at := l.last.Load(); !at.IsZero() {
		t.Errorf("a tail that has begun ends at %v", at)
	}
	f.lines <- json.RawMessage(`"late"`)
	r := bufio.NewReader(conn)
	for line := ""; line != "\"late\"\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-handled
	conn.Close()
	srv.Close()
	<-served
}

func TestTokenFile(t *testing.T) {
	dir := t.TempDir()
	a, err := Token(dir, strings.NewReader(strings.Repeat("r", tokenSize)))
	if err != nil || len(a) != 2*tokenSize {
		t.Fatalf("%q, %v", a, err)
	}
	path := filepath.Join(dir, TokenFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if b, err := Token(dir, nil); err != nil || b != a {
		t.Errorf("again: %q, %v", b, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Token(dir, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("short\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Token(dir, nil); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("not a token: %v", err)
	}
	if _, err := NewHost("", nil, nil); err == nil {
		t.Error("an empty token is accepted")
	}
}

func TestSocketFile(t *testing.T) {
	dir := t.TempDir()
	l, err := ListenUnix(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, SocketFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a dead process leaves it
	l.Close()
	if l, err = ListenUnix(dir); err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(dir); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if _, err := ListenUnix(filepath.Join(dir, strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("long path: %v", err)
	}
}

func TestClientSaysWhatIsWrong(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:18083", "ftp://x", "http://"} {
		if _, err := NewClient(address, ""); err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:18083") {
			t.Errorf("%q: %v", address, err)
		}
	}
	c := client(t, "unix:"+filepath.Join(t.TempDir(), "none"), "")
	if err := c.Get(t.Context(), "/v1/status", new(any)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
