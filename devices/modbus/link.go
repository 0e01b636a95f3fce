package modbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/tty"
)

// link is an open way to the slaves of one bus.
type link interface {
	// send hands a frame over; when it returns, the frame is on its way at the latest.
	send(ctx context.Context, frame []byte) error
	// discard throws away what was received and is not in the inbox yet.
	discard()
	// in is where received bytes are, and the link's end.
	in() *inbox
	// close gives everything back and waits for the reader.
	close()
}

// opener opens a link; note is what the user should know about one that works otherwise.
type opener func(ctx context.Context) (l link, note string, err error)

// inbox is what a link's reader has received. It holds a bounded number of bytes: a line
// on which somebody chatters while nobody asks keeps the latest.
type inbox struct {
	more   chan struct{} // a byte came since the last take, or the link failed
	failed chan struct{} // closed when the link has failed

	mu   sync.Mutex
	buf  []byte
	at   devices.Instant // of the latest byte
	err  error           // why it failed
	lost int             // bytes for which there was no room
}

const inboxSize = 4096

func newInbox() *inbox {
	return &inbox{more: make(chan struct{}, 1), failed: make(chan struct{})}
}

func (i *inbox) put(b []byte, at devices.Instant) {
	i.mu.Lock()
	i.buf = append(i.buf, b...)
	if over := len(i.buf) - inboxSize; over > 0 {
		i.buf = append(i.buf[:0], i.buf[over:]...)
		i.lost += over
	}
	i.at = at
	i.mu.Unlock()
	i.wake()
}

func (i *inbox) wake() {
	select {
	case i.more <- struct{}{}:
	default:
	}
}

// fail ends the link; the first reason stays.
func (i *inbox) fail(err error) {
	i.mu.Lock()
	if i.err == nil {
		i.err = err
		close(i.failed)
	}
	i.mu.Unlock()
	i.wake()
}

// take appends what was received to b, and says when the latest of it came.
func (i *inbox) take(b []byte) ([]byte, devices.Instant, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	b = append(b, i.buf...)
	i.buf = i.buf[:0]
	return b, i.at, i.err
}

// clear throws away what was received, and says how much that was.
func (i *inbox) clear() (bytes int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	bytes = len(i.buf) + i.lost
	i.buf, i.lost = i.buf[:0], 0
	select {
	case <-i.more:
	default:
	}
	return bytes
}

func (i *inbox) why() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// linkError is why a bus cannot be used: a stable reason, and words for the log.
type linkError struct {
	reason string
	err    error
}

func (e *linkError) Error() string { return e.err.Error() }
func (e *linkError) Unwrap() error { return e.err }

// The reasons of a TCP bus; those of a serial line are package tty's.
const (
	connectionLost    = "connection-lost"
	connectionRefused = "connection-refused"
	unreachable       = "unreachable" // no route, no name, no answer to the connect
)

// linkReason is the word for an error of a link.
func linkReason(err error) string {
	if e := (*linkError)(nil); errors.As(err, &e) {
		return e.reason
	}
	if e := (*tty.Error)(nil); errors.As(err, &e) {
		return e.Reason
	}
	return tty.Failed
}

// ttyLink is a serial port and the goroutine that reads it. A port that fails is closed
// at once: an open descriptor makes a USB adapter come back under another name.
type ttyLink struct {
	inbox *inbox
	clock devices.Clock
	mode  tty.Mode
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once

	mu   sync.Mutex // held while writing, so that the port is not closed meanwhile
	port *tty.Port  // nil when closed
}

func openTTY(c busConfig, clock devices.Clock) (link, string, error) {
	p, note, err := tty.Open(c.port, c.mode)
	if err != nil {
		return nil, "", err
	}
	by, err := p.SetTurn(c.turn)
	if err != nil {
		p.Close()
		return nil, "", &tty.Error{Reason: tty.Failed, Err: fmt.Errorf("open %s: %w", c.port, err)}
	}
	if c.turn.By == tty.TurnAuto && by == tty.TurnRTS && note == "" {
		note = "this port's driver does not turn RS-485 around: RTS is switched by hand"
	}
	l := &ttyLink{inbox: newInbox(), clock: clock, mode: c.mode, stop: make(chan struct{}), done: make(chan struct{}), port: p}
	go l.read(p)
	return l, note, nil
}

func (l *ttyLink) in() *inbox { return l.inbox }

func (l *ttyLink) read(p *tty.Port) {
	defer close(l.done)
	defer l.shut()
	for buf := make([]byte, inboxSize); ; {
		select {
		case <-l.stop:
			return
		default:
		}
		n, err := p.Read(buf)
		if n > 0 {
			l.inbox.put(buf[:n], l.clock.Now())
		}
		if err != nil {
			l.shut()
			l.inbox.fail(err)
			return
		}
	}
}

// shut closes the port; it is called by its reader alone.
func (l *ttyLink) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port != nil {
		l.port.Close()
		l.port = nil
	}
}

var errClosed = &tty.Error{Reason: tty.Lost, Err: errors.New("the port was closed")}

func (l *ttyLink) send(ctx context.Context, frame []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port == nil {
		return errClosed
	}
	return l.port.Send(ctx, l.clock, l.mode, frame)
}

func (l *ttyLink) discard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port != nil {
		_ = l.port.Discard() // a port that cannot has lost more than that: the next read says so
	}
}

func (l *ttyLink) close() {
	l.once.Do(func() { close(l.stop) })
	<-l.done
}

// tcpLink is a connection and the goroutine that reads it.
type tcpLink struct {
	inbox *inbox
	conn  net.Conn
	done  chan struct{}
}

const (
	dialTimeout = 5 * time.Second
	// A peer that is silently gone is noticed after this long: by probes on an idle
	// connection, by unacknowledged bytes on a busy one.
	peerTimeout  = 15 * time.Second
	writeTimeout = 5 * time.Second
)

func openTCP(ctx context.Context, c busConfig, clock devices.Clock) (link, string, error) {
	d := net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2},
		Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				// Without it the kernel tries for a quarter of an hour (tcp(7)).
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout/time.Millisecond))
			})
		},
	}
	conn, err := d.DialContext(ctx, "tcp", c.server)
	if err != nil {
		reason := unreachable
		if errors.Is(err, unix.ECONNREFUSED) {
			reason = connectionRefused
		}
		return nil, "", &linkError{reason, err}
	}
	l := &tcpLink{inbox: newInbox(), conn: conn, done: make(chan struct{})}
	go l.read(clock)
	return l, "", nil
}

func (l *tcpLink) in() *inbox { return l.inbox }
func (l *tcpLink) discard()   {} // messages are told apart by their transaction

func (l *tcpLink) read(clock devices.Clock) {
	defer close(l.done)
	defer l.conn.Close()
	for buf := make([]byte, inboxSize); ; {
		n, err := l.conn.Read(buf)
		if n > 0 {
			l.inbox.put(buf[:n], clock.Now())
		}
		if err != nil {
			l.inbox.fail(&linkError{connectionLost, fmt.Errorf("the connection has ended: %w", err)})
			return
		}
	}
}

func (l *tcpLink) send(_ context.Context, frame []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return &linkError{connectionLost, err}
	}
	if _, err := l.conn.Write(frame); err != nil {
		return &linkError{connectionLost, err}
	}
	return nil
}

func (l *tcpLink) close() {
	_ = l.conn.Close() // the reader's Read ends by it
	<-l.done
}
