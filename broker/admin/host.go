package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Host serves the admin API for as long as the program runs. Its node comes up late, when it has found the others of its
// cluster and read its logs, and may begin anew; while there is none, the Host says why: /healthz is 200, all
// else 503 with the reason.
type Host struct {
	token  [sha256.Size]byte
	log    *slog.Logger
	absent func() string
	node   atomic.Pointer[present]

	strangers atomic.Uint64
	said      atomic.Int64 // minute in which the log had the last one
}

// present is a node that is up.
type present struct {
	handler http.Handler
	tokens  Tokens
	ctx     context.Context // ends with it
}

// NewHost makes a Host. An empty token is refused: it would let everybody in. Absent says why no node is up.
func NewHost(token string, absent func() string, log *slog.Logger) (*Host, error) {
	if token == "" {
		return nil, errors.New("admin: no token")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Host{token: sha256.Sum256([]byte(token)), log: log, absent: absent}, nil
}

// Show lets a node answer until ctx ends; what it answers then is cut off.
func (h *Host) Show(ctx context.Context, s *Server) {
	h.node.Store(&present{s.Handler(), s.o.Tokens, ctx})
}

// ServeHTTP is the API, without a guard.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node := h.node.Load()
	if node == nil || node.ctx.Err() != nil {
		h.say(w, r)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(node.ctx, cancel)()
	node.handler.ServeHTTP(w, r.WithContext(ctx))
}

// say answers while there is no node.
func (h *Host) say(w http.ResponseWriter, r *http.Request) {
	switch why := h.absent(); r.URL.Path {
	case "/healthz":
		healthz(w, r)
	case "/readyz", "/metrics":
		text(w, http.StatusServiceUnavailable, why+"\n")
	case "/":
		page(w, r)
	default:
		fail(w, &Error{http.StatusServiceUnavailable, why, "it answers when it is up; /readyz says how far it is"})
	}
}

// Serve answers on both listeners until ctx ends, then closes them. Either may be nil.
func (h *Host) Serve(ctx context.Context, tcp, unix net.Listener) error {
	type one struct {
		l       net.Listener
		handler http.Handler
	}
	var all []one
	if tcp != nil {
		all = append(all, one{tcp, h.guard(h)})
	}
	if unix != nil {
		all = append(all, one{unix, local(h)})
	}
	done := make(chan error, len(all))
	var servers []*http.Server
	for _, a := range all {
		srv := &http.Server{
			Handler:           http.MaxBytesHandler(limitRequests(a.handler), maxBody),
			ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
			BaseContext: func(net.Listener) context.Context { return ctx }, // a tail ends with the server
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, peerKey{}, peerOf(c))
			},
			ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		}
		servers = append(servers, srv)
		go func() { done <- srv.Serve(a.l) }()
	}
	var failed error
	left := len(all)
	select {
	case <-ctx.Done():
	case failed = <-done:
		left--
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for _, srv := range servers {
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
	}
	for range left {
		<-done
	}
	if failed != nil && !errors.Is(failed, http.ErrServerClosed) {
		return fmt.Errorf("admin API: %w", failed)
	}
	return nil
}

func limitRequests(h http.Handler) http.Handler {
	slots := make(chan struct{}, maxRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			h.ServeHTTP(w, r)
		default:
			fail(w, &Error{http.StatusServiceUnavailable, "too many requests at once", "try again"})
		}
	})
}

// guard lets only loopback names through, and to /v1/ only who knows a token.
func (h *Host) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, known := h.authenticate(r)
		switch {
		case !loopback(r.Host):
			fail(w, &Error{http.StatusMisdirectedRequest, fmt.Sprintf("this is not %q", r.Host), "use http://127.0.0.1:…, on the node itself or through SSH"})
		case strings.HasPrefix(r.URL.Path, "/v1/") && !known:
			h.stranger(r)
			w.Header().Set("WWW-Authenticate", `Bearer realm="holdfast-broker"`)
			fail(w, &Error{http.StatusUnauthorized, "no valid token", "send \"Authorization: Bearer …\" with a token of holdfast-broker token add, or the content of admin.token in the broker's data_dir (--token-file, HOLDFAST_TOKEN)"})
		default:
			next.ServeHTTP(w, as(r, who))
		}
	})
}

// local is for the socket, which only the broker's user and root can open: whoever asks there is an administrator.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := r.Context().Value(peerKey{}).(string)
		next.ServeHTTP(w, as(r, Who{Name: peer, Role: RoleAdmin, From: "socket"}))
	})
}

type peerKey struct{}

// peerOf names the process at the other end of a socket: by its user id (unix(7), SO_PEERCRED).
func peerOf(c net.Conn) string {
	u, is := c.(*net.UnixConn)
	if !is {
		return ""
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return "unknown user"
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || failed != nil {
		return "unknown user"
	}
	return fmt.Sprintf("uid %d", cred.Uid)
}

func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// authenticate finds whose token a request carries.
func (h *Host) authenticate(r *http.Request) (Who, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Who{}, false
	}
	got := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if subtle.ConstantTimeCompare(got[:], h.token[:]) == 1 {
		return Who{TokenFile, RoleAdmin, r.RemoteAddr}, true
	}
	node := h.node.Load()
	if node == nil || node.ctx.Err() != nil || node.tokens == nil {
		return Who{}, false
	}
	t, ok := node.tokens.FindToken(got) // found by its hash: how long that takes says nothing of the token
	return Who{"token " + t.Name, t.Role, r.RemoteAddr}, ok
}

// stranger counts a request without a valid token; the log has it once a minute.
func (h *Host) stranger(r *http.Request) {
	n, minute := h.strangers.Add(1), time.Now().Unix()/60
	if h.said.Swap(minute) != minute {
		h.log.Warn("a request to the admin API had no valid token", "addr", r.RemoteAddr, "path", r.URL.Path, "so_far", n)
	}
}

// Strangers is how many requests came without a valid token.
func (h *Host) Strangers() uint64 { return h.strangers.Load() }
