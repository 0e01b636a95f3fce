package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

const subscriberID = "demo-subscriber"

// subscriber is an ordinary MQTT 5 client that keeps its session over outages, and
// counts what it receives. With several nodes it begins at the last, and goes to the next
// when it loses one.
type subscriber struct {
	stage   *stage
	program string // mosquitto_sub, if it is that
	topic   string
	key     ed25519.PublicKey
	tally   *tally
	at      atomic.Int32 // which node
}

func newSubscriber(st *stage, key ed25519.PublicKey, t *tally) *subscriber {
	s := &subscriber{stage: st, topic: "gw/" + gatewayName + "/#", key: key, tally: t}
	if len(st.nodes) > 1 {
		s.program, _ = exec.LookPath("mosquitto_sub")
	}
	s.at.Store(int32(len(st.nodes) - 1))
	return s
}

func (s *subscriber) node() *node { return s.stage.nodes[s.at.Load()] }

func (s *subscriber) next() { s.at.Store((s.at.Load() + 1) % int32(len(s.stage.nodes))) }

// words is who it is.
func (s *subscriber) words() string {
	if s.program != "" {
		return "the demo's own code as mosquitto_sub printed them"
	}
	return "a subscriber of its own making"
}

// line is a connection.
type line struct {
	gone  <-chan struct{} // closed when it has ended
	close func()
}

// subscribe returns when the subscription stands; the client lives until ctx ends.
func (s *subscriber) subscribe(ctx context.Context) error {
	l, err := s.connect(ctx, false)
	if err != nil {
		return fmt.Errorf("subscribe to %s at %s: %w", s.topic, s.node().mqtt, err)
	}
	go s.keep(ctx, l)
	return nil
}

// keep connects again whenever the connection has gone.
func (s *subscriber) keep(ctx context.Context, l line) {
	for {
		select {
		case <-ctx.Done():
			l.close()
			return
		case <-l.gone:
		}
		for {
			s.next()
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
			var err error
			if l, err = s.connect(ctx, true); err == nil {
				break
			}
		}
	}
}

// connect makes one connection. resume: the subscription is in the session already, if
// the broker still has that.
func (s *subscriber) connect(ctx context.Context, resume bool) (line, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if s.program != "" {
		return s.mosquitto(ctx, resume)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.node().mqtt)
	if err != nil {
		return line{}, err
	}
	c := paho.NewClient(paho.ClientConfig{
		ClientID: subscriberID, Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) {
				s.receive(p.Packet)
				return true, nil
			},
		},
	})
	expiry := uint32(3600)
	ack, err := c.Connect(ctx, &paho.Connect{
		ClientID: subscriberID, KeepAlive: 5, CleanStart: false,
		Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
	})
	if err != nil {
		conn.Close()
		return line{}, err
	}
	if !resume || !ack.SessionPresent {
		_, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: s.topic, QoS: 1}}})
		if err != nil {
			c.Disconnect(&paho.Disconnect{})
			return line{}, err
		}
	}
	return line{gone: c.Done(), close: func() { c.Disconnect(&paho.Disconnect{}) }}, nil
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
