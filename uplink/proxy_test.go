package uplink

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// fault is what a proxy does to one connection after so many bytes in one direction.
type fault int

const (
	none fault = iota
	cut
	reset
	stall
	halfClose
	delay
	throttle
	faults
)

// proxy is a TCP proxy that breaks connections at seeded points.
type proxy struct {
	t    testing.TB
	ln   net.Listener
	to   string
	plan func(n int) (what fault, after int, up bool) // of the n-th connection, from 1

	mu    sync.Mutex
	open  map[net.Conn]struct{}
	conns int
	came  chan struct{} // closed when the next connection comes
	done  chan struct{}
	wg    sync.WaitGroup
}

func newProxy(t testing.TB, to string, plan func(n int) (fault, int, bool)) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, ln: ln, to: to, plan: plan, open: map[net.Conn]struct{}{}, came: make(chan struct{}), done: make(chan struct{})}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(p.close)
	return p
}

// seeded breaks the first n connections in ways and places that follow from the seed.
func seeded(seed uint64, n int, kinds ...fault) func(int) (fault, int, bool) {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(i int) (fault, int, bool) {
		what, after, up := kinds[r.IntN(len(kinds))], r.IntN(60_000), r.IntN(2) == 0
		if i > n {
			return none, 0, false
		}
		if !up { // answers are few bytes
			after /= 50
		}
		return what, after, up
	}
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) close() {
	_ = p.ln.Close()
	close(p.done)
	p.mu.Lock()
	p.conns++
	close(p.came)
	p.came = make(chan struct{})
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *proxy) track(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = struct{}{}
}

func (p *proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *proxy) accept() {
	defer p.wg.Done()
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.track(c)
		p.mu.Lock()
		p.conns++
		n := p.conns
		what, after, up := p.plan(n)
		close(p.came)
		p.came = make(chan struct{})
		p.mu.Unlock()
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			defer p.drop(c)
			s, err := net.Dial("tcp", p.to)
			if err != nil {
				return
			}
			p.track(s)
			defer p.drop(s)
			p.pipe(n, c.(*net.TCPConn), s.(*net.TCPConn), what, after, up)
		}()
	}
}

// pipe copies both ways until both ends are closed.
func (p *proxy) pipe(n int, client, server *net.TCPConn, what fault, after int, up bool) {
	var both sync.WaitGroup
	both.Add(2)
	way := func(from, to *net.TCPConn, faulty bool) {
		defer both.Done()
		if !faulty || what == none {
			_, _ = io.Copy(to, from)
			_ = to.CloseWrite()
			return
		}
		_, _ = io.CopyN(to, from, int64(after))
		switch what {
		case cut:
			_ = client.Close()
			_ = server.Close()
		case reset:
			_ = client.SetLinger(0)
			_ = client.Close()
			_ = server.Close()
		case stall: // open, and nothing moves any more, until the next connection comes
			<-p.next(n)
			_ = client.Close()
			_ = server.Close()
		case halfClose:
			_ = to.CloseWrite()
			_, _ = io.Copy(io.Discard, from)
		case delay, throttle:
			p.slowly(from, to, what)
			_ = client.Close()
			_ = server.Close()
		}
	}
	go way(client, server, up)
	go way(server, client, !up)
	both.Wait()
}

// next is closed when a connection after the n-th has come, or the proxy ends.
func (p *proxy) next(n int) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns > n {
		ch := make(chan struct{})
		close(ch)
		return ch
	}
	return p.came
}

// slowly copies in small pieces with pauses: late answers, or a thin line. After a
// hundred pieces it is over.
func (p *proxy) slowly(from io.Reader, to io.Writer, what fault) {
	size, pause := 4096, 30*time.Millisecond
	if what == throttle {
		size, pause = 512, time.Millisecond
	}
	buf := make([]byte, size)
	for range 100 {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case <-p.done:
				return
			case <-time.After(pause):
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
