package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/listen"
	"holdfast/uplink/est"
	"holdfast/uplink/wire"
)

// The EST server (RFC 7030): HTTPS with the certificate of the other TLS listeners. It is one of the doors that strangers reach:
// what they may send is small, and how many may be there at once is bounded.

const (
	estRequests = 64 // at once; the others are told to come again
	estConns    = 512
	estTimeout  = 15 * time.Second // for a request, and for its answer
	estHeader   = 16 << 10
	estRetry    = "10"                                                // seconds
	estRealm    = `Basic realm="holdfast enrolment", charset="UTF-8"` // RFC 7617
	estBody     = 16 << 10
)

// estServer is the listener of a node.
type estServer struct {
	e     *enrolment
	l     net.Listener
	http  *http.Server
	slots chan struct{}
}

// listenEnrol opens the listener, if there is to be one.
func (b *Broker) listenEnrol(ctx context.Context, files *listen.TLSFiles) (*estServer, error) {
	if b.enrol.cfg.Listen == "" || b.enrol.ca == nil || files == nil {
		return nil, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", b.enrol.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("enrol.listen: %w", listen.Explain(err))
	}
	s := &estServer{e: b.enrol, slots: make(chan struct{}, estRequests)}
	s.l = tls.NewListener(&boundedListener{Listener: l, most: estConns}, estTLS(files))
	s.http = &http.Server{Handler: s.handler(), ReadTimeout: estTimeout, WriteTimeout: estTimeout + estTimeout, IdleTimeout: estTimeout,
		MaxHeaderBytes: estHeader, ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug)}
	addr := l.Addr()
	b.estAddr.Store(&addr)
	return s, nil
}

// estTLS asks for a certificate and leaves it to the handlers whether it is good: one that has ended is, for its renewal.
func estTLS(files *listen.TLSFiles) *tls.Config {
	c := files.Config(listen.ClientCertNone)
	c.ClientAuth, c.SessionTicketsDisabled, c.NextProtos = tls.RequestClientCert, true, []string{"http/1.1"}
	return c
}

// boundedListener closes connections beyond a bound at once.
type boundedListener struct {
	net.Listener
	most int64
	open atomic.Int64
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			return &boundedConn{Conn: c, l: l}, nil
		}
		l.open.Add(-1)
		_ = c.Close() // it gets no word: TLS has not begun
	}
}

type boundedConn struct {
	net.Conn
	l      *boundedListener
	closed atomic.Bool
}

func (c *boundedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.l.open.Add(-1)
	}
	return c.Conn.Close()
}

// serve answers until ctx ends.
func (s *estServer) serve(ctx context.Context) {
	s.e.b.log.Info("enrolment", "listen", "https://"+s.l.Addr().String())
	ended := make(chan error, 1)
	go func() { ended <- s.http.Serve(s.l) }()
	select {
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.http.Shutdown(end) != nil {
			_ = s.http.Close() // who has not got his answer asks again
		}
		<-ended
	case err := <-ended:
		s.e.b.log.Error("the listener for enrolment has ended: gateways get no certificates until the node is restarted", "err", err)
	}
}

func (s *estServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+est.PathCACerts, s.caCerts)
	mux.HandleFunc("POST "+est.PathSimpleEnroll, s.simpleEnroll)
	mux.HandleFunc("POST "+est.PathSimpleReenroll, s.simpleReenroll)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
			// Without a quorum nothing is stored. A client that goes ends nothing: what it asked for may be on its way to the disk, and when it
			// comes again with the same key it has to find that, and not get another one.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), estTimeout)
			defer cancel()
			mux.ServeHTTP(w, r.WithContext(ctx))
		default:
			comeAgain(w, "too many ask at once")
		}
	})
}

func comeAgain(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", estRetry)
	http.Error(w, why, http.StatusServiceUnavailable)
}

func (s *estServer) caCerts(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.e.roots) }

