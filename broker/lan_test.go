package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lan is a network of nodes for tests of partitions. Each node is in a network namespace of its own, with one
// interface; the switch between them is in this process, so that every direction between two nodes can be cut,
// delayed or made lossy by itself. Namespaces and interfaces hang on this process alone: however the test ends,
// nothing is left.
type lan struct {
	t     testing.TB
	ports []*port

	mu    sync.Mutex
	rnd   *rand.Rand
	where map[[6]byte]int // who has a hardware address
	wires [][]wireRule    // from, to
	tasks sync.WaitGroup
	over  chan struct{}
}

// wireRule is what happens to the frames of one direction between two nodes.
type wireRule struct {
	cut   bool
	delay time.Duration
	loss  float64 // of 1
}

// port is a node's place in the lan.
type port struct {
	addr netip.Addr
	tap  *os.File
	jobs chan func()
	late []chan lateFrame // to each other port, in order
}

type lateFrame struct {
	due  time.Time
	data []byte
}

const lanMTU = 9000

// newLAN makes n namespaces with the addresses 10.99.0.11 and up.
func newLAN(t testing.TB, n int, seed uint64) *lan {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root for network namespaces: run the tests as root, or in a container with CAP_NET_ADMIN and CAP_SYS_ADMIN")
	}
	l := &lan{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), where: map[[6]byte]int{}, over: make(chan struct{})}
	for i := range n {
		p := &port{addr: netip.AddrFrom4([4]byte{10, 99, 0, byte(11 + i)}), jobs: make(chan func())}
		l.tasks.Go(p.live)
		l.ports = append(l.ports, p)
		l.wires = append(l.wires, make([]wireRule, n))
		for range n {
			p.late = append(p.late, make(chan lateFrame, 1<<14))
		}
	}
	t.Cleanup(l.close)
	for i, p := range l.ports {
		var err error
		p.do(func() { err = p.plug() })
		if err != nil {
			t.Fatalf("network namespace %d: %v", i, err)
		}
	}
	for i, p := range l.ports {
		l.tasks.Go(func() { l.forward(i) })
		for j := range p.late {
			l.tasks.Go(func() { l.later(l.ports[j], p.late[j]) })
		}
	}
	return l
}

func (l *lan) close() {
	close(l.over)
	for _, p := range l.ports {
		if p.tap != nil {
			_ = p.tap.Close()
		}
		close(p.jobs)
	}
	l.tasks.Wait()
}

// live is the thread that is in the namespace. It goes home in the end: a thread that ends takes the programs with it that
// other tests have started on it (prctl(2), PR_SET_PDEATHSIG).
func (p *port) live() {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for job := range p.jobs {
		job()
	}
	if err == nil {
		err = errors.Join(unix.Setns(home, unix.CLONE_NEWNET), unix.Close(home))
	}
	if err != nil {
		panic(fmt.Sprint("a thread does not come back from a network of a test: ", err))
	}
	runtime.UnlockOSThread()
}

// do runs fn in the namespace: sockets that it opens and programs that it starts are in there.
func (p *port) do(fn func()) {
	done := make(chan struct{})
	p.jobs <- func() {
		defer close(done)
		fn()
	}
	<-done
}

// plug makes the namespace with its loopback and the interface, whose other end is p.tap.
func (p *port) plug() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	fd, err := openTun()
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w (the kernel needs CONFIG_TUN)", err)
	}
	ifr, err := unix.NewIfreq("eth0")
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	p.tap = os.NewFile(uintptr(fd), "tap")
	if err != nil {
		return fmt.Errorf("make the interface: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(name string, req uint, fill func(*unix.Ifreq)) {
		ifr, nerr := unix.NewIfreq(name)
		if nerr == nil && err == nil {
			fill(ifr)
			err = unix.IoctlIfreq(s, req, ifr)
		}
	}
	addr := p.addr.As4()
	set("eth0", unix.SIOCSIFADDR, func(r *unix.Ifreq) { _ = r.SetInet4Addr(addr[:]) })
	set("eth0", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) { _ = r.SetInet4Addr([]byte{255, 255, 255, 0}) })
	set("eth0", unix.SIOCSIFMTU, func(r *unix.Ifreq) { r.SetUint32(lanMTU) })
	for _, name := range []string{"lo", "eth0"} {
		set(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING) })
	}
	return err
}

