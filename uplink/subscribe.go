package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// subscribeLimit bounds each answer that Subscribe waits for.
const subscribeLimit = 15 * time.Second

// Subscribe receives what is published on a filter, until ctx ends or each returns
// false: nil then, and an error if it never came so far (no server took the login or the
// subscription) or if the connection was lost. It is for tools that look on: it has no session, so what is
// published while it is away does not come. The agent itself never subscribes.
func Subscribe(ctx context.Context, cfg Config, filter string, each func(Message) (more bool)) error {
	cfg = cfg.withDefaults()
	if err := cfg.err(); err != nil {
		return err
	}
	var errs []error
	for _, s := range cfg.servers() {
		refused, err := lookOn(ctx, s, cfg, filter, each)
		if !refused {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", s, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// lookOn uses one server; refused says that another one may do better.
func lookOn(ctx context.Context, s server, cfg Config, filter string, each func(Message) bool) (refused bool, err error) {
	login, err := cfg.connectPacket()
	if err != nil {
		return true, err
	}
	login.CleanStart, login.Properties = true, nil
	dialing, cancel := context.WithTimeout(ctx, subscribeLimit)
	defer cancel()
	nc, err := dial(dialing, s, cfg, nil)
	if err != nil {
		return true, err
	}
	defer func() { _ = nc.Close() }() // paho has closed it unless it never began

	enough := make(chan struct{})
	done := false // of paho's one goroutine that delivers
	var came atomic.Bool
	lost := make(chan string, 1)
	client := paho.NewClient(paho.ClientConfig{
		Conn:          packets.NewThreadSafeConn(nc), // pings and acknowledgements are written by two goroutines
		AuthHandler:   noAuth{},
		PacketTimeout: subscribeLimit,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			came.Store(true)
			if !done && !each(received(r.Packet)) {
				done = true
				close(enough)
			}
			return true, nil
		}},
		OnServerDisconnect: func(d *paho.Disconnect) {
			words := ""
			if d.Properties != nil {
				words = d.Properties.ReasonString
			}
			lost <- refusal("DISCONNECT", d.ReasonCode, words)
		},
	})
	// The context of Connect is the life of the client, which is to end with a DISCONNECT.
	ack, err := client.Connect(context.WithoutCancel(ctx), login)
	switch {
	case ack != nil && ack.ReasonCode >= 0x80 && ack.Properties != nil:
		return true, errors.New(refusal("CONNACK", ack.ReasonCode, ack.Properties.ReasonString))
	case err != nil:
		return true, fmt.Errorf("CONNACK: %w: does the server speak MQTT 5?", err)
	}
	defer func() {
		_ = client.Disconnect(&paho.Disconnect{ReasonCode: packets.DisconnectNormalDisconnection}) // it may be gone
		<-client.Done()
	}()
	if err := ask(ctx, client, filter); err != nil {
		if ctx.Err() != nil && came.Load() { // a retained message may overtake the SUBACK, and be enough
			return false, nil
		}
		select {
		case why := <-lost:
			err = errors.New(why)
		default:
		}
		return ctx.Err() == nil, fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	select {
	case <-ctx.Done():
	case <-enough:
	case <-client.Done():
		select {
		case why := <-lost:
			return false, fmt.Errorf("%s: %s", s, why)
		default:
			return false, fmt.Errorf("%s: connection lost", s)
		}
	}
	return false, nil
}

// ask subscribes. The client itself would not notice that the server has hung up, as
// some do at a filter they do not like, until its time limit.
func ask(ctx context.Context, client *paho.Client, filter string) error {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-client.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	granted, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}}})
	cancel()
	<-watched
	if err != nil && granted != nil && len(granted.Reasons) == 1 {
		return errors.New(refusal("SUBACK", granted.Reasons[0], ""))
	}
	return err
}

// received is a PUBLISH in our own words.
func received(p *paho.Publish) Message {
	m := Message{Topic: p.Topic, Payload: p.Payload}
	if p.Properties != nil {
		m.ContentType = p.Properties.ContentType
		for _, u := range p.Properties.User {
			m.UserProperties = append(m.UserProperties, [2]string{u.Key, u.Value})
		}
	}
	return m
}
