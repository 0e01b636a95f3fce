package uplink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// errSource is an error of the Source: the pump waits and tries again.
var errSource = errors.New("buffer")

// pump sends over one connection: what is to be sent again, then what is in trouble,
// then the lanes.
type pump struct {
	*line
	src   Source
	open  func([]byte) (Message, error)
	lanes *lanes
	c     *conn
	most  int    // bytes of a packet that the server of this connection takes
	spare []byte // of again
}

// run sends until ctx ends or the connection does. relane is signalled when drain or
// drain_rate changed.
func (p *pump) run(ctx context.Context, closed <-chan struct{}, relane <-chan struct{}, drain func() (string, Rate)) {
	order, rate := drain()
	p.lanes.connected(p.holding(), order, rate)
	defer p.lanes.wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, err := p.burst(ctx)
		if errors.Is(err, errSource) {
			p.sourceError(err)
			wait = p.tune.sourceRetry
		} else if err != nil {
			_ = p.c.fail(err)
			return
		}
		left, mute := p.silence()
		if mute {
			_ = p.c.fail(fmt.Errorf("no PUBACK within %v although messages are in flight", p.tune.silence))
			return
		}
		timer.Reset(shorter(wait, left))
		select {
		case <-ctx.Done():
			return
		case <-closed:
			return
		case <-relane:
			order, rate := drain()
			p.lanes.arrange(p.holding(), order, rate)
		case <-p.wake:
		case <-p.src.Changed():
		case <-timer.C:
		}
	}
}

// holding is a copy of what the line has of the Source.
func (l *line) holding() map[uint64]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.held)
}

// silence says how long the server may still go without a PUBACK, or that it is mute:
// alive, but acknowledging nothing. A new connection may reach one that does, and is
// the only occasion to send again (§4.4).
func (l *line) silence() (left time.Duration, mute bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fl.wire == 0 {
		return time.Hour, false
	}
	left = l.ackedAt + l.tune.silence - l.now()
	return left, left <= 0
}

// burst sends everything that may be sent now and flushes it. It returns how long to
// wait if only time is missing.
func (p *pump) burst(ctx context.Context) (wait time.Duration, err error) {
	p.c.cork()
	defer func() { err = errors.Join(err, p.c.uncork()) }()
	for ctx.Err() == nil {
		more, wait, err := p.step()
		if err != nil || !more {
			return wait, err
		}
	}
	return 0, nil
}

// step sends one message, or says how long to wait for the next.
func (p *pump) step() (more bool, wait time.Duration, err error) {
	t := p.turn()
	switch {
	case t.id != 0:
		return true, 0, p.again(t.pos, t.id)
	case t.retry:
		return true, 0, p.again(t.pos, 0)
	case !t.lanes:
		return false, t.wait, nil
	}
	c, err := p.lanes.next(t.mayBacklog)
	if err != nil {
		return false, 0, fmt.Errorf("%w: read: %w", errSource, err)
	}
	if c.lane == nil {
		return false, shorter(c.wait, t.wait), nil
	}
	n, sent, err := p.send(c.pos, 0, c.backlog, c.packet)
	if err != nil || !sent {
		return false, 0, err
	}
	p.lanes.sent(c, n)
	return true, 0, nil
}

func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// turn is what the line lets the pump do next.
type turn struct {
	id         uint16 // resend the message at pos with this packet id
	pos        uint64
	retry      bool // send the message at pos anew
	lanes      bool // send from the lanes
	mayBacklog bool
	wait       time.Duration // none of these: until when, 0: until woken
}

func (l *line) turn() turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	window := min(l.window, l.limit)
	if l.fl.wire >= window || len(l.acks)+len(l.bad) >= maxUnsettled {
		return turn{}
	}
	if l.fl.unsent != 0 {
		id := l.fl.unsent
		return turn{id: id, pos: l.fl.slots[id].pos}
	}
	if l.holdTill > 0 {
		if wait := l.holdTill - l.now(); wait > 0 {
			return turn{wait: wait}
		}
		l.holdTill = 0 // the clock costs as much as all of this
	}
	t := turn{lanes: true, mayBacklog: l.fl.backlog < max(1, window/2)}
	if len(l.aside) > 0 {
		if t.wait = l.asideTill - l.now(); t.wait <= 0 {
			l.recallAside()
		}
	}
	if len(l.retry) > 0 {
		if l.fl.wire > 0 && !l.retrying {
			return turn{}
		}
		return turn{retry: true, pos: l.retry[0].pos}
	}
	return t
}

