package freeport

import (
	"fmt"
	"net"
	"testing"
)

// A port is given once, whoever asks, and can be listened on again and again.
func TestPorts(t *testing.T) {
	seen := map[string]bool{}
	for _, addr := range append(Addrs(t, 50), Addr(t), fmt.Sprint("127.0.0.1:", Port(t))) {
		if seen[addr] {
			t.Errorf("%s is given twice", addr)
		}
		seen[addr] = true
		for range 2 {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
		}
	}
	port := Port(t)
	if take(port) {
		t.Errorf("%d is another's", port)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if port := l.Addr().(*net.TCPAddr).Port; port <= last {
		t.Errorf("the kernel gave out %d, which is of our range", port)
	} else if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
		l.Close()
		t.Errorf("%d is in use, and can be listened on", port)
	}
}