func (s *estServer) answer(w http.ResponseWriter, certs []*x509.Certificate) {
	body, err := est.FormatCertificates(certs)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", est.TypeCerts)
	w.Header().Set("Content-Transfer-Encoding", "base64")
	_, _ = w.Write(body) // the client is gone: it asks again, and gets the same
}

// simpleEnroll is for a gateway with a one-time token, in HTTP's basic authentication (RFC 7030 section 3.2.3).
func (s *estServer) simpleEnroll(w http.ResponseWriter, r *http.Request) {
	gateway, token, given := r.BasicAuth()
	if !given {
		w.Header().Set("WWW-Authenticate", estRealm)
		http.Error(w, "give the gateway's name and its one-time token", http.StatusUnauthorized)
		return
	}
	request, err := s.request(w, r)
	var voucher *wire.Voucher
	if header := r.Header.Get(est.HeaderVoucher); err == nil && header != "" {
		var v wire.Voucher
		if v, err = est.ParseVoucher(header); err != nil {
			err = fmt.Errorf("%w: %w", errRequest, err)
		}
		voucher = &v
	}
	var cert *x509.Certificate
	if err == nil {
		cert, err = s.e.first(r.Context(), gateway, token, request, voucher)
	}
	s.finish(w, r, gateway, cert, err)
}

// simpleReenroll is for a gateway that shows the certificate before.
func (s *estServer) simpleReenroll(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "show the certificate that is to be renewed", http.StatusUnauthorized)
		return
	}
	shown := r.TLS.PeerCertificates[0] // TLS has seen to it that the client has its key
	request, err := s.request(w, r)
	var cert *x509.Certificate
	if err == nil {
		cert, err = s.e.renew(r.Context(), shown, request)
	}
	s.finish(w, r, shown.Subject.CommonName, cert, err)
}

// request reads the body.
func (s *estServer) request(w http.ResponseWriter, r *http.Request) (*x509.CertificateRequest, error) {
	if why := s.e.b.Ready(); why != nil {
		return nil, why
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != est.TypeRequest {
		return nil, fmt.Errorf("%w: its type must be %s", errRequest, est.TypeRequest)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, estBody))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRequest, err)
	}
	request, err := est.ParseRequest(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRequest, err)
	}
	return request, nil
}

// finish answers. What is refused is said to the log as well, without the token.
func (s *estServer) finish(w http.ResponseWriter, r *http.Request, gateway string, cert *x509.Certificate, err error) {
	if err == nil {
		s.answer(w, s.e.ca.Chain(cert))
		return
	}
	status := estStatus(err)
	name := strings.ToValidUTF8(gateway[:min(len(gateway), 128)], "?")
	s.e.log.Warn("enrol\x00"+remoteHost(r)+"\x00"+name, func(to *slog.Logger, repeated uint64) {
		to.Warn("a certificate is not issued", "gateway", name, "addr", r.RemoteAddr, "for", strings.TrimPrefix(r.URL.Path, "/.well-known/est/"), "status", status, "err", err, "repeated", repeated)
	})
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", estRealm)
	case http.StatusServiceUnavailable:
		comeAgain(w, err.Error())
		return
	}
	http.Error(w, err.Error(), status)
}

func remoteHost(r *http.Request) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// estStatus is the status of an answer that is no certificate. What is not the client's doing is 503: it comes again.
func estStatus(err error) int {
	for _, c := range []struct {
		is     error
		status int
	}{
		{errToken, http.StatusUnauthorized}, {errTokenOver, http.StatusUnauthorized}, {errTokenGateway, http.StatusUnauthorized},
		{errTokenUsed, http.StatusForbidden}, {errNotIndexed, http.StatusForbidden}, {errCertRevoked, http.StatusForbidden},
		{errHasCert, http.StatusConflict}, {errManyCerts, http.StatusConflict}, {door.ErrKeyTaken, http.StatusConflict}, {wire.ErrRevokedKey, http.StatusConflict},
		{errRequest, http.StatusBadRequest}, {door.ErrGatewayName, http.StatusBadRequest},
	} {
		if errors.Is(err, c.is) {
			return c.status
		}
	}
	return http.StatusServiceUnavailable
}