// openTun opens the kernel's tun device, through a node of its own where the machine has none.
func openTun() (int, error) {
	const flags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Open("/dev/net/tun", flags, 0)
	if err != unix.ENOENT {
		return fd, err
	}
	dir, err := os.MkdirTemp("", "tun")
	if err != nil {
		return -1, err
	}
	defer os.RemoveAll(dir)
	node := filepath.Join(dir, "tun")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil { // Linux devices.txt
		return -1, err
	}
	return unix.Open(node, flags, 0)
}

// dial connects from within the namespace.
func (p *port) dial(addr string) (nc net.Conn, err error) {
	p.do(func() { nc, err = net.DialTimeout("tcp", addr, mostPatience) })
	return nc, err
}

// forward is the switch for the frames of one port.
func (l *lan) forward(from int) {
	buf := make([]byte, lanMTU+64)
	for {
		n, err := l.ports[from].tap.Read(buf)
		if err != nil {
			return // closed
		}
		if n < 14 {
			continue
		}
		to, src := [6]byte(buf[:6]), [6]byte(buf[6:12])
		l.mu.Lock()
		l.where[src] = from
		only, known := l.where[to]
		for j := range l.ports {
			if j != from && (!known || j == only) {
				l.pass(from, j, buf[:n])
			}
		}
		l.mu.Unlock()
	}
}

// pass hands a frame on as the rule of its direction says. l.mu is held.
func (l *lan) pass(from, to int, frame []byte) {
	rule := l.wires[from][to]
	if rule.cut || rule.loss > 0 && l.rnd.Float64() < rule.loss {
		return
	}
	if rule.delay == 0 {
		_, _ = l.ports[to].tap.Write(frame) // a full interface drops, as a switch does
		return
	}
	select {
	case l.ports[from].late[to] <- lateFrame{time.Now().Add(rule.delay), append([]byte(nil), frame...)}:
	default:
	}
}

func (l *lan) later(to *port, frames <-chan lateFrame) {
	for {
		select {
		case <-l.over:
			return
		case f := <-frames:
			select {
			case <-l.over:
				return
			case <-time.After(time.Until(f.due)):
			}
			_, _ = to.tap.Write(f.data)
		}
	}
}

// set gives the direction from one node to another a rule.
func (l *lan) set(from, to int, r wireRule) {
	l.mu.Lock()
	l.wires[from][to] = r
	l.mu.Unlock()
}

// heal takes all rules back.
func (l *lan) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, row := range l.wires {
		clear(row)
	}
}

// TestLAN: the namespaces reach each other, and each direction can be cut by itself.
func TestLAN(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 3, 1)
	var socks []net.PacketConn
	for _, p := range l.ports {
		var s net.PacketConn
		var err error
		p.do(func() { s, err = net.ListenPacket("udp4", netip.AddrPortFrom(p.addr, 7000).String()) })
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		socks = append(socks, s)
	}
	number := uint32(0)
	reaches := func(from, to int) bool {
		dst := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.ports[to].addr, 7000))
		for range 50 {
			number++
			_, _ = socks[from].WriteTo(binary.BigEndian.AppendUint32(nil, number), dst)
			var b [4]byte
			_ = socks[to].SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, _, err := socks[to].ReadFrom(b[:]); err == nil && n == 4 {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		name string
		set  func()
		want string
	}{
		{"whole", func() {}, "12 13 21 23 31 32"},
		{"one way", func() { l.set(0, 1, wireRule{cut: true}) }, "13 21 23 31 32"},
		{"both ways", func() { l.set(1, 0, wireRule{cut: true}) }, "13 23 31 32"},
		{"late and lossy", func() { l.heal(); l.set(0, 1, wireRule{delay: 30 * time.Millisecond, loss: 0.5}) }, "12 13 21 23 31 32"},
	} {
		c.set()
		var got []string
		for i := range 3 {
			for j := range 3 {
				if i != j && reaches(i, j) {
					got = append(got, fmt.Sprint(i+1, j+1))
				}
			}
		}
		if s := strings.ReplaceAll(strings.Join(got, ","), " ", ""); s != strings.ReplaceAll(c.want, " ", ",") {
			t.Errorf("%s: %s instead of %s", c.name, s, c.want)
		}
	}
}
