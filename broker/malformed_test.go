package broker

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// TestMalformedPackets: whatever a client sends, in whatever state, ends no more than its own connection.
// Another client goes on all the time; afterwards the memory and the goroutines are back. Seeded:
// case n of a seed is always the same bytes. 100,000 cases with HOLDFAST_SOAK=1.
func TestMalformedPackets(t *testing.T) {
	const seed, workers = 7, 8
	n := 2000
	if os.Getenv("HOLDFAST_SOAK") != "" {
		n = 100_000
	}
	b := start(t, testConfig(t.TempDir()))
	witness(t, b.addr, func() {
		fuzzCases(t, b.addr, seed, workers, n/5) // what has a bound is full before the measurement
		fuzzed(t, b)
		goroutines, heap := runtime.NumGoroutine(), heapNow()
		fuzzCases(t, b.addr, seed+1, workers, n)
		fuzzed(t, b)
		eventually(t, "the goroutines are back", func() bool { return runtime.NumGoroutine() <= goroutines+workers })
		const spare = 64 << 20 // the engine's and the log's buffers, which have a bound
		eventually(t, "the memory is back", func() bool { return heapNow() < heap+spare })
		t.Logf("%d cases; heap %d KiB before, %d KiB after; %d panics", n, heap>>10, heapNow()>>10, b.stats.Panics.Load())
	})
	if p := b.stats.Panics.Load(); p != 0 {
		t.Errorf("%d panics were caught", p)
	}
}

// fuzzed waits until only the witness is connected.
func fuzzed(t *testing.T, b *running) {
	t.Helper()
	eventually(t, "every connection has ended", func() bool { return b.conns.size() == 1 })
}

func heapNow() uint64 {
	runtime.GC()
	runtime.GC() // pools give back at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// witness runs fn beside a client that publishes to itself.
func witness(t *testing.T, addr string, fn func()) {
	t.Helper()
	c, _ := dialRaw(t, addr, "witness", opts{clean: true})
	c.subscribe(1, "witness/own")
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := roundTrip(c, fmt.Sprint(i)); err != nil {
				done <- fmt.Errorf("round %d: %w", i, err)
				return
			}
		}
	}()
	fn()
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("the client beside: %v", err)
	}
}

// roundTrip publishes a message of its own and waits for it and its PUBACK.
func roundTrip(c *rawClient, payload string) error {
	if _, err := c.nc.Write(c.publishPacket("witness/own", payload, 2, 1, nil)); err != nil {
		return err
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	for acked, came := false, false; !acked || !came; {
		p, err := c.next()
		switch {
		case err != nil:
			return err
		case p.kind == mqtt.PUBACK:
			acked = true
		case p.kind == mqtt.PUBLISH:
			m := p.message(c.version)
			if came = m.payload == payload; !came {
				return fmt.Errorf("%q came instead of %q", m.payload, payload)
			}
			if _, err := c.nc.Write(mqtt.AppendAck(nil, mqtt.PUBACK, c.version, m.id, 0, "")); err != nil {
				return err
			}
		default:
			return fmt.Errorf("packet %d, % x", p.kind, p.body)
		}
	}
	return nil
}

func fuzzCases(t *testing.T, addr string, seed uint64, workers, n int) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && !t.Failed(); i += workers {
				f := &fuzzer{Rand: rand.New(rand.NewPCG(seed, uint64(i))), n: i}
				script := f.script()
				if err := f.play(addr, script); err != nil {
					t.Errorf("seed %d, case %d: %v\n%s", seed, i, err, hexLines(script))
				}
			}
		})
	}
	wg.Wait()
}

func hexLines(packets [][]byte) string {
	var s strings.Builder
	for _, p := range packets {
		s.WriteString(hex.EncodeToString(p[:min(len(p), 400)]) + "\n")
	}
	return s.String()
}

// fuzzer makes the packets of one case.
type fuzzer struct {
	*rand.Rand
	n       int
	version byte
}

// script is what one client sends, one write each: a state of the connection, and what is wrong.
func (f *fuzzer) script() [][]byte {
	f.version = []byte{mqtt.V5, mqtt.V5, mqtt.V311, mqtt.V31}[f.IntN(4)]
	connect := f.connect()
	if f.IntN(6) == 0 { // before CONNECT, or a CONNECT that is wrong itself
		if f.IntN(2) == 0 {
			return [][]byte{f.wrong(connect)}
		}
		return [][]byte{f.wrong(f.some())}
	}
	script := [][]byte{connect}
	for range f.IntN(4) {
		script = append(script, f.some())
	}
	for range 1 + f.IntN(2) {
		if f.IntN(3) == 0 {
			script = append(script, f.known())
		} else {
			script = append(script, f.wrong(f.some()))
		}
	}
	return script
}

