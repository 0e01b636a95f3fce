package broker

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

// front is the listeners: mochi's, over sockets that this broker opened and that outlive errors.
// It takes a connection through PROXY header, TLS and WebSocket, whichever its listener has, and
// hands on what speaks MQTT.
type front struct {
	log     *limitlog.Log
	counts  *FrontCounts
	trusted []netip.Prefix
	files   *tlsFiles // nil without TLS
	max     int64     // connections
	timeout time.Duration
	mono    func() time.Duration
	limits  *limits.Limits
	book    *limits.AddressBook

	gates []*gate
	addrs []net.Addr

	open    atomic.Int64 // connections
	mu      sync.Mutex
	shaking map[net.Conn]struct{} // not handed on yet
	closed  bool
	shaken  sync.WaitGroup
}

// gate is one listener.
type gate struct {
	clientListener
	*listeners.Net
	proxied bool
	tls     *tls.Config // nil: none
	ws      *wsGate     // nil: none
}

// FrontCounts counts the connections that ended before they spoke MQTT, and why.
type FrontCounts struct {
	Refused      [len(frontRefusals)]atomic.Uint64 // as frontRefusals
	AcceptErrors atomic.Uint64
}

// Why a connection is turned away before it speaks MQTT: indices of frontRefusals.
const (
	refusedFull = iota
	refusedUntrusted
	refusedHeader
	refusedTLS
	refusedWebSocket
	refusedSlow
	refusedClientCert
	refusedLimit
)

// frontRefusals are the names in metrics and logs, and what an operator can do.
var frontRefusals = [...]struct{ name, remedy string }{
	{"full", "raise max_connections under [listen], or the limit of file descriptors (LimitNOFILE of the service, ulimit -n)"},
	{"proxy_untrusted", "if it is a proxy of yours, add its address to trusted_proxies under [listen]; clients must not come to this listener directly"},
	{"proxy_header", "this listener requires the PROXY protocol: let the proxy send it (HAProxy: send-proxy-v2, health checks: check-send-proxy; nginx: proxy_protocol on), or take the listener out of proxy_protocol under [listen]"},
	{"tls", "the client speaks no TLS, none of 1.2 or 1.3, or does not accept the certificate"},
	{"websocket", "the client must ask for " + wsPath + " with subprotocol mqtt; a web page of another origin must stand in ws_origins under [listen]"},
	{"slow", "it opened a connection and did not finish what comes before MQTT: a port scan, a broken network, or somebody who wants to hold connections"},
	{"client_certificate", "the listener wants a certificate that the CAs of client_ca_file under [listen] have signed, for clients, and that is valid now"},
	{"limit", "a limit of connections from its address, see limit_reached_total; over TLS it can be told nothing"},
}

func newFront(cfg ListenConfig, b *Broker) *front {
	f := &front{log: limitlog.New(b.log, b.wall), counts: &b.stats.Front, max: maxConnections(cfg), limits: b.limits, timeout: b.limits.ConnectTimeout, mono: b.mono, shaking: map[net.Conn]struct{}{}}
	f.book = limits.NewAddressBook(b.limits, f.max)
	return f
}

