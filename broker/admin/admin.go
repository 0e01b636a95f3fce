// Package admin is the broker's HTTP side door: health, metrics, the registry of
// gateway keys, the ledger, a tail of readings, and a page that shows them.
//
// # What it is
//
// A [Server] that answers on two listeners: TCP on loopback, where everything under
// /v1/ wants a token, and a unix socket that only its owner can open, where nothing
// does. A token has a [Role], and each request of the table in routes.go the least role
// that it needs. A [Client] for both, which the command line uses. It knows nothing of
// the broker: what it shows comes through the small interfaces of [Options].
//
// # What it promises
//
// Answers are JSON; a mistake is {"error", "hint"} with a status that fits. Requests
// are bounded in size and time, the number of tails is bounded, and a client that
// stalls costs its own connection only. A token is never logged. What changes anything is
// in the audit log before it is done, or it is not done.
//
// # What it will not do
//
// No TLS and no users: it is for this host. It refuses requests whose Host is not a
// loopback name, so that no web page can reach it through a name of its own.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Health says how the node is.
type Health interface {
	// Ready returns why the node takes no clients; nothing: it does.
	Ready() []string
	// Status is the body of /v1/status.
	Status() any
}

// Devices is the registry of gateway keys. Its errors may be *Error.
type Devices interface {
	ListDevices() any
	ShowDevice(gateway string) (any, error)
	AddDevice(ctx context.Context, r AddDevice) (any, error)
	// ApproveDevice lets a key verify that was added to wait for it; kid "": the only one that waits.
	ApproveDevice(ctx context.Context, gateway, kid string) (any, error)
	// RevokeDevice: kid "": all keys, all certificates, and what tokens there are.
	RevokeDevice(ctx context.Context, gateway, kid string) (any, error)
}

// AddDevice is the body of POST /v1/devices.
type AddDevice struct {
	Gateway string   `json:"gateway"`
	Key     string   `json:"key"`               // PEM, JWK, or the output of `holdfast identity --json`
	Epochs  []string `json:"epochs,omitempty"`  // that the key may verify though it is retired
	Restore bool     `json:"restore,omitempty"` // take a revocation back
	Pending bool     `json:"pending,omitempty"` // it verifies nothing until somebody approves it
}

// Ledger is the account of what gateways numbered.
type Ledger interface {
	// ReportLedger is the body of /v1/ledger; gateway "" means all. An error if it is unknown.
	ReportLedger(ctx context.Context, gateway string) (any, error)
}

// Tail shows messages as they come.
type Tail interface {
	// Tail calls emit for each message on the filter until ctx ends or emit fails; first,
	// once it misses nothing any more, with nil.
	Tail(ctx context.Context, filter string, emit func(line any) error) error
}

// Backup writes all that the cluster has.
type Backup interface {
	// Backup writes a backup, which says itself whether it is whole.
	Backup(ctx context.Context, w io.Writer) error
}

// Options is what a Server shows. All but Backup, Audit and Log must be there.
type Options struct {
	Health   Health
	Devices  Devices
	Ledger   Ledger
	Tail     Tail
	Sessions Sessions
	Cluster  Cluster
	Tokens   Tokens
	Enrol    Enrolment
	Backup   Backup    // nil: it makes none
	Audit    *AuditLog // nil: changes are not written down
	Metrics  http.Handler
	Log      *slog.Logger
}

// Error is an error with the HTTP status that fits and what to do next.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Bounds of a request. A tail and a report may take long to write, so the time to
// write is set per line.
const (
	maxBody     = 1 << 20
	maxHeader   = 256 << 10 // a client id of 64 KiB, escaped, is in the first line
	readTimeout = 10 * time.Second
	lineTimeout = 10 * time.Second // a client that does not take a line so long is cut off
	idleTimeout = 2 * time.Minute
	maxTails    = 16
	maxRequests = 64 // at once, per listener
)

