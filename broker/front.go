package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"

	"holdfast/broker/mqtt"
)

// front is the listeners: mochi's, over sockets that this broker opened and that outlive errors.
type front struct {
	listeners []*listeners.Net
	addrs     []net.Addr
}

// listen opens the configured listeners, all or none.
func listen(ctx context.Context, cfg ListenConfig, log *slog.Logger) (*front, error) {
	f := &front{}
	var lc net.ListenConfig
	add := func(name, addr string, wrap func(net.Listener) net.Listener) error {
		if addr == "" {
			return nil
		}
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listen for MQTT: %w", err)
		}
		f.addrs = append(f.addrs, l.Addr())
		front := listeners.NewNet(name, &steady{Listener: wrap(l), ctx: ctx, log: log})
		_ = front.Init(log) // keeps the logger; the address is open already
		f.listeners = append(f.listeners, front)
		return nil
	}
	err := add("mqtt", cfg.MQTT, func(l net.Listener) net.Listener { return l })
	if err == nil && cfg.MQTTS != "" {
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
			err = fmt.Errorf("listen for MQTT over TLS: %w", err)
		} else {
			tc := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
			err = add("mqtts", cfg.MQTTS, func(l net.Listener) net.Listener { return tls.NewListener(l, tc) })
		}
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// serve gives every connection to establish, in a goroutine of its own, until close.
func (f *front) serve(establish func(net.Conn)) {
	var accepting sync.WaitGroup
	for _, l := range f.listeners {
		accepting.Go(func() {
			l.Serve(func(_ string, nc net.Conn) error {
				establish(nc)
				return nil
			})
		})
	}
	accepting.Wait()
}

func (f *front) close() {
	for _, l := range f.listeners {
		l.Close(func(string) {})
	}
}

// steady is a listener whose Accept fails only when it is closed: mochi's listener ends silently
// on any error (no more file descriptors, a client that went away), which must end nothing. It
// waits a little and goes on.
type steady struct {
	net.Listener
	ctx context.Context
	log *slog.Logger
}

// Accept waits for the next connection.
func (l *steady) Accept() (net.Conn, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		nc, err := l.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
			return nc, err
		}
		l.log.Warn("cannot accept a connection; will try again", "listener", l.Addr().String(), "err", err)
		if !pause(l.ctx, wait) {
			return nil, net.ErrClosed
		}
	}
}

// connSet is the connections that exist. mochi starts a goroutine per connection that it does
// not wait for; one that comes late finds the set ended.
type connSet struct {
	mu    sync.Mutex
	m     map[*conn]struct{}
	ended bool
	in    Traffic // of connections that are gone
	out   Traffic
	peak  int
	gone  sync.WaitGroup
}

// add reports whether the connection may go on; it then owes a remove.
func (s *connSet) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.m[c] = struct{}{}
	s.peak = max(s.peak, len(s.m))
	s.gone.Add(1)
	return true
}

func (s *connSet) remove(c *conn) {
	s.mu.Lock()
	delete(s.m, c)
	s.in.add(c.got.load())
	s.out.add(c.gave.load())
	s.mu.Unlock()
	s.gone.Done()
}

// endAll tells every client that the broker stops, and waits until they are gone.
func (s *connSet) endAll() {
	s.mu.Lock()
	s.ended = true
	all := make([]*conn, 0, len(s.m))
	for c := range s.m {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.end(mqtt.ServerShuttingDown, "the broker stops")
	}
	s.gone.Wait()
}

// bufferPool is the write buffers of the connections that are writing.
type bufferPool struct{ p sync.Pool }

func (bp *bufferPool) get() *[]byte {
	if b, ok := bp.p.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 4096)
	return &b
}

func (bp *bufferPool) put(b *[]byte) {
	if cap(*b) <= 4*pullBytes {
		bp.p.Put(b)
	}
}
