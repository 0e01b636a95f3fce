package stream

import (
	"fmt"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

// Session is the time from a port's opening to its end, as a Decoder sees it.
type Session struct {
	*run
	port    *tty.Port
	decoder Decoder
	opened  devices.Instant
	fed     bool            // a byte came
	quiet   bool            // nothing came for a while after opening
	last    devices.Instant // when something was last taken, or the port opened
	misfits bool            // what came since then did not fit
	counted tty.LineErrors
	counts  bool // the port counts its receiver's errors
}

func (r *run) begin(p *tty.Port) *Session {
	now := r.clock.Now()
	s := &Session{run: r, port: p, opened: now, last: now}
	s.counted, s.counts = s.port.LineErrors()
	s.decoder = r.Decoder(s)
	return s
}

// Take passes on the readings of one piece, taken at one instant, and counts it.
func (s *Session) Take(readings []devices.Reading, at devices.Instant, counter string) {
	s.last, s.misfits, s.good = at, false, true
	s.bad.Over()
	s.emit(readings)
	s.sink.Count(counter, 1)
}

// Misfit counts a piece that gives no reading. One that arrived damaged was a reading:
// that is told as bad quality. One that does not fit may be chatter (chatter), so it is
// told only while nothing has fitted yet, or when nothing fits for long.
func (s *Session) Misfit(counter, reason string, data []byte, at devices.Instant, chatter bool) {
	s.sink.Count(counter, 1)
	s.misfits = true
	if !chatter || !s.good {
		s.tell(reason, at)
	}
	if s.odd.Due(reason, at) {
		s.log.Warn("a piece that gives no reading; more of them are only counted for a while",
			"reason", reason, "bytes", excerpt(data), "counter", counter, "every", s.ReportEvery)
	}
}

// Count adds to a counter of the device.
func (s *Session) Count(counter string, n uint64) { s.sink.Count(counter, n) }

// Quiet says that nothing came for a while after the port was opened: what comes first has
// not lost its head.
func (s *Session) Quiet() bool { return s.quiet }

// after is a timer, or for ever.
func (s *Session) after(d time.Duration, on bool) <-chan time.Time {
	if !on {
		return nil
	}
	return s.clock.After(d)
}

// idle tells if nothing was taken for too long, and returns when to look again.
func (s *Session) idle(waiting bool) time.Duration {
	now := s.clock.Now()
	if left := s.StaleAfter - (now - s.last); left > 0 {
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
	return s.ReportEvery
}

func (s *Session) bytes(c chunk) {
	if len(c.data) == 0 {
		return
	}
	if !s.fed {
		s.fed, s.quiet = true, c.at-s.opened >= gap(s.Mode)
		s.wait = 0
	}
	s.sink.Count("bytes", uint64(len(c.data)))
	s.decoder.Bytes(c.data, c.at)
}

// gap is a pause that no sender makes within a line: 20 characters of 11 bits, and
// never less than the latency timers of USB adapters (FTDI: 16 ms) with room to spare.
func gap(m tty.Mode) time.Duration {
	return max(100*time.Millisecond, 220*time.Second/time.Duration(m.Baud))
}

// excerpt is the beginning of a piece for the log.
func excerpt(data []byte) string {
	if len(data) > 80 {
		return fmt.Sprintf("%q…", data[:80])
	}
	return fmt.Sprintf("%q", data)
}

// lookAtErrors counts what the receiver saw since the last look.
func (s *Session) lookAtErrors() {
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