// Server answers for a node that is up. A Host serves it.
type Server struct {
	o     Options
	tails chan struct{}
}

// New makes a Server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, tails: make(chan struct{}, maxTails)}
}

// healthz says that the program answers; no more is asked of it.
func healthz(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") }

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if why := s.o.Health.Ready(); len(why) > 0 {
		text(w, http.StatusServiceUnavailable, strings.Join(why, "\n")+"\n")
		return
	}
	text(w, http.StatusOK, "ready\n")
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) { answer(w, s.o.Health.Status(), nil) }

func (s *Server) listDevices(w http.ResponseWriter, _ *http.Request) {
	answer(w, s.o.Devices.ListDevices(), nil)
}

func (s *Server) showDevice(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Devices.ShowDevice(r.PathValue("gateway"))
	answer(w, v, err)
}

func (s *Server) addDevice(w http.ResponseWriter, r *http.Request) {
	var in AddDevice
	if err := readBody(r, &in, `send {"gateway": "gw-1", "key": "PEM or JWK"}`); err != nil {
		fail(w, err)
		return
	}
	if in.Restore && !whoOf(r).Role.allows(RoleAdmin) {
		fail(w, &Error{http.StatusForbidden, "to take a revocation back needs the role admin", "who may revoke may also take it back"})
		return
	}
	detail(r, "gateway", in.Gateway) // not the key: that of HMAC is a secret
	if in.Restore {
		detail(r, "restore", true)
	}
	if len(in.Epochs) > 0 {
		detail(r, "epochs", in.Epochs)
	}
	if in.Pending {
		detail(r, "pending", true)
	}
	v, err := s.o.Devices.AddDevice(r.Context(), in)
	if k, is := v.(interface{ KeyID() string }); is && err == nil {
		detail(r, "kid", k.KeyID())
	}
	answer(w, v, err)
}

func (s *Server) approveDevice(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Devices.ApproveDevice(r.Context(), r.PathValue("gateway"), r.URL.Query().Get("kid"))
	answer(w, v, err)
}

func (s *Server) revokeDevice(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Devices.RevokeDevice(r.Context(), r.PathValue("gateway"), r.URL.Query().Get("kid"))
	answer(w, v, err)
}

func (s *Server) ledger(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Ledger.ReportLedger(r.Context(), r.URL.Query().Get("gateway"))
	answer(w, v, err)
}

func (s *Server) tail(w http.ResponseWriter, r *http.Request) {
	filter := r.URL.Query().Get("filter")
	if filter == "" {
		filter = "#"
	}
	s.stream(w, r, func(ctx context.Context, emit func(any) error) error { return s.o.Tail.Tail(ctx, filter, emit) })
}

// stream writes one JSON object per line (application/x-ndjson) as they come; emit with nil begins
// the answer.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, run func(ctx context.Context, emit func(line any) error) error) {
	select {
	case s.tails <- struct{}{}:
		defer func() { <-s.tails }()
	default:
		fail(w, &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d tails and traces are running already", maxTails), "end one of them, or subscribe by MQTT"})
		return
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the request is read; its deadline would end the stream
	started := false
	emit := func(line any) error {
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		_ = out.SetWriteDeadline(time.Now().Add(lineTimeout)) // without deadlines (tests' recorders) it works as well
		if !started {
			started = true
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.Header().Set("Cache-Control", "no-store")
		}
		if line != nil {
			if _, err := w.Write(append(b, '\n')); err != nil {
				return err
			}
		}
		return out.Flush()
	}
	if err := run(r.Context(), emit); err != nil && !started {
		fail(w, err)
	}
}

// answer writes a value or an error.
func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	write(w, http.StatusOK, v)
}

func fail(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Message: err.Error()}
	}
	failed(w, e)
	write(w, e.Status, e)
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client is gone: nobody to tell
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, s) // the client is gone: nobody to tell
}