// connect is a good CONNECT. There are few client ids: takeovers and resumed sessions are cases too.
func (f *fuzzer) connect() []byte {
	o := opts{version: f.version, clean: f.IntN(2) == 0, receive: uint16(f.IntN(3) * 7), keep: uint16(f.IntN(2) * 60)}
	if f.IntN(4) == 0 {
		o.expiry = 5
	}
	if f.IntN(3) == 0 {
		o.will = willOpts(f.version, byte(f.IntN(3)), false, uint32(f.IntN(2)), "fuzz/will", "gone")
	}
	p := connectPacket(fmt.Sprintf("fuzz-%d", f.IntN(16)), o)
	if f.version == mqtt.V31 {
		body := append(mqtt.AppendText(nil, "MQIsdp"), bytes.TrimPrefix(p[2:], mqtt.AppendText(nil, "MQTT"))...)
		return frame(mqtt.CONNECT<<4, body)
	}
	return p
}

// some is a good packet of any type a client may send, for the state that it makes.
func (f *fuzzer) some() []byte {
	c := &rawClient{version: f.version}
	id := uint16(1 + f.IntN(4))
	filter := func(body []byte) []byte {
		return mqtt.AppendText(body, []string{"fuzz/#", "fuzz/+/a", "$share/g/fuzz/#", "fuzz/a", "#"}[f.IntN(5)])
	}
	switch f.IntN(12) {
	case 0, 1, 2:
		props := [][]byte{nil, {35, 0, 1}, {1, 1}, {2, 0, 0, 0, 9}, {3, 0, 1, 'c'}, {8, 0, 1, 'r'}, {9, 0, 1, 'd'}, {38, 0, 1, 'k', 0, 1, 'v'}}[f.IntN(8)]
		return c.publishPacket([]string{"fuzz/a", "fuzz/a/b", "fuzz/ä"}[f.IntN(3)], strings.Repeat("x", f.IntN(300)), byte(f.IntN(3))<<1, id, props)
	case 3:
		return frame(mqtt.SUBSCRIBE<<4|2, append(filter(c.props([]byte{0, byte(id)}, [][]byte{nil, {11, 5}}[f.IntN(2)])), byte(f.IntN(3))))
	case 4:
		return frame(mqtt.UNSUBSCRIBE<<4|2, filter(c.props([]byte{0, byte(id)}, nil)))
	case 5:
		return []byte{mqtt.PINGREQ << 4, 0}
	case 6:
		return frame(mqtt.DISCONNECT<<4, [][]byte{nil, {4}, {0, 5, 17, 0, 0, 0, 9}}[f.IntN(3)])
	case 7:
		return frame(mqtt.AUTH<<4, [][]byte{nil, {0x18, 0}, {0x19, 4, 21, 0, 1, 'm'}}[f.IntN(3)])
	default:
		kind := []byte{mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP}[f.IntN(4)]
		return mqtt.AppendAck(nil, kind, f.version, id, []byte{0, 0, 0x80}[f.IntN(3)], []string{"", "why"}[f.IntN(2)])
	}
}

