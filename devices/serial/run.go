package serial

import (
	"holdfast/devices"
	"holdfast/devices/stream"
	"holdfast/devices/text"
)

// lines is what is known of a port's lines since it was opened.
type lines struct {
	*plan
	*stream.Session
	split text.Splitter
	n     uint64
}

func (p *plan) lines(s *stream.Session) stream.Decoder {
	return &lines{plan: p, Session: s, split: p.splitter()}
}

func (p *plan) splitter() text.Splitter {
	return text.Splitter{Delimiter: p.delimiter, TrimCR: p.trimCR, Max: p.maxLine}
}

// Bytes takes what came.
func (l *lines) Bytes(data []byte, at devices.Instant) {
	l.split.Feed(data, func(line []byte, long bool) { l.line(line, long, at) })
}

func (l *lines) line(data []byte, long bool, at devices.Instant) {
	l.n++
	var readings []devices.Reading
	f, whole := text.Unmatched, false
	if !long {
		readings, f, whole = l.decode.Line(data, at)
	}
	// The port may have been opened in the middle of this line.
	torn := l.n == 1 && !l.Quiet() && !whole && l.firstLine != "keep"
	if torn && (f != text.Taken || l.firstLine == "discard") {
		l.Count("lines_torn", 1)
		return
	}
	switch {
	case long:
		l.Misfit("lines_too_long", "line-too-long", nil, at, false)
	case f == text.Taken:
		if torn {
			markTorn(readings)
		}
		l.Take(readings, at, "lines_ok")
	case f == text.Ignored:
		l.Count("lines_ignored", 1)
	case f == text.Unmatched:
		l.Misfit("lines_unmatched", "unmatched", data, at, true)
	case f == text.Undecodable:
		l.Misfit("lines_undecodable", "undecodable", data, at, false)
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

// End: what came of a line whose end never will.
func (l *lines) End() {
	if l.split.Open() {
		l.Count("lines_torn", 1)
	}
}
