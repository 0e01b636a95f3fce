package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"holdfast/broker/mqtt"
)

// front is the listeners and the connections that came through them.
type front struct {
	listeners []net.Listener
}

// listen opens the configured listeners, all or none.
func listen(ctx context.Context, cfg ListenConfig) (*front, error) {
	f := &front{}
	var lc net.ListenConfig
	add := func(addr string, wrap func(net.Listener) net.Listener) error {
		if addr == "" {
			return nil
		}
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listen for MQTT: %w", err)
		}
		f.listeners = append(f.listeners, wrap(l))
		return nil
	}
	err := add(cfg.MQTT, func(l net.Listener) net.Listener { return l })
	if err == nil && cfg.MQTTS != "" {
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
			err = fmt.Errorf("listen for MQTT over TLS: %w", err)
		} else {
			tc := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
			err = add(cfg.MQTTS, func(l net.Listener) net.Listener { return tls.NewListener(l, tc) })
		}
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *front) close() {
	for _, l := range f.listeners {
		_ = l.Close()
	}
}

// accept serves every connection of a listener until it is closed. An error of Accept (no more
// file descriptors, a client that went away) ends nothing: it waits a little and goes on.
func (b *Broker) accept(ctx context.Context, l net.Listener) {
	for wait := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			b.clients.Go(func() { b.serve(ctx, nc) })
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return
		default:
			wait = min(max(2*wait, 10*time.Millisecond), time.Second)
			b.log.Warn("cannot accept a connection; will try again", "listener", l.Addr().String(), "err", err)
			if !pause(ctx, wait) {
				return
			}
		}
	}
}

// connSet is the connections that exist.
type connSet struct {
	mu sync.Mutex
	m  map[*conn]struct{}
}

func (s *connSet) add(c *conn) {
	s.mu.Lock()
	s.m[c] = struct{}{}
	s.mu.Unlock()
}

func (s *connSet) remove(c *conn) {
	s.mu.Lock()
	delete(s.m, c)
	s.mu.Unlock()
}

func (s *connSet) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.m)
}

// endAll tells every client that the broker stops.
func (s *connSet) endAll() {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.m))
	for c := range s.m {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.end(mqtt.ServerShuttingDown, "the broker stops")
	}
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
