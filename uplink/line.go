package uplink

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

const (
	// maxUnsettled bounds what was acknowledged upstream and not yet told the Source.
	maxUnsettled = 64 << 10
	// maxAside bounds the rejected messages that wait for another to succeed.
	maxAside = 16
	// patience is how often a message is tried again before others may overtake it.
	patience = 5
	// strikes are the server's disconnects with a message alone in flight that make it
	// poison; dropStrikes counts connections that just ended, which mostly is the
	// network's doing.
	strikes     = 3
	dropStrikes = 10
)

// line is the state of the uplink that outlasts connections: what is in flight and
// what is in doubt. The pump sends for it, paho's client reports to it (session.go).
// The Source is never called under its lock.
type line struct {
	log  *slog.Logger
	now  func() time.Duration
	rand func() float64
	tune tuning
	wake chan struct{} // the pump: something may be sent
	kick chan struct{} // the settler: something is settled

	mu        sync.Mutex
	fl        *flights
	held      map[uint64]struct{} // in flight, in trouble or not settled: not to be read again
	requests  map[uint16]request  // SUBSCRIBE and its like
	w         io.Writer           // nil: not connected
	window    int                 // min(server's Receive Maximum, ours)
	limit     int                 // below the window while in doubt; grows with each success
	maxPacket int                 // the server's Maximum Packet Size
	present   bool
	succeeded bool // on this connection
	goodbye   *packets.Disconnect

	troubles  map[uint64]*trouble
	retry     []*trouble // to be sent again, by position
	retrying  bool       // the first of them was sent since the last failure
	aside     []*trouble // rejected, until another message succeeds
	asideTill time.Duration
	holdTill  time.Duration
	stopped   string
	againWait backoff
	stopWait  backoff

	doubt  suspicion
	needed int // disconnects that make a message poison

	acks   []uint64
	bad    []verdictOn
	unsaid int // answers since the pump was woken

	ackedAt time.Duration // the last PUBACK, or when the first in flight was sent
	probe   uint16        // packet id whose round trip is measured
	probeAt time.Duration
	n       Status // the counters and RTT, LastError
}

// trouble is a message that the server answered with a failure.
type trouble struct {
	pos     uint64
	why     string
	tries   int
	bad     bool // the server says that it is the message
	witness bool // another one has succeeded since it was put aside
}

// verdictOn is a message to be quarantined.
type verdictOn struct {
	pos uint64
	why string
}

// suspicion counts the connections that ended with one message alone in flight.
type suspicion struct {
	pos        uint64
	hard, soft int // ended by a DISCONNECT, just ended
}

func newLine(o Options, window int, tune tuning) *line {
	return &line{
		log: o.Log, now: o.Now, rand: o.Rand, tune: tune,
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		fl: newFlights(window), held: map[uint64]struct{}{}, requests: map[uint16]request{},
		troubles: map[uint64]*trouble{}, limit: window, needed: strikes,
		againWait: backoff{base: tune.againBase, max: tune.againMax},
		stopWait:  backoff{base: tune.stopBase, max: tune.stopMax},
	}
}

// signal wakes one waiter of a channel with room for one signal.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// puback takes the server's answer to a PUBLISH (§3.4).
func (l *line) puback(id uint16, code byte, words string) {
	f := l.fl.get(id)
	if f == nil || !f.sent { // an answer to nothing that was asked on this connection
		l.n.UnknownPubacks++
		return
	}
	if id == l.probe {
		l.measure()
	}
	pos := f.pos
	l.fl.remove(id)
	// The server should never run dry: idle alone would come once per window.
	if l.unsaid++; l.unsaid >= max(8, l.window/8) {
		l.unsaid = 0
		signal(l.wake)
	}
	switch reasonOf(code).puback {
	case ok:
		l.success(pos)
	case again:
		l.n.Retried++
		l.tryAgain(pos, code, words)
	case stop:
		l.n.Refused++
		t := l.troubled(pos, code, words)
		l.enqueue(t)
		l.stopLine(t)
	case poison:
		l.n.Rejected++
		l.reject(pos, code, words)
	}
}

// success settles a message and clears doubts: others may be judged by it.
func (l *line) success(pos uint64) {
	l.n.Acked++
	l.acks = append(l.acks, pos)
	delete(l.troubles, pos)
	l.succeeded, l.stopped, l.needed = true, "", strikes
	l.limit = min(l.limit+1, l.window)
	l.againWait.reset()
	l.stopWait.reset()
	if l.doubt.pos == pos {
		l.doubt = suspicion{}
	}
	for _, t := range l.aside {
		if t.witness = true; t.bad {
			l.quarantine(t.pos, t.why)
		} else {
			l.enqueue(t)
		}
	}
	l.aside = l.aside[:0]
}

// troubled notes the failure of a message.
func (l *line) troubled(pos uint64, code byte, words string) *trouble {
	t := l.troubles[pos]
	if t == nil {
		t = &trouble{pos: pos}
		l.troubles[pos] = t
	}
	t.tries++
	t.why = refusal("PUBACK", code, words)
	l.lastError(fmt.Sprintf("message at position %d: %s", pos, t.why))
	return t
}

