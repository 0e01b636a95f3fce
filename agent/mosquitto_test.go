package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"holdfast/systemd/freeport"
	"holdfast/uplink/wire"
)

// mosquitto starts a broker of Debian's package mosquitto that ends with the test, and
// returns its address. It keeps its sessions in memory, without bounds.
func mosquitto(t testing.TB) string {
	t.Helper()
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			t.Fatal("this test needs the Debian package mosquitto")
		}
	}
	addr := freeport.Addr(t)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	_, port, _ := net.SplitHostPort(addr)
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

// patience bounds what a test waits for, on the slowest machine. It costs nothing when all is well.
const patience = 5 * time.Minute

// eventually polls a condition that nothing announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !settled(cond) {
		t.Fatalf("not within %s: %s", patience, what)
	}
}

// settled polls a condition for at most patience.
func settled(cond func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			return false
		case <-tick.C:
		}
	}
	return true
}

// arrival is a message as the subscriber got it.
type arrival struct {
	wire.Message
	header wire.Verified
	pack   wire.Pack
	err    error
}

// subscriber collects everything below gw/ and verifies it.
type subscriber struct {
	keys wire.Keys

	mu  sync.Mutex
	got []arrival
}

// anyKey trusts the keys it was told of, of every gateway.
type anyKey struct {
	mu   sync.Mutex
	keys map[string]wire.PublicKey
}

func (k *anyKey) trust(p wire.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string]wire.PublicKey{}
	}
	k.keys[p.Kid()] = p
}

func (k *anyKey) Key(_, kid string) (wire.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p, ok := k.keys[kid]; ok {
		return p, nil
	}
	return wire.PublicKey{}, wire.ErrUnknownKey
}

// subscribe connects to addr until the test ends.
func subscribe(t testing.TB, addr string, keys wire.Keys) *subscriber {
	t.Helper()
	s := &subscriber{keys: keys}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(p paho.PublishReceived) (bool, error) { s.take(p.Packet); return true, nil },
	}})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := c.Connect(ctx, &paho.Connect{ClientID: "subscriber", CleanStart: true, KeepAlive: 600}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "gw/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Disconnect(&paho.Disconnect{}); <-c.Done() })
	return s
}

func (s *subscriber) take(p *paho.Publish) {
	a := arrival{Message: wire.Message{Topic: p.Topic, Payload: append([]byte(nil), p.Payload...)}}
	if p.Properties != nil {
		a.ContentType = p.Properties.ContentType
		a.JWS = p.Properties.User.Get(wire.PropertyJWS)
	}
	if a.header, a.err = wire.Verify(a.Message, s.keys); a.err == nil {
		a.pack, a.err = wire.Decode(a.Message)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, a)
}

func (s *subscriber) all() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival(nil), s.got...)
}

// data returns the messages of one device, each number once, in order of arrival; and
// how many came more than once.
func (s *subscriber) data(t testing.TB, device string) (unique []arrival, duplicates int) {
	t.Helper()
	type number struct {
		epoch string
		seq   uint64
	}
	seen := map[number][32]byte{}
	for _, a := range s.all() {
		if a.err != nil {
			t.Fatalf("message on %s does not verify: %v", a.Topic, a.err)
		}
		if a.header.Device != device {
			continue
		}
		n := number{a.header.Epoch, a.header.Seq}
		hash, known := seen[n]
		switch {
		case known && hash != a.header.Hash:
			t.Fatalf("%s %s/%d came with two contents", device, n.epoch, n.seq)
		case known:
			duplicates++
		default:
			seen[n] = a.header.Hash
			unique = append(unique, a)
		}
	}
	return unique, duplicates
}

// numbers returns the values of metric "n" of a device in order of arrival.
func (s *subscriber) numbers(t testing.TB, device string) (out []int) {
	t.Helper()
	unique, _ := s.data(t, device)
	for _, a := range unique {
		for _, r := range a.pack.Records {
			if r.Name == "n" && r.V != nil {
				out = append(out, int(*r.V))
			}
		}
	}
	return out
}
