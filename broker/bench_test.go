package broker

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
	"holdfast/uplink/wire"
)

// pipeline publishes with QoS 1 over a bare socket, at most window unacknowledged, until n are
// acknowledged.
func pipeline(c *rawClient, topic string, payload []byte, n, window int) error {
	credit := make(chan int, n+1)
	credit <- window
	fail := make(chan error, 1)
	go func() {
		fail <- countAcks(c, n, credit)
	}()
	var buf []byte
	id := uint16(0)
	for left := n; left > 0; {
		k, ok := <-credit
		if !ok {
			break
		}
		for more := true; more; {
			select {
			case m, ok := <-credit:
				k, more = k+m, ok
			default:
				more = false
			}
		}
		buf = buf[:0]
		for ; k > 0 && left > 0; k, left = k-1, left-1 {
			if id++; id == 0 {
				id = 1
			}
			buf = append(buf, c.publishPacket(topic, string(payload), 2, id, nil)...)
		}
		if _, err := c.nc.Write(buf); err != nil {
			return err
		}
	}
	return <-fail
}

// countAcks reads n successful PUBACKs and gives credit for what has come so far.
func countAcks(c *rawClient, n int, credit chan<- int) error {
	defer close(credit)
	r := bufio.NewReaderSize(c.nc, 32<<10)
	fresh := 0
	for seen := 0; seen < n; seen++ {
		var p [4]byte
		if _, err := io.ReadFull(r, p[:]); err != nil {
			return err
		}
		if p[0] != mqtt.PUBACK<<4 || p[1] != 2 {
			return fmt.Errorf("packet %x instead of a PUBACK", p)
		}
		if fresh++; r.Buffered() < 4 {
			credit <- fresh
			fresh = 0
		}
	}
	return nil
}

// ingest publishes b.N messages from so many publishers and reports the rate.
func ingest(b *testing.B, addr string, publishers, size, window int) {
	var clients []*rawClient
	for i := range publishers {
		c, _ := dialRaw(b, addr, fmt.Sprintf("bench-%d", i), opts{version: mqtt.V311, clean: true})
		clients = append(clients, c)
		defer c.disconnect()
	}
	payload := make([]byte, size)
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, c := range clients {
		n := b.N / publishers
		if i < b.N%publishers {
			n++
		}
		wg.Go(func() {
			if err := pipeline(c, fmt.Sprintf("bench/%d", i), payload, n, window); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkIngest: QoS 1, 256 B, no verification, no subscriber.
func BenchmarkIngest(b *testing.B) {
	for _, publishers := range []int{1, 50} {
		b.Run(fmt.Sprintf("holdfast-synced-%dpub", publishers), func(b *testing.B) {
			ingest(b, start(b, testConfig(b.TempDir())).addr, publishers, 256, 512)
		})
		b.Run(fmt.Sprintf("mosquitto-in-memory-%dpub", publishers), func(b *testing.B) {
			ingest(b, mosquitto(b), publishers, 256, 512)
		})
	}
}

// BenchmarkDeliver: QoS 1 from n publishers to one subscriber, until all have arrived.
func BenchmarkDeliver(b *testing.B) {
	for _, publishers := range []int{1, 50} {
		b.Run(fmt.Sprintf("holdfast-synced-%dpub", publishers), func(b *testing.B) {
			deliver(b, start(b, testConfig(b.TempDir())).addr, publishers)
		})
		b.Run(fmt.Sprintf("mosquitto-in-memory-%dpub", publishers), func(b *testing.B) {
			deliver(b, mosquitto(b), publishers)
		})
	}
}

func deliver(b *testing.B, addr string, publishers int) {
	sub, _ := dialRaw(b, addr, "bench-sub", opts{version: mqtt.V311, clean: true})
	defer sub.disconnect()
	sub.subscribe(1, "bench/#")
	got := make(chan int, 1)
	var acked atomic.Int64
	go func() {
		n := 0
		var acks []byte
		for n < b.N {
			p, err := sub.next()
			if err != nil {
				break
			}
			if p.kind != mqtt.PUBLISH {
				continue
			}
			n++
			m := p.message(mqtt.V311)
			acks = mqtt.AppendAck(acks, mqtt.PUBACK, mqtt.V311, m.id, 0, "")
			if sub.r.Buffered() == 0 || len(acks) > 1024 {
				if _, err := sub.nc.Write(acks); err != nil {
					break
				}
				acks = acks[:0]
			}
			acked.Add(1)
		}
		got <- n
	}()
	ingest(b, addr, publishers, 256, 512)
	var n int
	select {
	case n = <-got:
	case <-time.After(20 * time.Second):
		n = int(acked.Load())
		b.Logf("only %d of %d arrived", n, b.N)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "delivered/s")
	b.ReportMetric(100*float64(b.N-n)/float64(b.N), "%lost")
}

// mosquitto starts the peer on a free port, with more lines of settings.
func mosquitto(b testing.TB, more ...string) string {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		b.Fatal("mosquitto is missing: apt-get install mosquitto")
	}
	addr := freeport.Addr(b)
	_, port, _ := strings.Cut(addr, ":")
	conf := b.TempDir() + "/mosquitto.conf"
	text := fmt.Sprintf("listener %s 127.0.0.1\nmax_queued_messages 0\nmax_inflight_messages 0\n", port)
	if len(more) == 0 {
		text += "allow_anonymous true\n"
	}
	text += strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(path, "-c", conf)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(b, "mosquitto listens", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return addr
}

// BenchmarkVerifiedIngest: messages signed with Ed25519 from 50 gateways, each checked, entered
// into the ledger and synced. The yardsticks of the same run: the same messages without a check,
// and the check alone on all cores. ratio = (ingest time + check time) / verified ingest time;
// the goal is 0.8 or more.
func BenchmarkVerifiedIngest(b *testing.B) {
	const gateways = 50
	dir := b.TempDir()
	each := (b.N + gateways - 1) / gateways
	feeds, messages := signedFeeds(b, wire.Ed25519, dir, gateways, each)
	total := float64(gateways * each)
	b.ResetTimer()
	off := replayPackets(b, dir, feeds, func(c *Config) { c.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyOff}} })
	on := replayPackets(b, dir, feeds, func(c *Config) { c.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}} })
	check := verifyAll(b, dir, messages)
	b.ReportMetric(total/off.Seconds(), "unchecked/s")
	b.ReportMetric(total/on.Seconds(), "checked/s")
	b.ReportMetric(total/check.Seconds(), "check-alone/s")
	b.ReportMetric((off+check).Seconds()/on.Seconds(), "ratio")
}

