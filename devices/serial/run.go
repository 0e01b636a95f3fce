package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

const (
	firstWait = 100 * time.Millisecond // before the first attempt to open again
	maxWait   = 5 * time.Second        // between two attempts
	readSize  = 4096                   // as much as the kernel's line discipline queues (N_TTY_BUF_SIZE)
	readAhead = 16                     // reads that wait while the sink is slow: with readSize, 64 KiB at most
	errorPoll = 10 * time.Second       // between two looks at the receiver's error counts
)

type device struct {
	*plan
	log   *slog.Logger
	clock devices.Clock
	rng   *rand.Rand
}

func newDevice(p *plan, env devices.Env) *device {
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &device{plan: p, log: log.With("port", p.port), clock: env.Clock, rng: seeded(env)}
}

// Run opens the port, reads it until it fails, and begins again.
func (d *device) Run(ctx context.Context, sink devices.Sink) error {
	r := &run{device: d, sink: sink, bad: trouble{every: d.reportEvery}, odd: trouble{every: d.reportEvery}}
	for {
		err := r.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.portDown(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.clock.After(r.nextWait()):
		}
	}
}

// run is the state of one Run.
type run struct {
	*device
	sink devices.Sink
	bad  trouble // what was told as bad quality
	odd  trouble // what was written to the log about single lines
	wait time.Duration
	at   devices.Instant // of the latest reading: it never goes back
	good bool            // a line was taken since the start
}

// nextWait doubles from firstWait to maxWait; half of it is random, so that a hundred
// gateways on one power switch do not move in step.
func (r *run) nextWait() time.Duration {
	r.wait = min(max(2*r.wait, firstWait), maxWait)
	return r.wait/2 + time.Duration(r.rng.Int64N(int64(r.wait/2)))
}

// portDown tells that the port cannot be used.
func (r *run) portDown(err error) {
	reason := tty.Failed
	if e := (*tty.Error)(nil); errors.As(err, &e) {
		reason = e.Reason
	}
	if r.tell(reason, r.clock.Now()) {
		r.log.Warn("no readings: the port cannot be used; trying again until it can", "reason", reason, "err", err)
	}
}

// tell emits a bad reading for each metric, if it is time for that.
func (r *run) tell(reason string, at devices.Instant) bool {
	if !r.bad.due(reason, at) {
		return false
	}
	readings := make([]devices.Reading, len(r.decode.metrics))
	for i, m := range r.decode.metrics {
		readings[i] = devices.Reading{Metric: m.name, Unit: m.unit, Quality: devices.Bad, Reason: reason, At: at}
	}
	r.emit(readings)
	return true
}

func (r *run) emit(readings []devices.Reading) {
	for i := range readings {
		r.at = max(r.at, readings[i].At)
		readings[i].At = r.at
	}
	r.sink.Emit(readings...)
}

// chunk is what one read brought, and when.
type chunk struct {
	data []byte
	at   devices.Instant
	err  error // the last one: why there is no more
}

// read passes on what the port brings until it fails or stop is closed. A stop ends
// it within readWait, as long as somebody takes from out.
func read(p *tty.Port, clock devices.Clock, out chan<- chunk, stop <-chan struct{}) {
	defer close(out)
	buf := make([]byte, readSize)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, err := p.Read(buf)
		if n == 0 && err == nil {
			continue
		}
		c := chunk{at: clock.Now(), err: err}
		if n > 0 {
			c.data = append([]byte(nil), buf[:n]...)
		}
		out <- c
		if err != nil {
			return
		}
	}
}

// session is the time that a port is open. It returns when the port has failed or ctx
// has ended; then the port is closed, the reader gone, and every whole line that the
// reader had is with the sink.
func (r *run) session(ctx context.Context) error {
	p, note, err := tty.Open(r.port, r.mode)
	if err != nil {
		return err
	}
	s := r.begin(p)
	r.log.Info("port open", "baud", r.mode.Baud)
	if note != "" {
		r.log.Warn(note)
	}
	chunks := make(chan chunk, readAhead)
	stop := make(chan struct{})
	go read(p, r.clock, chunks, stop)
	err = s.loop(ctx, chunks)
	close(stop)
	for c := range chunks {
		s.bytes(c)
	}
	// A port that failed has no more chunks, so this is at once: an open descriptor makes
	// a USB adapter come back under another name.
	p.Close()
	s.end()
	return err
}

// session is what is known of a port since it was opened.
type session struct {
	*run
	port    *tty.Port
	split   splitter
	opened  devices.Instant
	fed     bool // a byte came
	quiet   bool // nothing came for a while after opening: the first byte began a line
	lines   uint64
	last    devices.Instant // when a line was last taken, or the port opened
	misfits bool            // lines came since then, but none that fits
	counted tty.LineErrors
	counts  bool // the port counts its receiver's errors
}

func (r *run) begin(p *tty.Port) *session {
	now := r.clock.Now()
	s := &session{
		run: r, port: p, opened: now, last: now,
		split: splitter{delimiter: r.delimiter, trimCR: r.trimCR, max: r.maxLine},
	}
	s.counted, s.counts = s.port.LineErrors()
	return s
}

