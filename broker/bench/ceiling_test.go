package bench

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// The ceiling is a broker that does nothing: it answers each PUBLISH at once and copies it to whoever has subscribed, whatever
// the filter. What the load reaches with it is what the load generator could carry.

func ceiling(b testing.TB) *system {
	ips := network()
	addr := ips[0] + ":1883"
	return &system{name: "ceiling", version: protocol5, addrs: []string{addr}, nodes: []*node{{name: "ceiling",
		log: filepath.Join(b.TempDir(), "log"), args: []string{os.Args[0]}, env: []string{ceilingListen + "=" + addr}}}}
}

// runCeiling serves until the process is killed.
func runCeiling(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		panic(err)
	}
	var subscribers fanout
	for {
		nc, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go subscribers.serve(nc)
	}
}

type fanout struct {
	mu  sync.Mutex
	all []net.Conn
}

func (f *fanout) serve(nc net.Conn) {
	defer f.leave(nc)
	buf, n := make([]byte, 256<<10), 0
	var answers []byte
	for {
		m, err := nc.Read(buf[n:])
		if err != nil {
			return
		}
		n += m
		answers = answers[:0]
		used, first, last := 0, -1, 0
		for {
			kind, body, end := frame(buf[used:n])
			if end == 0 {
				break
			}
			switch kind >> 4 {
			case 1:
				answers = append(answers, 0x20, 3, 0, 0, 0)
			case 8:
				answers = append(answers, 0x90, 4, body[0], body[1], 0, 1)
				f.join(nc)
			case 3:
				topic := 2 + int(binary.BigEndian.Uint16(body))
				answers = append(answers, 0x40, 2, body[topic], body[topic+1])
				if first < 0 {
					first = used
				}
				last = used + end
			}
			used += end
		}
		if first >= 0 { // a publisher sends nothing else
			f.give(buf[first:last])
		}
		n = copy(buf, buf[used:n])
		if len(answers) > 0 {
			if _, err := nc.Write(answers); err != nil {
				return
			}
		}
	}
}

func (f *fanout) join(nc net.Conn) { f.mu.Lock(); defer f.mu.Unlock(); f.all = append(f.all, nc) }

func (f *fanout) leave(nc net.Conn) {
	nc.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.all {
		if other == nc {
			f.all = append(f.all[:i], f.all[i+1:]...)
			return
		}
	}
}

func (f *fanout) give(packets []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nc := range f.all {
		_, _ = nc.Write(packets)
	}
}
