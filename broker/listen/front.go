package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"

	"holdfast/broker/limitlog"
	"holdfast/broker/limits"
)

// Front is the listeners: mochi's, over sockets that this broker opened and that outlive errors.
// It takes a connection through PROXY header, TLS and WebSocket, whichever its listener has, and
// hands on what speaks MQTT.
type Front struct {
	Files    *TLSFiles           // nil without TLS
	Book     *limits.AddressBook // who is connected from where
	Doorways []Doorway           // one for each listener, in their order

	log     *limitlog.Log
	counts  *Counts
	trusted []netip.Prefix
	max     int64 // connections
	timeout time.Duration
	mono    func() time.Duration
	limits  *limits.Limits
	gates   []*gate

	open    atomic.Int64 // connections
	mu      sync.Mutex
	shaking map[net.Conn]struct{} // not handed on yet
	closed  bool
	shaken  sync.WaitGroup
}

// Doorway is an open listener, as others need to know it.
type Doorway struct {
	Name    string // "mqtt", "mqtts", ...
	Addr    net.Addr
	Proxied bool // clients must not come here themselves
}

// gate is one listener.
type gate struct {
	clientListener
	*listeners.Net
	proxied bool
	tls     *tls.Config // nil: none
	ws      *wsGate     // nil: none
}

// Counts counts the connections that ended before they spoke MQTT, and why.
type Counts struct {
	Refused      [len(Refusals)]atomic.Uint64 // as Refusals
	AcceptErrors atomic.Uint64
}

// Why a connection is turned away before it speaks MQTT: indices of Refusals.
const (
	RefusedFull = iota
	RefusedUntrusted
	RefusedHeader
	RefusedTLS
	RefusedWebSocket
	refusedSlow
	RefusedClientCert
	RefusedLimit
)

// Refusals are the names in metrics and logs, and what an operator can do.
var Refusals = [...]struct{ Name, remedy string }{
	{"full", "raise max_connections under [listen], or the limit of file descriptors (LimitNOFILE of the service, ulimit -n)"},
	{"proxy_untrusted", "if it is a proxy of yours, add its address to trusted_proxies under [listen]; clients must not come to this listener directly"},
	{"proxy_header", "this listener requires the PROXY protocol: let the proxy send it (HAProxy: send-proxy-v2, health checks: check-send-proxy; nginx: proxy_protocol on), or take the listener out of proxy_protocol under [listen]"},
	{"tls", "the client speaks no TLS, none of 1.2 or 1.3, or does not accept the certificate"},
	{"websocket", "the client must ask for " + wsPath + " with subprotocol mqtt; a web page of another origin must stand in ws_origins under [listen]"},
	{"slow", "it opened a connection and did not finish what comes before MQTT: a port scan, a broken network, or somebody who wants to hold connections"},
	{"client_certificate", "the listener wants a certificate that the CAs of client_ca_file under [listen] have signed, for clients, and that is valid now"},
	{"limit", "a limit of connections from its address, see limit_reached_total; over TLS it can be told nothing"},
}

// Env is what listeners get from their surroundings.
type Env struct {
	Log    *slog.Logger
	Mono   func() time.Duration // orders and ages
	Wall   func() time.Time     // for certificates and the log
	Limits *limits.Limits
	Counts *Counts
	Ready  func() bool // what /readyz says
}

func newFront(cfg Config, env Env) *Front {
	f := &Front{log: limitlog.New(env.Log, env.Wall), counts: env.Counts, max: maxConnections(cfg), limits: env.Limits, timeout: env.Limits.ConnectTimeout, mono: env.Mono, shaking: map[net.Conn]struct{}{}}
	f.Book = limits.NewAddressBook(env.Limits, f.max)
	return f
}

