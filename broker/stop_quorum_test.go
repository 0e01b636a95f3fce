package broker

import (
	"sync"
	"testing"

	"holdfast/broker/mqtt"
)

// TestStopWithoutQuorum: a node that is told to stop when the others are gone stops, also while a QoS 2 message waits for its packet
// identifier to be stored, which it never is.
func TestStopWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	sub, _ := dialRaw(t, c.up[0].addr, "reader", opts{version: 5, expiry: 3600, receive: 1})
	sub.subscribe(2, "q/#")
	pub, _ := dialRaw(t, c.up[0].addr, "writer", opts{version: 5, clean: true})
	pub.publish("q/x", "first", 1)
	pub.write(pub.publishPacket("q/x", "second", 4, 2, nil))
	pub.expect(mqtt.PUBREC)
	pub.ack(mqtt.PUBREL, 2)
	pub.expect(mqtt.PUBCOMP)
	first := sub.message()
	if first.payload != "first" || first.qos != 1 {
		t.Fatalf("%+v", first)
	}
	var ending sync.WaitGroup
	for _, i := range []int{1, 2} {
		ending.Go(c.up[i].stop)
	}
	ending.Wait()
	c.up[1], c.up[2] = nil, nil
	sub.ack(mqtt.PUBACK, first.id) // there is room for the second one
	s := c.up[0].sessions.get("reader")
	eventually(t, "the second message is about to leave", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.inflight {
			if f.QoS == 2 {
				return true
			}
		}
		return false
	})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.up[0].stop()
	}()
	eventually(t, "the node stops", func() bool {
		select {
		case <-stopped:
			return true
		default:
			return false
		}
	})
	c.up[0] = nil
}
