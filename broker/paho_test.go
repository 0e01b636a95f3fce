package broker

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/eclipse/paho.golang/paho"
)

// TestPaho: the Go client of Eclipse Paho, every QoS in both directions, user properties on the way.
func TestPaho(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := make(chan *paho.Publish, 10)
	dial := func(id string) *paho.Client {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := paho.NewClient(paho.ClientConfig{Conn: nc, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) { got <- p.Packet; return true, nil }}})
		if _, err := c.Connect(ctx, &paho.Connect{ClientID: id, KeepAlive: 30, CleanStart: true}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Disconnect(&paho.Disconnect{}) })
		return c
	}
	sub, pub := dial("sub"), dial("pub")
	if _, err := sub.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "p/#", QoS: 2}}}); err != nil {
		t.Fatal(err)
	}
	for qos := range 3 {
		props := &paho.PublishProperties{ContentType: "text/plain"}
		props.User.Add("n", fmt.Sprint(qos))
		if _, err := pub.Publish(ctx, &paho.Publish{QoS: byte(qos), Topic: "p/q", Payload: []byte("hi"), Properties: props}); err != nil {
			t.Fatal(err)
		}
		select {
		case p := <-got:
			if int(p.QoS) != qos || string(p.Payload) != "hi" || p.Properties.ContentType != "text/plain" || p.Properties.User.Get("n") != fmt.Sprint(qos) {
				t.Errorf("%+v", p)
			}
		case <-ctx.Done():
			t.Fatal("nothing came")
		}
	}
}
