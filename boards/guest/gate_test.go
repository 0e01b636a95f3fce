//go:build guest

package guest

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"holdfast/systemd/freeport"
)

// gate stands between a guest and the broker: closed, it is the network that is down.
type gate struct {
	addr, to string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	open  bool
	conns map[net.Conn]bool
	said  bytes.Buffer // the first bytes of each connection from the guest
}

func openGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", freeport.Addrs(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: l.Addr().String(), to: to, listener: l, open: true, conns: map[net.Conn]bool{}}
	g.running.Go(g.serve)
	t.Cleanup(func() {
		l.Close()
		g.close()
		g.running.Wait()
	})
	return g
}

func (g *gate) serve() {
	for {
		guest, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.running.Go(func() { g.carry(guest) })
	}
}

// carry copies both ways until either side ends, or the gate is closed.
func (g *gate) carry(guest net.Conn) {
	defer guest.Close()
	if !g.keep(guest) {
		return
	}
	defer g.drop(guest)
	broker, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer broker.Close()
	if !g.keep(broker) {
		return
	}
	defer g.drop(broker)
	first := make([]byte, 4096) // CONNECT
	n, err := guest.Read(first)
	if err != nil {
		return
	}
	g.mu.Lock()
	g.said.Write(first[:n])
	g.mu.Unlock()
	if _, err := broker.Write(first[:n]); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(guest, broker) // either end is the end of both
		guest.Close()
	})
	_, _ = io.Copy(broker, guest)
	broker.Close()
	back.Wait()
}

// keep notes a connection that close must end; false: it is closed already.
func (g *gate) keep(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		g.conns[c] = true
	}
	return g.open
}

func (g *gate) drop(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// close ends every connection and takes no new one until let.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = false
	for c := range g.conns {
		c.Close()
	}
}

func (g *gate) let() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
}

// heardFrom says whether a guest has sent this at the begin of a connection.
func (g *gate) heardFrom(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return bytes.Contains(g.said.Bytes(), []byte(text))
}
