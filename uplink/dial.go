package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

// dial opens the stream to a server: TCP, TLS over it, WebSocket over either.
func dial(ctx context.Context, s server, cfg Config, wall func() time.Time) (net.Conn, error) {
	var tc *tls.Config
	if s.tls() {
		var err error
		if tc, err = cfg.tls(s.host, wall); err != nil {
			return nil, err
		}
	}
	if s.ws() {
		return dialWS(ctx, s, tc)
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, dialAdvice(err))
	}
	if tc == nil {
		return nc, nil
	}
	t := tls.Client(nc, tc)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("TLS: %w%s", err, tlsAdvice(err))
	}
	return t, nil
}

func dialWS(ctx context.Context, s server, tc *tls.Config) (net.Conn, error) {
	d := websocket.Dialer{
		NetDialContext:  new(net.Dialer).DialContext,
		TLSClientConfig: tc,
		Subprotocols:    []string{"mqtt"}, // §6.0: MUST be offered [MQTT-6.0.0-3]
		WriteBufferSize: writeBuffer,
	}
	c, resp, err := d.DialContext(ctx, s.String(), nil)
	if err != nil {
		if errors.Is(err, websocket.ErrBadHandshake) && resp != nil {
			return nil, fmt.Errorf("websocket: HTTP status %s: is %s the right path?", resp.Status, s.path)
		}
		advice := ": does this port speak WebSocket?"
		if tc != nil || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			advice = tlsAdvice(err)
		}
		return nil, fmt.Errorf("websocket: %w%s", err, advice)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && c.Subprotocol() != "mqtt" {
		_ = c.Close()
		return nil, errors.New("websocket: the server did not select the subprotocol mqtt (§6.0)")
	}
	return &wsConn{Conn: c}, nil
}

// TLS is the TLS configuration with which the uplink connects to a host, for others who talk to the broker: its authorities,
// the certificate, and wall as a lower bound of the present (nil: the system's clock alone). The files are read now.
func (c Config) TLS(host string, wall func() time.Time) (*tls.Config, error) {
	return c.tls(host, wall)
}

// tls makes the client's TLS configuration, reading its files now: they may have been
// renewed.
func (c Config) tls(host string, wall func() time.Time) (*tls.Config, error) {
	tc := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		// Full records from the start: a backlog is not a web page, and small ones cost both ends.
		DynamicRecordSizingDisabled: true,
		// A board without a clock battery starts in the past, where no certificate is
		// valid yet.
		Time: func() time.Time {
			now := time.Now()
			if wall != nil {
				if w := wall(); w.After(now) {
					return w
				}
			}
			return now
		},
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s: no PEM certificate in it", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file %s, key_file %s: %w", c.CertFile, c.KeyFile, err)
		}
		tc.Certificates = []tls.Certificate{pair}
	}
	return tc, nil
}

// tlsAdvice says what can be done about the commonest failures.
func tlsAdvice(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return ": set uplink.ca_file to the authority that signed the server's certificate"
	case errors.As(err, &host):
		return ": use the name in the certificate in uplink.servers"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return ": check the server's certificate and this board's clock"
	case errors.As(err, &record), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return ": does this port speak TLS?"
	}
	return dialAdvice(err)
}

// dialAdvice says what to do when there is no connection.
func dialAdvice(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return ": correct the name in uplink.servers, or this host's DNS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return ": does the broker run, and listen at this port?"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, context.DeadlineExceeded):
		return ": is the network up, and no firewall between?"
	}
	return ""
}

// wsConn makes a stream of a WebSocket's binary messages (§6.0). One reader, one
// writer.
type wsConn struct {
	*websocket.Conn
	r io.Reader
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("websocket: the server sent a text message [MQTT-6.0.0-1]")
			}
			c.r = r
		}
		n, err := c.r.Read(p)
		if err == io.EOF {
			c.r, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
