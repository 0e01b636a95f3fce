package broker

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/mqtt"
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

// mosquitto starts the peer on a free port.
func mosquitto(b testing.TB) string {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		b.Fatal("mosquitto is missing: apt-get install mosquitto")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := strings.Cut(addr, ":")
	conf := b.TempDir() + "/mosquitto.conf"
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n", port)
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
