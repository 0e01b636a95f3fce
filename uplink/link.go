package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// link is one accepted connection.
type link struct {
	c      *conn
	client *paho.Client
}

// refused is a CONNACK that says no.
type refused struct {
	code byte
	text string
	ref  string // Server Reference
}

func (r *refused) Error() string { return r.text }

var errNoQoS1 = errors.New("the server accepts no QoS 1, without which delivery cannot be confirmed")

// connect opens a connection and logs in (§3.1).
func (u *Uplink) connect(ctx context.Context, s server, cfg Config) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, u.tune.connect)
	defer cancel()
	login, err := cfg.connectPacket()
	if err != nil {
		return nil, err
	}
	nc, err := dial(ctx, s, cfg, u.opt.Wall)
	if err != nil {
		return nil, err
	}
	c := newConn(nc, u.tune.write, u.opt.Now, u.line.acknowledged, u.line.idle)
	client := paho.NewClient(paho.ClientConfig{
		Conn:          c,
		Session:       u.line,
		PingHandler:   &pinger{c: c, limit: cfg.Keepalive},
		AuthHandler:   noAuth{},
		PacketTimeout: u.tune.connect,
		// QoS 0 only: the session refuses the others.
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(paho.PublishReceived) (bool, error) { return true, nil },
		},
	})
	ack, err := client.Connect(ctx, login)
	switch {
	case err == nil:
		return &link{c: c, client: client}, nil
	case ack != nil && ack.ReasonCode >= 0x80:
		return nil, &refused{
			code: ack.ReasonCode,
			text: refusal("CONNACK", ack.ReasonCode, ack.Properties.ReasonString),
			ref:  ack.Properties.ServerReference,
		}
	case ack != nil: // the session's objection
		return nil, fmt.Errorf("CONNACK: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("no CONNACK within %v: does an MQTT broker listen at this port?", u.tune.connect)
	case c.why() != nil:
		return nil, fmt.Errorf("waiting for CONNACK: %w", c.why())
	}
	return nil, fmt.Errorf("CONNACK: %w: does the server speak MQTT 5?", err)
}

// connectPacket is the CONNECT of this configuration; the password is read now.
func (c Config) connectPacket() (*paho.Connect, error) {
	expiry := uint32(math.MaxUint32) // never, §3.1.2.11.2
	if s := c.SessionExpiry / time.Second; s < math.MaxUint32 {
		expiry = uint32(s)
	}
	receive, size := uint16(reservedIDs), uint32(maxInbound)
	p := &paho.Connect{
		ClientID:   c.ClientID,
		KeepAlive:  uint16(c.Keepalive / time.Second),
		CleanStart: false,
		Properties: &paho.ConnectProperties{
			SessionExpiryInterval: &expiry,
			ReceiveMaximum:        &receive, // nothing is subscribed to
			MaximumPacketSize:     &size,
			RequestProblemInfo:    true,
		},
	}
	if c.Username != "" {
		p.UsernameFlag, p.Username = true, c.Username
	}
	if c.PasswordFile != "" {
		secret, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password_file: %w", err)
		}
		p.PasswordFlag, p.Password = true, bytes.TrimRight(secret, "\r\n")
	}
	return p, nil
}

// noAuth keeps paho from calling nobody if a server sends AUTH unasked.
type noAuth struct{}

func (noAuth) Authenticate(*paho.Auth) *paho.Auth { return &paho.Auth{ReasonCode: packets.AuthSuccess} }
func (noAuth) Authenticated()                     {}

// serve uses a connection until it ends, ctx does, or the configuration wants another.
// It returns why it was lost, nil if we ended it.
func (u *Uplink) serve(ctx context.Context, l *link) error {
	pctx, stop := context.WithCancel(ctx)
	defer stop()
	pumped := make(chan struct{})
	p := &pump{line: u.line, src: u.opt.Source, open: u.opt.Open, lanes: u.lanes, c: l.c, most: u.line.largest()}
	go func() {
		defer close(pumped)
		p.run(pctx, l.client.Done(), u.relane, u.drain)
	}()
	if u.opt.OnConnect != nil {
		u.opt.OnConnect()
	}
	select {
	case <-l.client.Done():
	case <-ctx.Done():
	case <-u.reconnect:
	}
	stop()
	if lost := u.lost(l); lost != nil {
		<-l.client.Done()
		<-pumped
		u.line.ended(errors.Is(lost, errPeerClosed))
		return lost
	}
	u.finish(l, pumped)
	return nil
}

// lost says why a connection ended; nil if it has not.
func (u *Uplink) lost(l *link) error {
	select {
	case <-l.client.Done():
	default:
		return nil
	}
	if d := u.line.saidGoodbye(); d != nil {
		e := &refused{code: d.ReasonCode, text: refusalOf(d)}
		if d.Properties != nil {
			e.ref = d.Properties.ServerReference
		}
		return e
	}
	if err := l.c.why(); err != nil {
		return err
	}
	return errPeerClosed
}

// finish ends a connection in order: the window's PUBACKs are waited for briefly, then
// DISCONNECT 0x00 (§3.14.2.1), which keeps the session for its expiry.
func (u *Uplink) finish(l *link, pumped <-chan struct{}) {
	hard := time.AfterFunc(u.tune.finish+u.tune.finish/8, func() { _ = l.c.Conn.Close() })
	defer hard.Stop()
	soft := time.NewTimer(u.tune.finish)
	defer soft.Stop()
	<-pumped
	u.opt.Log.Debug("uplink finishing", "in_flight", u.line.onWire())
	for waiting := true; waiting && u.line.onWire() > 0; {
		select {
		case <-u.line.wake:
		case <-soft.C:
			waiting = false
		case <-l.client.Done():
			waiting = false
		}
	}
	_ = l.client.Disconnect(&paho.Disconnect{ReasonCode: packets.DisconnectNormalDisconnection})
}

func (l *line) onWire() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fl.wire
}

func (l *line) saidGoodbye() *packets.Disconnect {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.goodbye
}
