package modbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

// busConfig is what all slaves of one bus share.
type busConfig struct {
	server string // host:port; "": a serial line
	port   string
	mode   tty.Mode
	pause  time.Duration // silence before each request
	turn   tty.Turn
}

func (c busConfig) tcp() bool { return c.server != "" }

// name tells buses apart.
func (c busConfig) name() string {
	if c.tcp() {
		return c.server
	}
	return c.port
}

// errTimeout: the slave gave no answer in time.
var errTimeout = errors.New("no answer in time")

// errDamaged: something came that was no whole answer.
var errDamaged = errors.New("the answer was damaged")

// tally is what one exchange saw besides its answer.
type tally struct {
	stale   int  // bytes that were there before the request was sent
	foreign int  // bytes that came while waiting, and belong to no answer to this
	crc     bool // something looked like the answer, with a wrong CRC
}

// reply is what an exchange brought.
type reply struct {
	data    []byte // a copy
	at      devices.Instant
	latency time.Duration // from the end of the request to the end of the answer
	tally
}

// talker asks one question at a time over one link.
type talker struct {
	busConfig
	clock       devices.Clock
	link        link
	free        devices.Instant // before this nothing is sent
	transaction uint16
	frame, buf  []byte
	worked      bool // an answer came
}

// damagedWait is how long a line must be silent until a damaged answer counts as over:
// more than the 16 ms for which USB adapters hold bytes back.
const damagedWait = 50 * time.Millisecond

// ask sends a request and waits for its answer. The error is an Exception, errTimeout,
// errDamaged, the link's (which then has failed), or the context's.
func (t *talker) ask(ctx context.Context, slave byte, r request, timeout time.Duration) (reply, error) {
	if err := pass(ctx, t.clock, t.free-t.clock.Now()); err != nil {
		return reply{}, err
	}
	var rep reply
	t.link.discard()
	rep.stale = t.link.in().clear()
	if err := t.send(ctx, slave, r); err != nil {
		if ctx.Err() == nil {
			t.link.in().fail(err)
		}
		return rep, err
	}
	sent := t.clock.Now() + t.onTheWire()
	err := t.await(ctx, slave, r, sent, timeout, &rep)
	t.free = t.clock.Now() + t.pause
	rep.latency = max(0, rep.at-sent)
	return rep, err
}

func (t *talker) send(ctx context.Context, slave byte, r request) error {
	if t.tcp() {
		t.transaction++
		t.frame = appendTCP(t.frame[:0], t.transaction, slave, r)
	} else {
		t.frame = appendRTU(t.frame[:0], slave, r)
	}
	return t.link.send(ctx, t.frame)
}

// onTheWire is how long the request takes after it was handed over.
func (t *talker) onTheWire() time.Duration {
	if t.tcp() {
		return 0
	}
	return t.mode.Chars(float64(len(t.frame)))
}

// await takes what comes until it holds the answer, time is up or the link has failed.
// What is there when time is up still counts: the gateway may have been slow, not the slave.
func (t *talker) await(ctx context.Context, slave byte, r request, sent devices.Instant, timeout time.Duration, rep *reply) error {
	in := t.link.in()
	deadline := t.clock.After(sent + timeout - t.clock.Now())
	var damaged <-chan time.Time
	t.buf = t.buf[:0]
	for last := false; ; {
		n := len(t.buf)
		var failed error
		t.buf, rep.at, failed = in.take(t.buf)
		if len(t.buf) > n {
			data, whole, err := t.look(slave, r, rep)
			if whole || err != nil {
				rep.data = data
				return err
			}
			if damaged = nil; rep.crc {
				damaged = t.clock.After(damagedWait)
			}
		}
		switch {
		case failed != nil:
			return failed
		case last && rep.crc:
			return errDamaged
		case last:
			return errTimeout
		}
		select {
		case <-in.more:
		case <-deadline:
			last = true
		case <-damaged:
			last = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look looks for the answer in what has come so far.
func (t *talker) look(slave byte, r request, rep *reply) (data []byte, whole bool, err error) {
	if t.tcp() {
		return t.lookTCP(slave, r, rep)
	}
	f := findRTU(t.buf, slave, r)
	rep.crc = f.damaged
	if f.pdu == nil {
		t.trim()
		rep.foreign = len(t.buf)
		return nil, false, nil
	}
	rep.foreign = f.skipped + f.rest
	data, err = r.parseAnswer(f.pdu)
	return clone(data), true, err
}

// trim bounds what is kept of a line that never falls silent.
func (t *talker) trim() {
	if over := len(t.buf) - 4*maxRTU; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
}

func (t *talker) lookTCP(unit byte, r request, rep *reply) (data []byte, whole bool, err error) {
	for {
		m, n, err := parseTCP(t.buf)
		if err != nil {
			err = &linkError{connectionLost, fmt.Errorf("%s: %w", t.server, err)}
			t.link.in().fail(err)
			return nil, false, err
		}
		if n == 0 {
			return nil, false, nil
		}
		data, err := r.parseAnswer(m.pdu)
		if m.transaction == t.transaction && m.unit == unit && err != errMismatch {
			return clone(data), true, err
		}
		rep.foreign += n
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// pass lets d go by.
func pass(ctx context.Context, clock devices.Clock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-clock.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
