package broker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
)

// BenchmarkIdle: what a connected client that says nothing costs a broker in a process of its
// own, as resident memory beyond the first 1,000 clients. The goal is 12 KB over plain TCP.
func BenchmarkIdle(b *testing.B) {
	n := idleClients(b)
	for _, kind := range []struct {
		name string
		o    opts
	}{
		{"clean", opts{version: mqtt.V311, clean: true, keep: 600}},
		{"subscribed", opts{version: mqtt.V5, keep: 600, expiry: 3600}},
	} {
		b.Run(fmt.Sprintf("%s-%d", kind.name, n), func(b *testing.B) {
			for b.Loop() {
				idle(b, n, kind.o)
			}
		})
	}
}

// idleClients is how many this machine's file descriptors allow, in one process, up to 20,000.
func idleClients(b *testing.B) int {
	const want, others = 20000, 300
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		b.Fatal(err)
	}
	n := min(want, int(l.Cur)-others)
	if n < want {
		b.Logf("%d file descriptors (ulimit -n) are enough for %d clients, not for %d", l.Cur, n, want)
	}
	if n < 2000 {
		b.Fatal("too few file descriptors for a measurement: raise ulimit -n")
	}
	return n
}

const idleFirst = 1000 // clients that are not counted: the broker itself and its pools

func idle(b *testing.B, n int, o opts) {
	addr, pid := idleBroker(b)
	first := dialIdle(b, addr, 0, idleFirst, o)
	defer closeAll(first)
	before := resident(b, pid)
	rest := dialIdle(b, addr, idleFirst, n, o)
	defer closeAll(rest)
	rush := resident(b, pid)
	after := settled(b, pid)
	each := float64(after-before) / float64(n-idleFirst)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(rush-before)/float64(n-idleFirst), "B/client-at-once")
	b.ReportMetric(each, "B/client-after-150s")
	b.ReportMetric(float64(after)/(1<<20), "MiB-resident")
	if p := first[0]; o.expiry > 0 { // they are not only open: one of them hears the other
		_, err := p.Write((&rawClient{version: o.version}).publishPacket("idle/1999", "x", 0, 0, nil))
		if err != nil {
			b.Fatal(err)
		}
		_ = rest[999].SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := rest[999].Read(make([]byte, 64)); err != nil {
			b.Errorf("client 1999: %v", err)
		}
	}
}

func idleBroker(b *testing.B) (addr string, pid int) {
	addr = freeport.Addr(b)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOLDFAST_TEST_BROKER="+b.TempDir(), "HOLDFAST_TEST_LISTEN="+addr)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(b, "the broker takes clients", func() bool {
		c, ack, err := tryDial(b, addr, "probe", opts{version: mqtt.V311, clean: true})
		if err == nil {
			c.disconnect()
		}
		return err == nil && ack.body[1] == 0
	})
	return addr, cmd.Process.Pid
}

// dialIdle connects clients from..to-1, 64 at a time; those with a session subscribe.
func dialIdle(b *testing.B, addr string, from, to int, o opts) []net.Conn {
	all := make([]net.Conn, to-from)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := from + w; i < to && !b.Failed(); i += 64 {
				nc, err := dialOne(addr, i, o)
				if err != nil {
					b.Errorf("client %d: %v", i, err)
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

// dialOne keeps nothing but the socket: 20,000 buffered readers would be the larger figure.
func dialOne(addr string, i int, o opts) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%8))}} // ports for all
	nc, err := d.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	id := strconv.Itoa(i)
	send := connectPacket("idle-"+id, o)
	want := []byte{mqtt.CONNACK << 4}
	if o.expiry > 0 {
		want = append(want, mqtt.SUBACK<<4)
		c := rawClient{version: o.version}
		body := append(mqtt.AppendText(c.props([]byte{0, 1}, nil), "idle/"+id), 1)
		send = append(send, frame(mqtt.SUBSCRIBE<<4|2, body)...)
	}
	if _, err := nc.Write(send); err != nil {
		return nc, err
	}
	_ = nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	defer nc.SetReadDeadline(time.Time{})
	got := make([]byte, 0, 256)
	for _, kind := range want {
		for {
			_, _, end, err := mqtt.Frame(got, 256)
			if err == nil && end > 0 && end <= len(got) {
				if got[0] != kind {
					return nc, fmt.Errorf("packet %x", got)
				}
				got = append(got[:0], got[end:]...)
				break
			}
			n, err := nc.Read(got[len(got):cap(got)])
			if err != nil {
				return nc, err
			}
			got = got[:len(got)+n]
		}
	}
	return nc, nil
}

func closeAll(all []net.Conn) {
	for _, nc := range all {
		nc.Close()
	}
}

// settled waits until a quiet process has given back what it will: Go's collector runs every two
// minutes where nothing asks for it.
func settled(b *testing.B, pid int) int64 {
	b.Helper()
	<-time.After(150 * time.Second)
	return resident(b, pid)
}

// resident is the memory of a process in bytes.
func resident(b *testing.B, pid int) int64 {
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