// Open opens the configured listeners, all or none.
func Open(ctx context.Context, cfg Config, env Env) (*Front, error) {
	f := newFront(cfg, env)
	if err := f.listen(ctx, cfg, env); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Front) listen(ctx context.Context, cfg Config, env Env) (err error) {
	if f.trusted, err = parseNetworks(cfg.TrustedProxies); err != nil {
		return fmt.Errorf("listen.trusted_proxies: %w", err)
	}
	for _, o := range cfg.clients() {
		if o.addr == "" {
			continue
		}
		g := &gate{clientListener: o, proxied: slices.Contains(cfg.ProxyProtocol, o.name)}
		if o.tls && f.Files == nil {
			if f.Files, err = loadTLS(cfg, env.Wall, env.Log); err != nil {
				return fmt.Errorf("listen.%s: %w", o.name, err)
			}
		}
		if o.tls {
			g.tls = f.Files.Config(cfg.clientCert(o.name))
		}
		if o.ws {
			g.ws = newWSGate(cfg.WSOrigins, env.Ready)
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", g.addr)
		if err != nil {
			return fmt.Errorf("listen.%s: %w", o.name, Explain(err))
		}
		f.guard(ctx, g, l)
	}
	return nil
}

// guard puts a gate in front of an open socket.
func (f *Front) guard(ctx context.Context, g *gate, l net.Listener) {
	g.Net = listeners.NewNet(g.name, &steady{Listener: l, ctx: ctx, front: f, name: g.name})
	_ = g.Net.Init(f.log.To) // keeps the logger; the address is open already
	f.gates = append(f.gates, g)
	f.Doorways = append(f.Doorways, Doorway{g.name, l.Addr(), g.proxied})
}

// errClosing is why a connection that was waiting for its turn is not taken.
var errClosing = errors.New("the listeners close")

// Explain adds what to do.
func Explain(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another program has this port (ss -ltnp shows which): stop it, or give this listener another", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; ports below 1024 need CAP_NET_BIND_SERVICE: take a higher one", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; this host does not have that address (ip addr shows those it has)", err)
	}
	return err
}

// maxConnections leaves file descriptors to the store: a broker that has none cannot write its log.
func maxConnections(cfg Config) int64 {
	const store = 256
	var l syscall.Rlimit
	if cfg.MaxConnections > 0 || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return max(1, int64(cfg.MaxConnections))
	}
	n := int64(min(l.Cur, 1<<30))
	return max(n/2, n-store)
}

// Serve gives every connection to mqtt, in a goroutine of its own, until close. What is on the
// stack of that goroutine below mqtt stays there for as long as the client: it is little.
func (f *Front) Serve(ctx context.Context, mqtt func(context.Context, net.Conn, *limits.Entrance)) {
	var serving sync.WaitGroup
	for _, g := range f.gates {
		serving.Go(func() {
			g.Serve(func(_ string, nc net.Conn) error {
				if c, in := f.admit(ctx, g, nc); c != nil {
					mqtt(ctx, c, in)
					in.Leave()
				}
				f.open.Add(-1)
				return nil
			})
		})
	}
	if f.Files != nil {
		serving.Go(func() { f.Files.watch(ctx, certEvery, f.mono, f.log.To) })
	}
	serving.Wait()
	f.shaken.Wait()
}

// admit takes a connection to where MQTT begins, or closes it and returns nil.
//
//go:noinline
func (f *Front) admit(ctx context.Context, g *gate, nc net.Conn) (net.Conn, *limits.Entrance) {
	if f.open.Add(1) > f.max {
		f.refuse(g, nc, RefusedFull, fmt.Errorf("there are %d connections", f.max))
		return nil, nil
	}
	if !f.begin(nc) {
		_ = nc.Close()
		return nil, nil
	}
	defer f.end(nc)
	in := f.Book.Arrive(nc)
	_ = nc.SetDeadline(time.Now().Add(f.timeout))
	c, why, err := f.shake(ctx, g, nc, in)
	if err != nil {
		in.Leave()
		if in.WasEvicted() { // that has been said
			_ = nc.Close()
		} else {
			f.refuse(g, nc, why, err)
		}
		return nil, nil
	}
	_ = nc.SetDeadline(time.Time{})
	return c, in
}