// wrong spoils a packet: its bytes, its length, its end.
func (f *fuzzer) wrong(p []byte) []byte {
	p = bytes.Clone(p)
	for range 1 + f.IntN(3) {
		switch at := f.IntN(len(p)); f.IntN(9) {
		case 0:
			p[at] ^= 1 << f.IntN(8)
		case 1:
			p[at] = byte(f.Uint32())
		case 2:
			p[at] = []byte{0, 0x7F, 0x80, 0xFF, '#', '+', '$', 35, 11, 38}[f.IntN(10)]
		case 3: // cut off, and the length agrees
			p = reframed(p[:max(2, at)])
		case 4: // cut off, and the length does not
			p = p[:at+1]
		case 5: // a piece twice
			to := at + f.IntN(len(p)-at)
			p = reframed(append(p[:to:to], p[at:]...))
		case 6: // more than there was
			more := make([]byte, f.IntN(64))
			for i := range more {
				more[i] = byte(f.Uint32())
			}
			p = reframed(append(p, more...))
		case 7: // lengths: huge, not the shortest, endless
			lengths := [][]byte{{0xFF, 0xFF, 0xFF, 0x7F}, {0x80, 0x80, 0x01}, {0x80, 0}, {0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, {0xFB, 0xFF, 0x3F}}
			p = append(append([]byte{p[0]}, lengths[f.IntN(len(lengths))]...), p[1:]...)
		case 8:
			p[0] ^= byte(f.Uint32())
		}
	}
	return p
}

// reframed sets the remaining length to what follows it, if the packet is a short one.
func reframed(p []byte) []byte {
	if len(p) < 2 || p[1] >= 0x80 {
		return p
	}
	return frame(p[0], p[2:])
}

// known is one of the classics.
func (f *fuzzer) known() []byte {
	good := (&rawClient{version: f.version}).publishPacket("fuzz/a", "x", 2, 1, nil)
	list := append(classics(), good[:len(good)-1])
	return list[f.IntN(len(list))]
}

// classics are single packets with one mistake each.
func classics() (list [][]byte) {
	for _, h := range []string{
		"82 06 0001 00 0001 61",                                // SUBSCRIBE without its options: the end of another broker
		"30 ffffff7f", "30 ffffffffff", "30 808001", "30 8000", // lengths
		"30 06 0003 612f23 00", "30 05 0002 c328 00", "30 07 0004 6100c3a4 00", "30 05 0002 ff61 00", "30 03 0000 00", // topics
		"32 06 0001 61 0000 00", "36 06 0001 61 0001 00", "38 04 0001 61 00", // packet id 0, QoS 3, DUP of QoS 0
		"30 07 0001 61 03 23 0000", "30 07 0001 61 03 23 ffff", "30 06 0000 03 23 0009", // aliases 0, too large, unknown
		"30 08 0001 61 04 0101 0101", "30 06 0001 61 02 0b01", "30 06 0001 61 02 0107", "30 06 0001 61 7f 0101", // properties
		"82 09 0001 02 0b00 0001 61 00", "82 0c 0001 05 0bffffff7f 0001 61 00", "82 0c 0001 05 0b80808001 0001 61 00", // subscription ids
		"82 0d 0001 06 0bffffffff01 0001 61 00", "82 03 0001 00", "82 07 0000 00 0001 61 00", "82 07 0001 00 0001 23 ff", "80 07 0001 00 0001 61 00",
		"82 0c 0001 00 0006 24736861 7265 00", "82 10 0001 00 000a 24736861 72652f2f 6161 00", "82 06 0001 00 0000 00", // SUBSCRIBE
		"a2 03 0001 00", "a2 05 0001 00 0000", "a2 06 0000 00 0001 61", "a2 07 0001 00 0002 2361", // UNSUBSCRIBE
		"62 02 0000", "40 02 0000", "40 03 0001 23", "40 04 0001 ff 00", "60 02 0001", "62 05 0001 00 7f 00", "50 01 00", // acknowledgements
		"e0 02 04 7f", "e0 07 00 05 11 00000001", "e0 07 00 05 1c 0002 6161", "e2 00", // DISCONNECT
		"f0 00", "f0 04 18 02 1500", "00 00", "20 02 0000", "d0 00", "c0 01 00", // types a client does not send
		"10 10 0004 4d515454 05 02 003c 00 0003 616263", "10 0f 0004 4d515454 04 02 003c 0003 616263", // a second CONNECT
	} {
		p, err := hex.DecodeString(strings.ReplaceAll(h, " ", ""))
		if err != nil {
			panic(h)
		}
		list = append(list, p)
	}
	return list
}

// play sends the script and waits until the broker has closed the connection.
func (f *fuzzer) play(addr string, script [][]byte) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+f.n%200))}} // ports enough
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return fmt.Errorf("the broker takes no connection: %w", err)
	}
	defer nc.Close()
	tcp := nc.(*net.TCPConn)
	if f.IntN(8) == 0 { // it is gone before it reads anything
		_ = tcp.SetLinger(0)
		_, _ = nc.Write(bytes.Join(script, nil))
		return nil
	}
	for _, p := range script {
		if _, err := nc.Write(p); err != nil {
			break // closed already
		}
	}
	_ = tcp.CloseWrite()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	_, err = io.Copy(io.Discard, nc)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the broker keeps a connection whose client has ended")
	}
	return nil
}
