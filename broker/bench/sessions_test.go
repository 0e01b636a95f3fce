package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	resumeSessions = 5000
	resumeBacklog  = 100_000 // messages over all of them
	resumeWorkers  = 500     // clients that come at once
	offlineQueue   = 1_000_000
)

// BenchmarkClusterResume is how many sessions with a filter each of their own come back in a second, get all that they
// missed of a backlog of 100,000 messages, and have acknowledged it: at the node where they were, and at another.
func BenchmarkClusterResume(b *testing.B) {
	program := broker(b)
	for _, at := range []struct {
		name string
		node int
	}{{"same-node", 0}, {"another-node", 1}} {
		b.Run(at.name, func(b *testing.B) {
			s := holdfast(b, program, 3)
			s.run(b)
			for b.Loop() {
				s.eachSession(b, func(i int) error { return s.leaveSession(i) })
				s.fill(b, 0, resumeBacklog, resumeSessions)
				begin, used, load := time.Now(), s.spent(b), spent(b, os.Getpid())
				s.eachSession(b, func(i int) error { return s.resume(at.node, i, resumeBacklog/resumeSessions) })
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(resumeSessions/time.Since(begin).Seconds(), "sessions/s")
				b.ReportMetric(float64((s.spent(b)-used).Microseconds())/resumeSessions, "cpu-µs/session")
				b.ReportMetric(float64((spent(b, os.Getpid())-load).Microseconds())/resumeSessions, "load's-cpu-µs/session")
			}
		})
	}
}

// eachSession does something for all sessions, so many at a time.
func (s *system) eachSession(b *testing.B, do func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range resumeWorkers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < resumeSessions && !b.Failed(); i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					b.Errorf("session %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func (s *system) leaveSession(i int) error {
	c, err := s.insist(0, fmt.Sprint("s", i), session{clean: true, keep: true})
	if err != nil {
		return err
	}
	defer c.bye()
	return c.subscribe(fmt.Sprint("r/", i), 1)
}

// insist connects, and tries again while the node says that it takes nobody now: on a machine that is too busy it does.
func (s *system) insist(node int, id string, kind session) (*client, error) {
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := dial(s.on(node), id, protocol5, kind)
		if !errors.Is(err, errRefused) || time.Now().After(end) {
			return c, err
		}
		sleep(nil, 100*time.Millisecond)
	}
}

// fill publishes n messages round robin to so many topics, with QoS 1, from one connection.
func (s *system) fill(b *testing.B, node, n, topics int) {
	b.Helper()
	c, err := dial(s.on(node), fmt.Sprint("filler-", runs.Add(1)), protocol5, clean)
	if err != nil {
		b.Fatal(err)
	}
	defer c.bye()
	free := make(chan int, n)
	free <- 1000
	failed := make(chan error, 1)
	go func() {
		p := publisher{c: c}
		for range n {
			if kind, err := p.ack(); err != nil || kind != 0x40 {
				failed <- fmt.Errorf("packet %x instead of a PUBACK: %w", kind, err)
				return
			}
			free <- 1
		}
		failed <- nil
	}()
	var buf []byte
	left := 0
	p := make([]*publisher, topics)
	for i := range n {
		if left == 0 {
			if _, err := c.nc.Write(buf); err != nil {
				b.Fatal(err)
			}
			buf = buf[:0]
			select {
			case left = <-free:
			case err := <-failed:
				b.Fatal(err)
			}
			for more := true; more; {
				select {
				case k := <-free:
					left += k
				default:
					more = false
				}
			}
		}
		t := i % topics
		if p[t] == nil {
			p[t] = newPublisher(c, fmt.Sprint("r/", t), uint32(t), 0)
		}
		at := len(buf)
		buf = p[t].put(buf, now())
		binary.BigEndian.PutUint16(buf[at+p[t].idAt:], uint16(i%60000)+1)
		left--
	}
	if _, err := c.nc.Write(buf); err != nil {
		b.Fatal(err)
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
}

// resume connects and reads so many messages.
func (s *system) resume(node, i, n int) error {
	c, err := s.insist(node, fmt.Sprint("s", i), session{keep: true})
	if err != nil {
		return err
	}
	defer c.bye()
	if !c.present {
		return fmt.Errorf("the session is gone")
	}
	_ = c.nc.SetDeadline(time.Now().Add(60 * time.Second))
	var acks []byte
	for seq := range n {
		first, body, err := c.next()
		if err != nil {
			return fmt.Errorf("after %d messages: %w", seq, err)
		}
		pay := body[len(body)-payloadSize:]
		if first>>4 != 3 || binary.LittleEndian.Uint32(pay[8:]) != uint32(i) || binary.LittleEndian.Uint32(pay[12:]) != uint32(seq) {
			return fmt.Errorf("packet %x instead of message %d", first, seq)
		}
		topic := 2 + int(binary.BigEndian.Uint16(body))
		if acks = append(acks, 0x40, 2, body[topic], body[topic+1]); c.r.Buffered() > 0 {
			continue // what came together is acknowledged together
		}
		if _, err := c.nc.Write(acks); err != nil {
			return err
		}
		acks = acks[:0]
	}
	return nil
}

// BenchmarkClusterOffline is a million messages for one session that is away: what its node needs in memory for it, and how
// fast it gets them when it is back.
func BenchmarkClusterOffline(b *testing.B) {
	s := holdfast(b, broker(b), 3)
	s.run(b)
	for b.Loop() {
		c, err := dial(s.on(1), "offline", protocol5, session{clean: true, keep: true})
		if err == nil {
			err = c.subscribe("r/#", 1)
		}
		if err != nil {
			b.Fatal(err)
		}
		c.bye()
		before := resident(b, s.nodes[1].pid())
		begin := time.Now()
		s.fill(b, 0, offlineQueue, 1)
		filled := time.Since(begin)
		after := resident(b, s.nodes[1].pid())
		if c, err = dial(s.on(1), "offline", protocol5, session{keep: true}); err != nil {
			b.Fatal(err)
		}
		begin = time.Now()
		var measure atomic.Bool
		sub := newSubscriber(c, &measure)
		peak := after
		s.await(b, "deliver the queue", 2*time.Minute, func() bool {
			peak = max(peak, resident(b, s.nodes[1].pid()))
			return sub.got.Load() >= offlineQueue
		})
		took := time.Since(begin)
		missing, twice, disorder := sub.faults()
		c.bye()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(offlineQueue)/filled.Seconds(), "queued/s")
		b.ReportMetric(float64(offlineQueue)/took.Seconds(), "delivered/s")
		b.ReportMetric(mib(before), "MiB-before")
		b.ReportMetric(mib(after), "MiB-queued")
		b.ReportMetric(mib(peak), "MiB-peak")
		b.ReportMetric(float64(missing+twice+disorder), "missing+twice+out-of-order")
	}
}

