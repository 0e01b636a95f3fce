package nmea

import (
	"errors"
	"time"

	"holdfast/devices"
	"holdfast/devices/stream"
	"holdfast/devices/text"
)

// maxCycle bounds the sentences that are waited for.
const maxCycle = 32

// lateness is how long after the moment that it names a fix may arrive: receivers begin to send within
// half a second, and the first sentence takes a tenth of one at 9600 baud.
const lateness = time.Second

// cycle gathers the sentences of one fix. A receiver sends them in a burst, once per fix, always in the same
// order: a burst is over when a sentence with another time comes, or as soon as it has as many sentences as
// the one before and ends with the same type.
type cycle struct {
	*plan
	*stream.Session
	split    text.Splitter
	lines    int
	now      fix
	at       devices.Instant // when its first sentence came
	expected int             // sentences of a burst, 0: not known
	ending   string          // the type of its last one
}

func (p *plan) decoder(s *stream.Session) stream.Decoder {
	return &cycle{plan: p, Session: s, split: text.Splitter{Delimiter: []byte("\n"), TrimCR: true, Max: maxSentence}}
}

// Bytes takes what came.
func (c *cycle) Bytes(data []byte, at devices.Instant) {
	c.split.Feed(data, func(line []byte, long bool) { c.line(line, long, at) })
}

func (c *cycle) line(line []byte, long bool, at devices.Instant) {
	c.lines++
	torn := c.lines == 1 && !c.Quiet()
	if long {
		c.Misfit("lines_too_long", "line-too-long", nil, at, false)
		return
	}
	s, err := parse(line, c.checksum)
	switch {
	case err == nil && takes(&s):
		c.Count("sentences_ok", 1)
		c.sentence(&s, at)
	case err == nil:
		c.Count("sentences_ignored", 1)
	case torn:
		c.Count("lines_torn", 1)
	case len(line) == 0:
	case errors.Is(err, errChecksum):
		c.Misfit("checksum_errors", "bad-checksum", line, at, false)
	default:
		c.Misfit("lines_unmatched", "unmatched", line, at, true)
	}
}

func (c *cycle) sentence(s *sentence, at devices.Instant) {
	if t := timeOf(s); c.now.n > 0 && (t != "" && c.now.utc != "" && t != c.now.utc || c.again(s) || c.now.n >= maxCycle) {
		c.flush()
	}
	if c.now.n == 0 {
		c.at = at
	}
	c.now.add(s)
	if c.expected > 0 && c.now.n >= c.expected && s.kind == c.ending {
		c.flush()
	}
}

// again says that a sentence without time comes a second time. GSA does, for each system.
func (c *cycle) again(s *sentence) bool { return s.kind == "VTG" && c.now.last == "VTG" }

func (c *cycle) flush() {
	if t, ok := c.now.clock(); ok && c.now.valid && c.heard != nil {
		c.heard(c.at, t, lateness)
	}
	readings := c.now.readings(c.wanted, c.at)
	if c.now.bad > 0 {
		c.Count("fields_bad", uint64(c.now.bad))
	}
	c.expected, c.ending = c.now.n, c.now.last
	c.now = fix{}
	if len(readings) > 0 {
		c.Take(readings, c.at, "fixes")
	}
}

// End: a burst that was cut off is what it is.
func (c *cycle) End() {
	if c.split.Open() {
		c.Count("lines_torn", 1)
	}
	if c.now.n > 0 {
		c.flush()
	}
}
