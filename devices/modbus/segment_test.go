package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/devices"
)

func TestMain(m *testing.M) {
	if r, w, err := os.Pipe(); err == nil { // the runtime's own descriptors are there before any test counts them
		r.Close()
		w.Close()
	}
	code := m.Run()
	if compiled.dir != "" {
		os.RemoveAll(compiled.dir)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bubble is the clock of a synctest bubble: it moves when everybody waits.
type bubble struct{ start time.Time }

func newBubble() bubble                                 { return bubble{time.Now().Add(-time.Hour)} }
func (b bubble) Now() devices.Instant                   { return time.Since(b.start) }
func (b bubble) After(d time.Duration) <-chan time.Time { return time.After(d) }

// burst is something that comes over the line a while after a request.
type burst struct {
	after time.Duration
	data  []byte
}

// segment is a serial line with slaves on it, without hardware: it takes the frames of
// the driver and gives what the slaves say, each when its time has come.
type segment struct {
	clock devices.Clock

	mu     sync.Mutex
	slaves map[byte]slaveFunc
	links  []*segmentLink
	absent error // the line cannot be opened
	asked  map[byte]int
	wait   sync.WaitGroup
}

// slaveFunc answers a PDU.
type slaveFunc func(pdu []byte) []burst

func newSegment(clock devices.Clock) *segment {
	return &segment{clock: clock, slaves: map[byte]slaveFunc{}, asked: map[byte]int{}}
}

// driver is a driver whose every bus is this segment.
func (s *segment) driver() *Driver {
	d := NewDriver()
	d.opener = func(busConfig, devices.Clock) opener {
		return func(context.Context) (link, string, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.absent != nil {
				return nil, "", s.absent
			}
			l := &segmentLink{segment: s, inbox: newInbox(), gone: make(chan struct{})}
			s.links = append(s.links, l)
			return l, "", nil
		}
	}
	return d
}

// cut takes the line away until it is restored.
func (s *segment) cut(err error) {
	s.mu.Lock()
	s.absent = err
	links := s.links
	s.links = nil
	s.mu.Unlock()
	for _, l := range links {
		l.inbox.fail(err)
	}
}

func (s *segment) restore() { s.mu.Lock(); s.absent = nil; s.mu.Unlock() }

func (s *segment) set(slave byte, f slaveFunc) { s.mu.Lock(); s.slaves[slave] = f; s.mu.Unlock() }

type segmentLink struct {
	*segment
	inbox *inbox
	gone  chan struct{}
	once  sync.Once
}

func (l *segmentLink) in() *inbox { return l.inbox }
func (l *segmentLink) discard()   {}
func (l *segmentLink) close()     { l.once.Do(func() { close(l.gone) }); l.wait.Wait() }

func (l *segmentLink) send(_ context.Context, frame []byte) error {
	if !goodRTU(frame) {
		panic(fmt.Sprintf("the driver sent a bad frame: %x", frame))
	}
	now := l.clock.Now()
	l.mu.Lock()
	l.asked[frame[0]]++
	f := l.slaves[frame[0]]
	l.mu.Unlock()
	if f == nil {
		return nil
	}
	for _, b := range f(frame[1 : len(frame)-2]) {
		if b.after <= 0 {
			l.inbox.put(b.data, now)
			continue
		}
		l.wait.Go(func() {
			select {
			case <-l.clock.After(b.after):
				l.inbox.put(b.data, l.clock.Now())
			case <-l.gone:
			}
		})
	}
	return nil
}

// registers answers reads of holding and input registers: register a of slave s is what
// value says. Others get exception 1.
func registers(slave byte, latency time.Duration, value func(address uint16) (uint16, bool)) slaveFunc {
	return func(pdu []byte) []burst {
		address, quantity := binary.BigEndian.Uint16(pdu[1:]), binary.BigEndian.Uint16(pdu[3:])
		answer := []byte{slave, pdu[0], byte(2 * quantity)}
		if pdu[0] != byte(readHoldings) && pdu[0] != byte(readInputs) {
			answer = []byte{slave, pdu[0] | exceptionBit, 1}
		} else {
			for a := range quantity {
				v, ok := value(address + a)
				if !ok {
					answer = []byte{slave, pdu[0] | exceptionBit, byte(illegalAddress)}
					break
				}
				answer = binary.BigEndian.AppendUint16(answer, v)
			}
		}
		return []burst{{latency, binary.LittleEndian.AppendUint16(answer, crc16(answer))}}
	}
}

// plainly: register a of slave s holds 100·s + a.
func plainly(slave byte) func(uint16) (uint16, bool) {
	return func(a uint16) (uint16, bool) { return 100*uint16(slave) + a, true }
}

// holding is settings that read n single holding registers from address on.
func holding(slave int, interval time.Duration, address, n int) *Settings {
	s := defaults()
	s.Port, s.Baud, s.Frame, s.Slave = "/dev/serial/by-id/usb-x", 115200, "8N1", slave
	g := Group{Interval: interval}
	for i := range n {
		a := address + i
		g.Registers = append(g.Registers, Register{Metric: fmt.Sprintf("r%d", a), Address: &a})
	}
	s.Groups = []Group{g}
	return s
}

// sink keeps what was emitted.
type sink struct {
	mu       sync.Mutex
	readings []devices.Reading
	counts   map[string]uint64
	hold     bool
	keep     func(devices.Reading) // instead of readings
}

func (s *sink) Emit(r ...devices.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keep == nil {
		s.readings = append(s.readings, r...)
		return
	}
	for _, x := range r {
		s.keep(x)
	}
}
func (s *sink) Hold() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.hold }
func (s *sink) Count(c string, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[string]uint64{}
	}
	s.counts[c] += n
}
func (s *sink) count(c string) uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.counts[c] }
func (s *sink) all() []devices.Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]devices.Reading(nil), s.readings...)
}

// only is the readings of one metric, as "value@seconds" since the start or "reason@…".
func (s *sink) only(metric string) (out []string) {
	for _, r := range s.all() {
		if r.Metric == metric {
			v := fmt.Sprint(r.Value.Num)
			if r.Quality != devices.Good {
				v = r.Reason
			}
			out = append(out, fmt.Sprintf("%s@%v", v, (r.At-time.Hour).Round(time.Millisecond)))
		}
	}
	return out
}

// rig is devices of one driver that run in a bubble.
type rig struct {
	t      *testing.T
	clock  devices.Clock
	driver *Driver
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newRig(t *testing.T, clock devices.Clock, d *Driver) *rig {
	r := &rig{t: t, clock: clock, driver: d}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *rig) start(s *Settings) (*sink, *Device) {
	r.t.Helper()
	k := &sink{}
	return k, r.run(s, k)
}

func (r *rig) startInto(s *Settings, k *sink) *sink {
	r.t.Helper()
	r.run(s, k)
	return k
}

func (r *rig) run(s *Settings, k *sink) *Device {
	r.t.Helper()
	dev, err := r.driver.New(s, devices.Env{Name: fmt.Sprint("d", s.Slave), Clock: r.clock, Log: slog.New(slog.DiscardHandler), Seed: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	r.done.Go(func() {
		if err := dev.Run(r.ctx, k); err != context.Canceled {
			r.t.Errorf("Run: %v", err)
		}
	})
	return dev.(*Device)
}

func (r *rig) stop() { r.cancel(); r.done.Wait() }

func listen(t *testing.T) (net.Listener, error) {
	t.Helper()
	return net.Listen("tcp", "127.0.0.1:0") // kept open: nobody else can get it
}