// BenchmarkClusterIdle is what nodes need when nothing happens: one alone, and one of three.
func BenchmarkClusterIdle(b *testing.B) {
	program := broker(b)
	for _, nodes := range []int{1, 3} {
		b.Run(fmt.Sprintf("%d-nodes", nodes), func(b *testing.B) {
			s := holdfast(b, program, nodes)
			s.run(b)
			for b.Loop() {
				sleep(nil, 10*time.Second)
				const watched = 20 * time.Second
				before := make([]time.Duration, nodes)
				for i, n := range s.nodes {
					before[i] = spent(b, n.pid())
				}
				sleep(nil, watched)
				var most time.Duration
				var size int64
				for i, n := range s.nodes {
					most = max(most, spent(b, n.pid())-before[i])
					size = max(size, resident(b, n.pid()))
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(mib(size), "MiB-resident")
				b.ReportMetric(100*most.Seconds()/watched.Seconds(), "%core")
			}
		})
	}
}

// BenchmarkClusterConnections is what a quiet connection over plain TCP costs one node, beyond the first thousand.
func BenchmarkClusterConnections(b *testing.B) {
	const want, first, others = 20_000, 1000, 300
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	n := min(want, int(limit.Cur)-others)
	s := holdfast(b, broker(b), 1)
	s.run(b)
	for b.Loop() {
		all := s.quiet(b, 0, first)
		before := resident(b, s.nodes[0].pid())
		all = append(all, s.quiet(b, first, n)...)
		sleep(nil, 15*time.Second)
		after := resident(b, s.nodes[0].pid())
		for _, nc := range all {
			nc.Close()
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(n), "clients")
		b.ReportMetric(float64(after-before)/float64(n-first)/1024, "KiB-each")
		b.ReportMetric(mib(after), "MiB-resident")
	}
}

// quiet connects clients that keep nothing here but their sockets.
func (s *system) quiet(b *testing.B, from, to int) []net.Conn {
	all := make([]net.Conn, to-from)
	connect := append([]byte("\x00\x04MQTT"), protocol5, 2, 0, 0, 0)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			got := make([]byte, 256)
			for i := from + w; i < to; i += 64 {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%8))}} // ports for all
				nc, err := d.Dial("tcp", s.addrs[0])
				if err == nil {
					_, err = nc.Write(packet(0x10, appendText(bytes.Clone(connect), fmt.Sprint("quiet-", i))))
				}
				if err == nil {
					_, err = nc.Read(got)
				}
				if err != nil || got[0] != 0x20 || got[3] != 0 {
					b.Errorf("client %d: % x %v", i, got[:4], err)
					return
				}
				all[i-from] = nc
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return all
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// resident is a process's memory in bytes.
func resident(b testing.TB, pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := bytes.Cut(data, []byte("VmRSS:"))
	kb, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb << 10
}

// spent is the time of all programs of a system on all cores: what a busy machine does not change much.
func (s *system) spent(b testing.TB) (sum time.Duration) {
	for _, n := range s.nodes {
		sum += spent(b, n.pid())
	}
	return sum
}

// spent is a process's time on all cores (proc(5): fields 14 and 15 of stat, in hundredths of a second).
func spent(b testing.TB, pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	total := int64(0)
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		total += n
	}
	return time.Duration(total) * 10 * time.Millisecond
}
