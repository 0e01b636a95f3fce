// Package freeport chooses loopback ports for programs that a test starts, and starts again, on an address
// that must be known before: nodes of a cluster, a broker that is killed.
//
// Such a port stays free until it is used, and while its program is down. It lies below the range from which the
// kernel takes ports for clients and for listeners on port 0, so no connection can get it, not even one
// that dials the port itself before anybody listens; and no other test process is given it until
// this one ends. A test that can listen by itself on port 0 and keep the listener should do that. Only tests use it.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
)

// The kernel's own range begins at 32768 (ip(7), ip_local_port_range).
const first, last = 10000, 31999

var (
	mu    sync.Mutex
	taken []net.Listener // kept to the end of the process
)

// Addr returns the address of a free port of the loopback, such as "127.0.0.1:12345".
func Addr(t testing.TB) string {
	t.Helper()
	return Addrs(t, 1)[0]
}

// Addrs returns n of them, all different.
func Addrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", Port(t)))
	}
	return addrs
}

// Port returns a free port of the loopback.
func Port(t testing.TB) int {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if low := kernelsFirst(t); low <= last {
		t.Fatalf("the kernel gives out ports from %d on, this test needs %d to %d for itself: sysctl net.ipv4.ip_local_port_range", low, first, last)
	}
	for range 1000 {
		if port := first + rand.IntN(last-first+1); take(port) {
			return port
		}
	}
	t.Fatalf("no free port from %d to %d", first, last)
	return 0
}

// take reserves a port among the test processes, by a name that goes with the process, and looks whether it is free.
func take(port int) bool {
	l, err := net.Listen("unix", fmt.Sprintf("@holdfast-test-port-%d", port))
	if err != nil {
		return false
	}
	p, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		l.Close()
		return false
	}
	p.Close()
	taken = append(taken, l)
	return true
}

// kernelsFirst is the first port that the kernel gives out by itself.
func kernelsFirst(t testing.TB) (port int) {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &port)
	}
	if err != nil {
		t.Fatalf("read the kernel's range of ports: %v", err)
	}
	return port
}
