package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// subscriber is an ordinary MQTT 5 client that keeps its session over outages, and
// counts what it receives.
type subscriber struct {
	broker string // host:port
	topic  string
	key    ed25519.PublicKey
	tally  *tally
}

// subscribe returns when the subscription stands; the client lives until ctx ends.
func (s *subscriber) subscribe(ctx context.Context) error {
	c, gone, err := s.connect(ctx, false)
	if err != nil {
		return fmt.Errorf("subscribe to %s at %s: %w", s.topic, s.broker, err)
	}
	go s.keep(ctx, c, gone)
	return nil
}

// keep connects again whenever the connection has gone.
func (s *subscriber) keep(ctx context.Context, c *paho.Client, gone <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			c.Disconnect(&paho.Disconnect{})
			return
		case <-gone:
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
			var err error
			if c, gone, err = s.connect(ctx, true); err == nil {
				break
			}
		}
	}
}

// connect makes one connection. resume: the subscription is in the session already, if
// the broker still has that.
func (s *subscriber) connect(ctx context.Context, resume bool) (*paho.Client, <-chan struct{}, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.broker)
	if err != nil {
		return nil, nil, err
	}
	c := paho.NewClient(paho.ClientConfig{
		ClientID: "demo-subscriber", Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) {
				s.receive(p.Packet)
				return true, nil
			},
		},
	})
	expiry := uint32(3600)
	ack, err := c.Connect(ctx, &paho.Connect{
		ClientID: "demo-subscriber", KeepAlive: 5, CleanStart: false,
		Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
	})
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if !resume || !ack.SessionPresent {
		_, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: s.topic, QoS: 1}}})
		if err != nil {
			c.Disconnect(&paho.Disconnect{})
			return nil, nil, err
		}
	}
	return c, c.Done(), nil
}

// receive checks one message: nothing counts that is not signed.
func (s *subscriber) receive(p *paho.Publish) {
	jws, n := "", 0
	if p.Properties != nil {
		for _, u := range p.Properties.User {
			if u.Key == "jws" {
				jws, n = u.Value, n+1
			}
		}
	}
	if n != 1 {
		s.tally.message(header{}, nil, fmt.Errorf("%d user properties named jws", n))
		return
	}
	h, err := verify(jws, p.Payload, p.Topic, s.key)
	s.tally.message(h, p.Payload, err)
}