// listen opens the configured listeners, all or none. ready is what /readyz says.
func listen(ctx context.Context, cfg ListenConfig, ready func() bool, b *Broker) (*front, error) {
	f := newFront(cfg, b)
	if err := f.listen(ctx, cfg, ready, b); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *front) listen(ctx context.Context, cfg ListenConfig, ready func() bool, b *Broker) (err error) {
	if f.trusted, err = parseNetworks(cfg.TrustedProxies); err != nil {
		return fmt.Errorf("listen.trusted_proxies: %w", err)
	}
	for _, o := range cfg.clients() {
		if o.addr == "" {
			continue
		}
		g := &gate{clientListener: o, proxied: slices.Contains(cfg.ProxyProtocol, o.name)}
		if o.tls && f.files == nil {
			if f.files, err = loadTLS(cfg, b.wall, b.log); err != nil {
				return fmt.Errorf("listen.%s: %w", o.name, err)
			}
		}
		if o.tls {
			g.tls = f.files.config(cfg.clientCert(o.name))
		}
		if o.ws {
			g.ws = newWSGate(cfg.WSOrigins, ready)
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", g.addr)
		if err != nil {
			return fmt.Errorf("listen.%s: %w", o.name, listenError(err))
		}
		f.guard(ctx, g, l)
	}
	return nil
}

// guard puts a gate in front of an open socket.
func (f *front) guard(ctx context.Context, g *gate, l net.Listener) {
	g.Net = listeners.NewNet(g.name, &steady{Listener: l, ctx: ctx, front: f, name: g.name})
	_ = g.Net.Init(f.log.To) // keeps the logger; the address is open already
	f.gates = append(f.gates, g)
	f.addrs = append(f.addrs, l.Addr())
}

// listenError adds what to do.
func listenError(err error) error {
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
func maxConnections(cfg ListenConfig) int64 {
	const store = 256
	var l syscall.Rlimit
	if cfg.MaxConnections > 0 || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return max(1, int64(cfg.MaxConnections))
	}
	n := int64(min(l.Cur, 1<<30))
	return max(n/2, n-store)
}

// serve gives every connection to mqtt, in a goroutine of its own, until close. What is on the
// stack of that goroutine below mqtt stays there for as long as the client: it is little.
func (f *front) serve(ctx context.Context, mqtt func(context.Context, net.Conn, *limits.Entrance)) {
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
	if f.files != nil {
		serving.Go(func() { f.files.watch(ctx, certEvery, f.mono, f.log.To) })
	}
	serving.Wait()
	f.shaken.Wait()
}

// admit takes a connection to where MQTT begins, or closes it and returns nil.
//
//go:noinline
func (f *front) admit(ctx context.Context, g *gate, nc net.Conn) (net.Conn, *limits.Entrance) {
	if f.open.Add(1) > f.max {
		f.refuse(g, nc, refusedFull, fmt.Errorf("there are %d connections", f.max))
		return nil, nil
	}
	if !f.begin(nc) {
		_ = nc.Close()
		return nil, nil
	}
	defer f.end(nc)
	in := f.book.Arrive(nc)
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
func (f *front) shake(ctx context.Context, g *gate, nc net.Conn, in *limits.Entrance) (c net.Conn, why int, err error) {
	c = nc
	if g.proxied {
		if !f.trusts(nc.RemoteAddr()) {
			return nil, refusedUntrusted, errors.New("its address is not in trusted_proxies")
		}
		client, err := readProxyHeader(nc)
		if err != nil {
			return nil, refusedHeader, err
		}
		if client.IsValid() {
			c = &proxied{nc, net.TCPAddrFromAddrPort(client)}
		}
	}
	if wait := f.book.Locate(in, c.RemoteAddr()); wait > 0 {
		if !pause(ctx, wait) {
			return nil, refusedSlow, errStopping
		}
		_ = nc.SetDeadline(time.Now().Add(f.timeout)) // that was our time, not the client's
	}
	if r := in.Refusal; r != nil && g.tls != nil { // to tell it would cost a handshake
		f.limits.Hit(r.Limit, "", c.RemoteAddr().String(), r.Text)
		return nil, refusedLimit, errors.New(r.Text)
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
			return nil, refusedWebSocket, err
		}
	}
	return c, 0, nil
}

func (f *front) trusts(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := t.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(f.trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// refuse counts, says and closes. What a stranger does is said once a minute, address and reason.
func (f *front) refuse(g *gate, nc net.Conn, why int, err error) {
	_ = nc.Close()
	if errors.Is(err, errAnswered) || f.isClosed() {
		return
	}
	if why != refusedUntrusted && errors.Is(err, os.ErrDeadlineExceeded) {
		why = refusedSlow
	}
	f.counts.Refused[why].Add(1)
	r, from := frontRefusals[why], nc.RemoteAddr().String()
	kind := r.name
	if host, _, err := net.SplitHostPort(from); err == nil && why != refusedFull {
		kind += "\x00" + host
	}
	f.log.Warn(kind, func(to *slog.Logger, repeated uint64) {
		to.Warn("connection refused", "reason", r.name, "listener", g.name, "addr", from, "err", err, "do", r.remedy, "repeated", repeated)
	})
}

func (f *front) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// begin enters a connection that close is to end; false if it has come too late.
func (f *front) begin(nc net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.shaking[nc] = struct{}{}
	f.shaken.Add(1)
	return true
}

func (f *front) end(nc net.Conn) {
	f.mu.Lock()
	delete(f.shaking, nc)
	f.mu.Unlock()
	f.shaken.Done()
}

// close ends the listeners and what has not become a client. It may be called again.
func (f *front) close() {
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
	front *front
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