// again reads one message back and sends it: with its packet id and DUP if it has one.
func (p *pump) again(pos uint64, id uint16) error {
	var pk packet
	found := false
	_, err := p.src.Read(pos, func(at uint64, blob []byte) bool {
		if found = at == pos; found {
			if cap(p.spare) > chunkBytes { // one huge blob must not stay for ever
				p.spare = nil
			}
			p.spare, pk = pack(p.spare[:0], blob, p.open)
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("%w: read: %w", errSource, err)
	}
	if !found {
		p.evicted(pos, id)
		return nil
	}
	_, _, err = p.send(pos, id, false, pk)
	return err
}

// evicted forgets a message that the Source no longer has: it was dropped for space.
func (l *line) evicted(pos uint64, id uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n.Evicted++
	l.fl.remove(id)
	l.retry = slices.DeleteFunc(l.retry, func(t *trouble) bool { return t.pos == pos })
	delete(l.troubles, pos)
	delete(l.held, pos)
}

// send publishes one message; id 0: with a new packet id. It returns the bytes that were
// sent; sent is false if there was no room, and true also for what was left out because
// it is in flight already or can never be sent.
func (p *pump) send(pos uint64, id uint16, backlog bool, pk packet) (size int, sent bool, err error) {
	size = len(pk.b)
	why := pk.bad
	if why == "" {
		why = oversize(size, p.most)
	}
	if why != "" {
		p.unsendable(pos, id, why)
		return 0, true, nil
	}
	dup := id != 0
	id, skip := p.admit(pos, id, backlog, size)
	if skip || id == 0 {
		return 0, skip, nil
	}
	pk.number(id, dup)
	if err := p.c.publish(pk); err != nil {
		return 0, false, fmt.Errorf("publish: %w", err)
	}
	return size, true, nil
}

// largest is the packet that the server of this connection takes.
func (l *line) largest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.maxPacket
}

// oversize says why a packet of that size may not be sent to this server (§3.2.2.3.6).
func oversize(size, most int) string {
	if size <= most {
		return ""
	}
	return fmt.Sprintf("packet of %d bytes, the server's Maximum Packet Size is %d: lower buffer.batch_bytes or raise the server's limit", size, most)
}

// unsendable quarantines a message before it was sent.
func (l *line) unsendable(pos uint64, id uint16, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.held[pos]; held && id == 0 && !l.retried(pos) {
		return // settled or in flight: not ours to judge
	}
	l.fl.remove(id)
	l.held[pos] = struct{}{}
	l.quarantine(pos, why)
}

// retried takes the message from the head of the retry queue, if it is that one.
func (l *line) retried(pos uint64) bool {
	if len(l.retry) == 0 || l.retry[0].pos != pos {
		return false
	}
	l.retry = l.retry[1:]
	l.retrying = true
	return true
}

// admit enters a message into the window. skip: it is in flight or settled already.
func (l *line) admit(pos uint64, id uint16, backlog bool, size int) (_ uint16, skip bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id != 0 {
		l.fl.resend()
		l.n.Resent++
	} else {
		if l.fl.wire >= min(l.window, l.limit) || l.fl.freeLen == 0 {
			return 0, false
		}
		n := len(l.held)
		if l.held[pos] = struct{}{}; len(l.held) == n && !l.retried(pos) { // was held before
			return 0, true
		}
		id = l.fl.add(pos, backlog)
	}
	if l.fl.wire == 1 {
		l.ackedAt = l.now()
	}
	l.n.Sent++
	l.n.SentBytes += uint64(size)
	if l.probe == 0 {
		l.probe, l.probeAt = id, l.now()
	}
	return id, false
}

func (l *line) sourceError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n.SourceErrors++
	l.lastError(err.Error())
	l.log.Error("uplink source", "err", err)
}
