package uplink

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// BenchmarkDrainMosquitto drains a backlog of b.N messages of 256 B into mosquitto,
// and in the same run gives the same number to the same broker through a bare socket
// that keeps its Receive Maximum full. The ratio of the two is reported.
//
//	go test -run '^$' -bench DrainMosquitto -benchtime 1000000x ./uplink
func BenchmarkDrainMosquitto(b *testing.B) {
	for _, scheme := range []string{"mqtt", "mqtts"} {
		for _, window := range []int{20, 1000} {
			b.Run(fmt.Sprintf("%s/window=%d", scheme, window), func(b *testing.B) { benchDrain(b, scheme, window) })
		}
	}
}

func benchDrain(b *testing.B, scheme string, window int) {
	listener, cfg, tc := "", Config{Servers: []string{""}, Window: window}, (*tls.Config)(nil)
	if scheme == "mqtts" {
		pki := newPKI(b)
		listener = pki.listener()
		cfg.CAFile = pki.ca
		tc, _ = cfg.tls("127.0.0.1", nil)
	}
	m := newMosquitto(b, fmt.Sprintf("max_inflight_messages %d\nmax_queued_messages 0", window), listener)
	m.start()
	defer m.kill()
	cfg.Servers[0] = scheme + "://" + m.addr

	drain := func(n int) time.Duration {
		src := newSource(func(pos uint64) []byte { return blobOf("gw/t/dev", pos, 256-8) })
		src.acked = nil // a map of a million is not what is measured
		src.add(n)
		start := time.Now()
		u := run(b, cfg, Options{Source: src}, defaultTuning())
		within(b, 10*time.Minute, src.drained(), "drained")
		d := time.Since(start)
		u.stop()
		return d
	}
	raw := func(n int) time.Duration {
		d, err := rawDrain(m.addr, tc, window, n)
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
	// Parts alternate, so that both see the same machine.
	const parts = 4
	var ours, bare time.Duration
	n := max(1, b.N/parts)
	for range parts {
		bare += raw(n)
		ours += drain(n)
	}
	total := float64(n * parts)
	b.ReportMetric(total/ours.Seconds(), "msg/s")
	b.ReportMetric(total/bare.Seconds(), "raw-msg/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// rawDrain is the yardstick: hand-made PUBLISH packets of the same size on a socket,
// the window full all the time, PUBACKs read concurrently.
func rawDrain(addr string, tc *tls.Config, window, n int) (time.Duration, error) {
	var c net.Conn
	var err error
	if tc != nil {
		c, err = tls.Dial("tcp", addr, tc)
	} else {
		c, err = net.Dial("tcp", addr)
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	connect := &packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "raw", CleanStart: true, Properties: &packets.Properties{}}
	if _, err := connect.WriteTo(c); err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	if p, err := packets.ReadPacket(r); err != nil || p.Content.(*packets.Connack).ReasonCode != 0 {
		return 0, fmt.Errorf("CONNACK: %v %w", p, err)
	}
	m, _ := openBlob(blobOf("gw/t/dev", 1, 256-8))
	pub := &packets.Publish{Topic: m.Topic, Payload: m.Payload, QoS: 1, PacketID: 1, Properties: &packets.Properties{ContentType: m.ContentType}}
	for _, kv := range m.UserProperties {
		pub.Properties.User = append(pub.Properties.User, packets.User{Key: kv[0], Value: kv[1]})
	}
	var one wire
	if _, err := pub.WriteTo(&one); err != nil {
		return 0, err
	}
	idAt := 1 + varintSize(len(one)) + 2 + len(m.Topic)

	start := time.Now()
	slots := make(chan struct{}, window)
	failed := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(c, 64<<10)
		for i := range n {
			select {
			case slots <- struct{}{}:
			default:
				if err := w.Flush(); err != nil {
					failed <- err
					return
				}
				slots <- struct{}{}
			}
			binary.BigEndian.PutUint16(one[idAt:], uint16(i%window+1))
			if _, err := w.Write(one); err != nil {
				failed <- err
				return
			}
		}
		failed <- w.Flush()
	}()
	var ack [2]byte
	for range n {
		if _, err := io.ReadFull(r, ack[:]); err != nil {
			return 0, errors.Join(err, c.Close())
		}
		if _, err := r.Discard(int(ack[1])); err != nil {
			return 0, err
		}
		<-slots
	}
	return time.Since(start), <-failed
}

type wire []byte

func (w *wire) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