// enqueue puts a message among those to be sent again, and stops the line until those
// are through: what comes later should not overtake them more than it has.
func (l *line) enqueue(t *trouble) {
	i, _ := slices.BinarySearchFunc(l.retry, t.pos, func(t *trouble, pos uint64) int {
		if t.pos < pos {
			return -1
		}
		return 1
	})
	l.retry = slices.Insert(l.retry, i, t)
	l.retrying = false
	l.limit = 1
}

// tryAgain holds the line for a while. A message that fails again and again lets the
// others pass; if it fails after one of them succeeded, it is the message.
func (l *line) tryAgain(pos uint64, code byte, words string) {
	t := l.troubled(pos, code, words)
	ofServer := code == 0x97 || code == 0x91 // says nothing about the message
	switch {
	case t.witness && !ofServer:
		l.quarantine(pos, t.why)
	case t.tries >= patience && !ofServer:
		l.putAside(t)
	default:
		l.enqueue(t)
		if !l.onHold() { // the answers of one window are one failure
			l.holdTill = l.now() + l.againWait.next(l.rand)
		}
	}
}

// reject takes a message out if others succeed; if none has, the server may reject all.
func (l *line) reject(pos uint64, code byte, words string) {
	t := l.troubled(pos, code, words)
	t.bad = true
	if l.succeeded || t.witness {
		l.quarantine(pos, t.why)
		return
	}
	l.putAside(t)
}

// putAside lets others pass until one succeeds, or it is time to try again without. If
// many are rejected and none succeeds, it is not the messages: the line stops.
func (l *line) putAside(t *trouble) {
	if len(l.aside) == 0 {
		l.asideTill = l.now() + l.stopWait.slow(l.rand)
	}
	l.aside = append(l.aside, t)
	if len(l.aside) >= maxAside {
		l.recallAside()
		l.stopLine(t)
	}
}

// recallAside gives up waiting for a witness: all of them are tried once more.
func (l *line) recallAside() {
	for _, t := range l.aside {
		l.enqueue(t)
	}
	l.aside = l.aside[:0]
}

// onHold says that nothing is sent for a while because something failed.
func (l *line) onHold() bool { return l.now() < l.holdTill }

// stopLine holds the line until somebody has acted; it is tried slowly meanwhile. The
// refusals of one window are one failure.
func (l *line) stopLine(t *trouble) {
	if l.stopped != "" && l.onHold() {
		return
	}
	l.stopped = t.why
	wait := l.stopWait.slow(l.rand)
	l.holdTill = l.now() + wait
	l.log.Warn("uplink stopped", "reason", t.why, "next_try_in", wait)
}

// quarantine takes a message out of the line; the settler tells the Source.
func (l *line) quarantine(pos uint64, why string) {
	l.n.Quarantined++
	delete(l.troubles, pos)
	l.bad = append(l.bad, verdictOn{pos, why})
	l.lastError(fmt.Sprintf("message at position %d quarantined: %s", pos, why))
	l.log.Error("message quarantined", "position", pos, "reason", why)
	signal(l.kick)
}

func (l *line) lastError(s string) {
	l.n.LastError, l.n.LastErrorAt = s, l.now()
}

// measure smooths the round trip time as RFC 6298 §2 does, gain 1/8.
func (l *line) measure() {
	rtt := l.now() - l.probeAt
	l.probe = 0
	if l.n.RTT == 0 {
		l.n.RTT = rtt
		return
	}
	l.n.RTT += (rtt - l.n.RTT) / 8
}

// ended judges the end of a connection: why says what ended it, reset that it was
// closed without a DISCONNECT by the other side. Nothing is suspected when we did it.
func (l *line) ended(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	blamed := l.goodbye != nil && reasonOf(l.goodbye.ReasonCode).disconnect == suspect
	if l.fl.wire == 0 || !blamed && (!reset || l.goodbye != nil || l.succeeded) {
		return
	}
	// One at a time from here on: the servers take messages in order, so the first
	// unacknowledged one is the likeliest, and each success widens the window again.
	pos, alone := l.fl.alone()
	l.limit = 1
	if !alone {
		return
	}
	if l.doubt.pos != pos {
		l.doubt = suspicion{pos: pos}
	}
	if blamed {
		l.doubt.hard++
	} else {
		l.doubt.soft++
	}
	if l.doubt.hard >= l.needed || l.doubt.soft >= max(dropStrikes, l.needed) {
		l.condemn(pos)
	}
}

// condemn quarantines the message that was alone in flight at too many ends. Without a
// success before the next one, that needs twice as many: a server that throws out
// everything must not eat the backlog.
func (l *line) condemn(pos uint64) {
	why := fmt.Sprintf("alone in flight when the server closed the connection %d times", l.doubt.hard+l.doubt.soft)
	if l.goodbye != nil {
		why += ", last with " + refusalOf(l.goodbye)
	}
	l.fl.each(func(id uint16, f *flight) {
		if f.pos == pos {
			l.fl.remove(id)
		}
	})
	l.quarantine(pos, why)
	l.doubt = suspicion{}
	l.needed = min(2*l.needed, 1<<16)
}

func refusalOf(d *packets.Disconnect) string {
	words := ""
	if d.Properties != nil {
		words = d.Properties.ReasonString
	}
	return refusal("DISCONNECT", d.ReasonCode, words)
}
