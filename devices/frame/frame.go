// Package frame is the driver "serial-frame": a device that sends frames of bytes over a
// serial port: of one length, with their length in them, or between marks.
//
// It promises that a frame whose checksum is right becomes one group of readings, with the
// instant at which its last byte arrived; that one whose checksum is wrong is counted and
// told, and does not cost the frame behind it; that what lies between frames is counted.
//
// It will not ask or answer: a device that has to be polled needs a driver of its own.
//
// Cutting (cut.go, marks.go) and decoding (layout.go) are pure; package stream keeps the port.
package frame

import (
	"bytes"
	"errors"
	"fmt"

	"holdfast/devices"
	"holdfast/devices/stream"
)

// Driver makes serial-frame devices.
type Driver struct{}

// Settings returns the defaults.
func (Driver) Settings() devices.Settings { return defaults() }

// New makes a device; it opens nothing yet.
func (Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("serial-frame: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("serial-frame"); err != nil {
		return nil, err
	}
	return stream.New(p.Config, env), nil
}

// cutter finds frames in bytes.
type cutter interface {
	// bytes takes more of them and calls found for each frame; data is valid during the call
	// only. fits says whether a frame is one: after one that is not, the search begins
	// inside it. It returns how many bytes belong to no frame.
	bytes(data []byte, fits func(frame []byte) error) (skipped uint64)
	// pause: nothing came for longer than a sender waits within a frame. It returns how
	// many bytes of a frame that has no end are given up.
	pause() uint64
}

// Why a frame is none.
var (
	errChecksum = errors.New("bad checksum")
	errLength   = errors.New("impossible length")
)

// frames is what is known of a port's frames since it was opened.
type frames struct {
	*plan
	*stream.Session
	cut  cutter
	last devices.Instant // when something came
	at   devices.Instant // when what is being looked at came
}

func (p *plan) frames(s *stream.Session) stream.Decoder {
	return &frames{plan: p, Session: s, cut: p.cutter()}
}

// Bytes takes what came.
func (f *frames) Bytes(data []byte, at devices.Instant) {
	if f.gap > 0 && at-f.last > f.gap {
		f.torn(f.cut.pause())
	}
	f.last, f.at = at, at
	if skipped := f.cut.bytes(data, f.frame); skipped > 0 {
		f.Count("bytes_skipped", skipped)
	}
}

// frame takes a frame, unless it is none.
func (f *frames) frame(frame []byte) error {
	content, err := f.checked(frame)
	switch {
	case errors.Is(err, errLength):
		f.Misfit("length_errors", "bad-length", frame, f.at, false)
		return err
	case err != nil:
		f.Misfit("checksum_errors", "bad-checksum", frame, f.at, false)
		return err
	}
	if at := f.matchAt; len(f.match) > 0 && (len(content) < at+len(f.match) || !bytes.Equal(content[at:at+len(f.match)], f.match)) {
		f.Count("frames_ignored", 1)
		return nil
	}
	readings := f.layout.readings(content, f.at)
	if len(readings) == 0 {
		f.Misfit("frames_short", "frame-too-short", frame, f.at, false)
		return nil
	}
	f.Take(readings, f.at, "frames_ok")
	return nil
}

func (f *frames) torn(n uint64) {
	if n > 0 {
		f.Count("frames_torn", 1)
		f.Count("bytes_skipped", n)
	}
}

// End: a frame under way has no end.
func (f *frames) End() { f.torn(f.cut.pause()) }
