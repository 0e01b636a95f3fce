package agent

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// SocketName is the status socket's name in the runtime directory.
const SocketName = "agent.sock"

// StatusSource is what the status server shows; *Agent is one.
type StatusSource interface {
	Status() Status
	Ready() []string   // why it does not serve yet; nothing: it does
	Healthy() []string // what stands still; nothing: all is well
}

// StatusServer answers on a unix socket and, if asked, on a TCP address:
// /healthz, /readyz, /metrics, /status.json, /identity.json and /identity.svg (a QR code of it), and a
// page for people at /.
// It only reads; there is nothing to be changed through it.
type StatusServer struct {
	server    *http.Server
	listeners []net.Listener
}

// SocketPaths are the places where the status socket may be: under the runtime
// directory, or, where that cannot be made, under the data directory.
func (c Config) SocketPaths() []string {
	var paths []string
	for _, dir := range []string{c.Buffer.RuntimeDir, c.DataDir} {
		if dir != "" {
			paths = append(paths, filepath.Join(dir, SocketName))
		}
	}
	return paths
}

// ListenStatus opens the first of sockets that can be opened and, unless listen is
// "", the TCP address. The error says what could not be opened; the server answers on
// the rest, and is nil if there is none. A socket that a dead process left is replaced.
func ListenStatus(src StatusSource, sockets []string, listen string, log *slog.Logger) (*StatusServer, error) {
	var errs []error
	s := &StatusServer{}
	if unix, err := listenUnix(sockets); err != nil {
		errs = append(errs, fmt.Errorf("status socket: %w", err))
	} else {
		s.listeners = append(s.listeners, unix)
	}
	if listen != "" {
		if tcp, err := net.Listen("tcp", listen); err != nil {
			errs = append(errs, fmt.Errorf(`status.listen: %w; choose another address, or "" for none`, err))
		} else {
			s.listeners = append(s.listeners, tcp)
		}
	}
	if len(s.listeners) == 0 {
		return nil, errors.Join(errs...)
	}
	s.server = &http.Server{
		Handler:           StatusHandler(src),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, errors.Join(errs...)
}

func listenUnix(paths []string) (net.Listener, error) {
	var errs []error
	for _, path := range paths {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			errs = append(errs, err)
			continue
		}
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			if conn, err := net.Dial("unix", path); err == nil {
				_ = conn.Close() // only knocked
				errs = append(errs, fmt.Errorf("%s: another agent answers there; give each its own buffer.runtime_dir", path))
				continue
			}
			_ = os.Remove(path) // if it cannot go, Listen says so
		}
		l, err := net.Listen("unix", path)
		if err == nil {
			if err = os.Chmod(path, 0o660); err == nil { // the service's group may ask, others may not
				return l, nil
			}
			_ = l.Close() // the error that matters is the chmod's
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Addrs is where the server listens: the socket first.
func (s *StatusServer) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Serve answers until ctx ends; then it lets answers under way finish, for a second.
func (s *StatusServer) Serve(ctx context.Context) error {
	done := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() { done <- s.server.Serve(l) }()
	}
	var first error
	left := len(s.listeners)
	select {
	case <-ctx.Done():
	case first = <-done:
		left--
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.server.Shutdown(grace) != nil {
		_ = s.server.Close() // who has not read by now is cut off
	}
	for range left {
		<-done
	}
	if errors.Is(first, http.ErrServerClosed) || first == nil {
		return nil
	}
	return fmt.Errorf("status server: %w", first)
}

//go:embed status.html
var statusPage []byte

// StatusHandler answers for src.
func StatusHandler(src StatusSource) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, "healthy", src.Healthy()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, "ready", src.Ready()) })
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, src.Status()) })
	mux.HandleFunc("GET /identity.json", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, src.Status().Public()) })
	mux.HandleFunc("GET /identity.svg", func(w http.ResponseWriter, _ *http.Request) { writeQR(w, src.Status().Public()) })
	mux.Handle("GET /metrics", metricsHandler(src))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(statusPage) // the reader has gone: nobody to tell
	})
	return mux
}

// answer is 200 {"ready":true}, or 503 with the reasons.
func answer(w http.ResponseWriter, what string, reasons []string) {
	if len(reasons) == 0 {
		writeJSON(w, http.StatusOK, map[string]any{what: true})
		return
	}
	writeJSON(w, http.StatusServiceUnavailable, map[string]any{what: false, "reasons": reasons})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the reader has gone: nobody to tell
}

func writeQR(w http.ResponseWriter, p PublicIdentity) {
	code, err := p.QR()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "no-store") // a key may be rotated
	_, _ = w.Write(code.SVG())                  // the reader has gone: nobody to tell
}

// ErrNotRunning: nothing answers on any of the sockets.
var ErrNotRunning = errors.New("is the agent running? systemctl status holdfast")

// AskStatus asks a running agent through the first of sockets that answers.
func AskStatus(ctx context.Context, sockets []string) (st Status, err error) {
	return st, ask(ctx, sockets, &st)
}

// ask reads the status into what the caller wants to know of it.
func ask(ctx context.Context, sockets []string, into any) error {
	var said []string
	for _, path := range sockets {
		err := askSocket(ctx, path, into)
		if err == nil {
			return nil
		}
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("ask the agent: %w", err) // whether it runs nobody can say who may not ask
		}
		said = append(said, err.Error())
	}
	return fmt.Errorf("%w (%s)", ErrNotRunning, strings.Join(said, "; "))
}

func askSocket(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status.json", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