// shake goes from the socket to where MQTT begins.
func (f *Front) shake(ctx context.Context, g *gate, nc net.Conn, in *limits.Entrance) (c net.Conn, why int, err error) {
	c = nc
	if g.proxied {
		if !f.trusts(nc.RemoteAddr()) {
			return nil, RefusedUntrusted, errors.New("its address is not in trusted_proxies")
		}
		client, err := readProxyHeader(nc)
		if err != nil {
			return nil, RefusedHeader, err
		}
		if client.IsValid() {
			c = &proxied{nc, net.TCPAddrFromAddrPort(client)}
		}
	}
	if wait := f.Book.Locate(in, c.RemoteAddr()); wait > 0 {
		if !pause(ctx, wait) {
			return nil, refusedSlow, errClosing
		}
		_ = nc.SetDeadline(time.Now().Add(f.timeout)) // that was our time, not the client's
	}
	if r := in.Refusal; r != nil && g.tls != nil { // to tell it would cost a handshake
		f.limits.Hit(r.Limit, "", c.RemoteAddr().String(), r.Text)
		return nil, RefusedLimit, errors.New(r.Text)
	}
	if g.tls != nil {
		t := tls.Server(c, g.tls)
		if err := t.Handshake(); err != nil {
			return nil, tlsRefusal(err), err
		}
		c = t
	}
	if g.ws != nil {
		if c, err = g.ws.open(c); err != nil {
			return nil, RefusedWebSocket, err
		}
	}
	return c, 0, nil
}

func (f *Front) trusts(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := t.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(f.trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// refuse counts, says and closes. What a stranger does is said once a minute, address and reason.
func (f *Front) refuse(g *gate, nc net.Conn, why int, err error) {
	_ = nc.Close()
	if errors.Is(err, errAnswered) || f.isClosed() {
		return
	}
	if why != RefusedUntrusted && errors.Is(err, os.ErrDeadlineExceeded) {
		why = refusedSlow
	}
	f.counts.Refused[why].Add(1)
	r, from := Refusals[why], nc.RemoteAddr().String()
	kind := r.Name
	if host, _, err := net.SplitHostPort(from); err == nil && why != RefusedFull {
		kind += "\x00" + host
	}
	f.log.Warn(kind, func(to *slog.Logger, repeated uint64) {
		to.Warn("connection refused", "reason", r.Name, "listener", g.name, "addr", from, "err", err, "do", r.remedy, "repeated", repeated)
	})
}

func (f *Front) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// begin enters a connection that close is to end; false if it has come too late.
func (f *Front) begin(nc net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.shaking[nc] = struct{}{}
	f.shaken.Add(1)
	return true
}

func (f *Front) end(nc net.Conn) {
	f.mu.Lock()
	delete(f.shaking, nc)
	f.mu.Unlock()
	f.shaken.Done()
}

// Close ends the listeners and what has not become a client. It may be called again.
func (f *Front) Close() {
	f.mu.Lock()
	f.closed = true
	for nc := range f.shaking {
		_ = nc.Close()
	}
	f.mu.Unlock()
	for _, g := range f.gates {
		g.Close(func(string) {})
	}
}

// steady is a listener whose Accept fails only when it is closed: mochi's listener ends silently
// on any error (no more file descriptors, a client that went away), which must end nothing. It
// waits a little and goes on.
type steady struct {
	net.Listener
	ctx   context.Context
	front *Front
	name  string
}

// Accept waits for the next connection.
func (l *steady) Accept() (net.Conn, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		nc, err := l.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
			return nc, err
		}
		l.front.counts.AcceptErrors.Add(1)
		l.front.log.Warn("accept\x00"+l.name, func(to *slog.Logger, repeated uint64) {
			to.Warn("cannot accept a connection; will try again", "listener", l.name, "addr", l.Addr().String(), "err", err, "repeated", repeated,
				"do", "if files are too many: raise the limit of file descriptors (LimitNOFILE of the service, ulimit -n) or set max_connections under [listen]")
		})
		if !pause(l.ctx, wait) {
			return nil, net.ErrClosed
		}
	}
}