// packetFeed is a gateway's PUBLISHes, and where each ends.
type packetFeed struct {
	data []byte
	ends []int
}

func signedFeeds(b *testing.B, alg, dir string, gateways, each int) (feeds []packetFeed, messages []wire.Message) {
	c := &rawClient{version: mqtt.V5}
	for g := range gateways {
		name := fmt.Sprintf("gw-%d", g)
		key := gatewayKeyOf(b, alg, dir, name)
		var f packetFeed
		for i := range each {
			m := sealedMessage(b, key, name, "00000000000000a1", i+1, float64(i))
			f.data = append(f.data, c.publishPacket(m.Topic, string(m.Payload), 2, uint16(i%60000+1), signedProps(m))...)
			f.ends = append(f.ends, len(f.data))
			messages = append(messages, m)
		}
		feeds = append(feeds, f)
	}
	return feeds, messages
}

// replayPackets publishes prepared packets from one connection per feed, 512 unacknowledged each.
func replayPackets(b *testing.B, keys string, feeds []packetFeed, change func(*Config)) time.Duration {
	cfg := testConfig(b.TempDir())
	change(&cfg)
	r := start(b, cfg)
	defer r.stop()
	if err := registerKeys(r.Registry(), keys); err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for i, f := range feeds {
		c, _ := dialRaw(b, r.addr, fmt.Sprintf("bench-%d", i), v5)
		defer c.disconnect()
		wg.Go(func() {
			if err := sendPrepared(c, f, 512); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

func sendPrepared(c *rawClient, f packetFeed, window int) error {
	n := len(f.ends)
	credit := make(chan int, n+1)
	credit <- window
	fail := make(chan error, 1)
	go func() { fail <- countAcks(c, n, credit) }()
	for at, from := 0, 0; at < n; {
		k, ok := <-credit
		if !ok {
			break
		}
		at = min(n, at+k)
		if _, err := c.nc.Write(f.data[from:f.ends[at-1]]); err != nil {
			return err
		}
		from = f.ends[at-1]
	}
	return <-fail
}

// verifyAll checks all messages on all cores, and nothing else.
func verifyAll(b *testing.B, keys string, messages []wire.Message) time.Duration {
	r := start(b, testConfig(b.TempDir()))
	defer r.stop()
	if err := registerKeys(r.Registry(), keys); err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(messages); i += workers {
				if _, err := wire.Verify(messages[i], r.Registry()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// BenchmarkRoundTrip: one publisher, one message at a time: the price of the sync.
func BenchmarkRoundTrip(b *testing.B) {
	for _, sync := range []string{SyncAlways, SyncInterval} {
		b.Run(sync, func(b *testing.B) {
			cfg := testConfig(b.TempDir())
			cfg.Store.Sync = sync
			r := start(b, cfg)
			c, _ := dialRaw(b, r.addr, "bench", v5)
			defer c.disconnect()
			payload := string(make([]byte, 256))
			b.ResetTimer()
			for i := range b.N {
				c.publish("bench", payload, uint16(i%60000+1))
			}
		})
	}
}