// loop ends with the read error, or with nil when ctx has ended.
func (s *session) loop(ctx context.Context, chunks <-chan chunk) error {
	stale := s.after(s.staleAfter, s.staleAfter > 0)
	look := s.after(errorPoll, s.counts)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-chunks:
			if !ok {
				return os.ErrClosed
			}
			s.bytes(c)
			if c.err != nil {
				return c.err
			}
		case <-stale:
			stale = s.after(s.idle(len(chunks) > 0), true)
		case <-look:
			s.lookAtErrors()
			look = s.after(errorPoll, s.counts)
		}
	}
}

// after is a timer, or for ever.
func (s *session) after(d time.Duration, on bool) <-chan time.Time {
	if !on {
		return nil
	}
	return s.clock.After(d)
}

// idle tells if no line was taken for too long, and returns when to look again.
func (s *session) idle(waiting bool) time.Duration {
	now := s.clock.Now()
	if left := s.staleAfter - (now - s.last); left > 0 {
		return left
	}
	if waiting { // something came at this very moment
		return time.Second
	}
	reason := "stale"
	if s.misfits {
		reason = "unmatched"
	}
	if s.tell(reason, now) {
		s.log.Warn("no reading for long", "reason", reason, "since", (now - s.last).Round(time.Second))
	}
	return s.reportEvery
}

func (s *session) bytes(c chunk) {
	if len(c.data) == 0 {
		return
	}
	if !s.fed {
		s.fed, s.quiet = true, c.at-s.opened >= gap(s.mode)
		s.wait = 0
	}
	s.sink.Count("bytes", uint64(len(c.data)))
	s.split.feed(c.data, func(data []byte, long bool) { s.line(data, long, c.at) })
}

// gap is a pause that no sender makes within a line: 20 characters of 11 bits, and
// never less than the latency timers of USB adapters (FTDI: 16 ms) with room to spare.
func gap(m tty.Mode) time.Duration {
	return max(100*time.Millisecond, 220*time.Second/time.Duration(m.Baud))
}

func (s *session) line(data []byte, long bool, at devices.Instant) {
	s.lines++
	var readings []devices.Reading
	f, whole := tooLong, false
	if !long {
		readings, f, whole = s.decode.line(data, at)
	}
	// The port may have been opened in the middle of this line.
	torn := s.lines == 1 && !s.quiet && !whole && s.firstLine != "keep"
	if torn && (f != taken || s.firstLine == "discard") {
		s.sink.Count("lines_torn", 1)
		return
	}
	switch f {
	case taken:
		if torn {
			markTorn(readings)
		}
		s.take(readings, at)
	case ignored:
		s.sink.Count("lines_ignored", 1)
	case unmatched:
		s.misfit("lines_unmatched", "unmatched", data, at)
	case undecodable:
		s.misfit("lines_undecodable", "undecodable", data, at)
	case tooLong:
		s.misfit("lines_too_long", "line-too-long", nil, at)
	}
}

// markTorn: the values are what was read, but a digit may be missing at the front.
func markTorn(readings []devices.Reading) {
	for i := range readings {
		if readings[i].Quality == devices.Good {
			readings[i].Quality, readings[i].Reason = devices.Uncertain, "maybe-torn"
		}
	}
}

func (s *session) take(readings []devices.Reading, at devices.Instant) {
	s.last, s.misfits, s.good = at, false, true
	s.bad.over()
	s.emit(readings)
	s.sink.Count("lines_ok", 1)
}

// misfit counts a line that gave no reading. One that arrived damaged was a reading:
// that is told as bad quality. One that does not fit may be chatter, so it is told
// only while none has fitted yet, or when none fits for long (idle).
func (s *session) misfit(counter, reason string, data []byte, at devices.Instant) {
	s.sink.Count(counter, 1)
	s.misfits = true
	if reason != "unmatched" || !s.good {
		s.tell(reason, at)
	}
	if s.odd.due(reason, at) {
		s.log.Warn("a line that gives no reading; more of them are only counted for a while",
			"reason", reason, "line", excerpt(data), "counter", counter, "every", s.reportEvery)
	}
}

// excerpt is the beginning of a line for the log.
func excerpt(data []byte) string {
	if len(data) > 80 {
		return fmt.Sprintf("%q…", data[:80])
	}
	return fmt.Sprintf("%q", data)
}

// lookAtErrors counts what the receiver saw since the last look.
func (s *session) lookAtErrors() {
	now, ok := s.port.LineErrors()
	if !ok {
		return
	}
	for counter, n := range map[string]uint32{
		"framing_errors": now.Frame - s.counted.Frame,
		"parity_errors":  now.Parity - s.counted.Parity,
		"breaks":         now.Break - s.counted.Break,
		"overruns":       now.Overrun - s.counted.Overrun + now.Dropped - s.counted.Dropped,
	} {
		if n > 0 {
			s.sink.Count(counter, uint64(n))
		}
	}
	s.counted = now
}

// end: what came of a line whose end never will.
func (s *session) end() {
	if s.split.open() {
		s.sink.Count("lines_torn", 1)
	}
	if s.clock.Now()-s.opened >= maxWait {
		s.wait = 0
	}
}
