package holdfast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keptPacket is a CONNECT of MQTT 5 for a session that outlives its connection.
func keptPacket(id string) []byte {
	body := append([]byte("\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0e\x10"), byte(len(id)>>8), byte(len(id)))
	return append([]byte{0x10, byte(len(body) + len(id))}, append(body, id...)...)
}

// traffic is one client that publishes numbers with QoS 1 through the balancer, and some whose sessions have
// to get every one of them, in order, whatever becomes of their nodes.
type traffic struct {
	t      *testing.T
	f      *fleet
	sent   atomic.Int64 // numbers that were acknowledged: 1 to sent
	stop   chan struct{}
	ending atomic.Bool
	tasks  sync.WaitGroup
	ended  sync.Once
	subs   []*reader
}

type reader struct {
	id       string
	open     func() (net.Conn, error)
	got      atomic.Int64 // the numbers 1 to got have come
	again    atomic.Int64 // deliveries of numbers that had come before
	sessions atomic.Int64 // connections after the first
	told     atomic.Int64 // of them: after DISCONNECT 0x9C
}

// startTraffic begins; the readers' subscriptions are there when it returns.
func (f *fleet) startTraffic(t *testing.T, publisher func() (net.Conn, error), readers map[string]func() (net.Conn, error)) *traffic {
	tr := &traffic{t: t, f: f, stop: make(chan struct{})}
	t.Cleanup(tr.end)
	ready := make(chan struct{}, len(readers))
	for id, open := range readers {
		r := &reader{id: id, open: open}
		tr.subs = append(tr.subs, r)
		tr.tasks.Go(func() { tr.read(r, ready) })
	}
	for range readers {
		select {
		case <-ready:
		case <-time.After(5 * time.Minute):
			t.Fatal("the readers do not come to subscribe")
		}
	}
	tr.tasks.Go(func() { tr.publish(publisher) })
	return tr
}

// end stops everybody.
func (tr *traffic) end() {
	tr.ended.Do(func() {
		tr.ending.Store(true)
		close(tr.stop)
		tr.tasks.Wait()
	})
}

// goOn waits until every reader has got so many numbers more.
func (tr *traffic) goOn(n int64) {
	tr.t.Helper()
	for _, r := range tr.subs {
		from := r.got.Load()
		eventually(tr.t, r.id+" gets the next messages", func() error {
			if got := r.got.Load(); got < from+n {
				return fmt.Errorf("%d came, then %d; %d were acknowledged", from, got-from, tr.sent.Load())
			}
			return nil
		})
	}
}

// all ends the publishing and waits until every reader has got every number.
func (tr *traffic) all() {
	tr.t.Helper()
	tr.ending.Store(true)
	for _, r := range tr.subs {
		eventually(tr.t, r.id+" gets all", func() error {
			if got := r.got.Load(); got < tr.sent.Load() {
				return fmt.Errorf("%d of %d messages that were acknowledged", got, tr.sent.Load())
			}
			return nil
		})
	}
	for _, r := range tr.subs {
		tr.t.Logf("%s got all %d messages over %d further connections, %d deliveries came again", r.id, tr.sent.Load(), r.sessions.Load(), r.again.Load())
	}
	tr.end()
}

// on connects a session again and again until stop, and runs fn with each connection. present is what the
// CONNACK said.
func (tr *traffic) on(id string, open func() (net.Conn, error), fn func(c *mqttClient, present bool) error) {
	for {
		err := func() error {
			nc, err := open()
			c, present, err := connectKept(nc, err, id)
			if err != nil {
				return err
			}
			defer c.Close()
			done := make(chan struct{})
			defer close(done)
			go func() { // wakes a reader that waits
				select {
				case <-tr.stop:
					c.Close()
				case <-done:
				}
			}()
			return fn(c, present)
		}()
		select {
		case <-tr.stop:
			return
		case <-time.After(50 * time.Millisecond): // a balancer needs a moment to see what is gone
		}
		if errors.Is(err, errFatal) {
			tr.t.Error(err)
			return
		}
	}
}

// errFatal: to try again would hide a mistake.
var errFatal = errors.New("not as it has to be")

func connectKept(nc net.Conn, err error, id string) (c *mqttClient, present bool, _ error) {
	if err != nil {
		return nil, false, err
	}
	c = newClient(nc, id)
	_, err = nc.Write(keptPacket(id))
	var kind byte
	var body []byte
	if err == nil {
		kind, body, err = c.next(2 * time.Minute)
	}
	if err == nil && (kind != 2 || body[1] != 0) {
		err = fmt.Errorf("packet %d: %q", kind, body)
	}
	if err != nil {
		nc.Close()
		return nil, false, err
	}
	return c, body[0] == 1, nil
}

// publish sends numbers, each until it is acknowledged.
func (tr *traffic) publish(open func() (net.Conn, error)) {
	tr.on("publisher", open, func(c *mqttClient, _ bool) error {
		for again := byte(8); !tr.ending.Load(); again = 0 { // the first one may have been sent on the last connection
			n := strconv.FormatInt(tr.sent.Load()+1, 10)
			body := append([]byte("\x00\x07numbers\x00\x01\x00"), n...)
			if _, err := c.Write(append([]byte{0x32 | again, byte(len(body))}, body...)); err != nil {
				return err
			}
			kind, body, err := c.next(2 * time.Minute)
			switch {
			case err != nil:
				return err
			case kind != 4:
				return fmt.Errorf("packet %d instead of PUBACK", kind)
			case len(body) > 2 && body[2] >= 0x80:
				return fmt.Errorf("refused with 0x%02X", body[2])
			}
			tr.sent.Add(1)
			select {
			case <-tr.stop:
			case <-time.After(5 * time.Millisecond):
			}
		}
		<-tr.stop
		return nil
	})
}

// read subscribes once and acknowledges what comes.
func (tr *traffic) read(r *reader, ready chan<- struct{}) {
	first := true
	tr.on(r.id, r.open, func(c *mqttClient, present bool) error {
		if first != !present {
			return fmt.Errorf("%w: %s: session present is %v, first connection %v", errFatal, r.id, present, first)
		}
		if first {
			if _, err := c.Write([]byte("\x82\x0d\x00\x01\x00\x00\x07numbers\x01")); err != nil {
				return err
			}
			if kind, _, err := c.next(2 * time.Minute); err != nil || kind != 9 {
				return fmt.Errorf("%w: packet %d instead of SUBACK: %w", errFatal, kind, err)
			}
			first = false
			ready <- struct{}{}
		} else {
			r.sessions.Add(1)
		}
		for {
			kind, body, err := c.next(300 * time.Second)
			switch {
			case err != nil:
				return err
			case kind == 14 && len(body) > 0 && body[0] == 0x9C:
				r.told.Add(1)
				return nil
			case kind != 3:
				return fmt.Errorf("packet %d", kind)
			}
			if err := r.take(c, body); err != nil {
				return err
			}
		}
	})
}

// take is one PUBLISH with QoS 1 on the topic "numbers".
func (r *reader) take(c *mqttClient, body []byte) error {
	const topic = 2 + len("numbers")
	id := body[topic : topic+2]
	props, n := binary.Uvarint(body[topic+2:])
	number, err := strconv.ParseInt(string(body[topic+2+n+int(props):]), 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %w", errFatal, err)
	}
	switch got := r.got.Load(); {
	case number == got+1:
		r.got.Store(number)
	case number <= got:
		r.again.Add(1)
	default:
		return fmt.Errorf("%w: %s got %d behind %d", errFatal, r.id, number, got)
	}
	_, err = c.Write([]byte{0x40, 2, id[0], id[1]})
	return err
}
