// Package devices says what a reading is and what a driver must do.
//
// A driver turns one physical thing (a serial line, a Modbus slave, a pin) into
// readings. It promises that whatever goes wrong on the wire is told as a reading
// of bad quality with a reason, never as silence, and that it never blocks the
// others. It does not know about signing, storing or sending.
//
// Every driver passes the contract test drivertest.Run.
package devices

import (
	"context"
	"log/slog"
	"time"
)

// Instant is a moment on this boot's monotonic clock (CLOCK_BOOTTIME): the time
// since the kernel started, suspend included. It is never stepped.
type Instant = time.Duration

// Kind says which field of a Value holds.
type Kind uint8

// The kinds of value, after the value fields of RFC 8428 section 4.2.
const (
	KindNone   Kind = iota // no value: a bad reading
	KindNumber             // SenML "v"
	KindText               // SenML "vs"
	KindBool               // SenML "vb"
	KindBytes              // SenML "vd"
)

// Value is one number, text, bool or byte string, or none.
type Value struct {
	Kind  Kind
	Num   float64 // KindNumber; never NaN or infinite
	Text  string  // KindText: valid UTF-8
	Bool  bool    // KindBool
	Bytes []byte  // KindBytes
}

// Number makes a numeric value.
func Number(v float64) Value { return Value{Kind: KindNumber, Num: v} }

// Text makes a text value.
func Text(s string) Value { return Value{Kind: KindText, Text: s} }

// Bool makes a truth value.
func Bool(b bool) Value { return Value{Kind: KindBool, Bool: b} }

// Bytes makes a byte-string value.
func Bytes(b []byte) Value { return Value{Kind: KindBytes, Bytes: b} }

// Quality says how far a reading may be trusted.
type Quality uint8

// Good is the zero value; a bad reading carries no value.
const (
	Good Quality = iota
	Uncertain
	Bad
)

func (q Quality) String() string {
	switch q {
	case Good:
		return "good"
	case Uncertain:
		return "uncertain"
	}
	return "bad"
}

// Reading is one value of one metric of one device at one instant.
type Reading struct {
	Device  string // the configured name; filled in by the agent
	Metric  string // [A-Za-z0-9][A-Za-z0-9_.-]*
	Value   Value  // KindNone if and only if Quality is Bad
	Unit    string // SenML unit (RFC 8428 section 12.1, RFC 8798), or ""
	Quality Quality
	Reason  string // why it is not Good: short stable words, "port-lost", "timeout"
	At      Instant
}

// Metric is what readings may be of.
type Metric struct{ Name, Unit string }

// Sink takes readings. The readings of one Emit belong together (one line, one
// poll). Emit returns when they can no longer be lost by a crash of the process; the
// slice is then the sink's to keep. A device calls its sink from one goroutine.
type Sink interface {
	Emit(readings ...Reading)
	// Hold is true while the buffer is full and when_full is "block": a device that
	// is polled skips the poll and counts it, one that pushes emits all the same.
	Hold() bool
	// Count adds to a named counter of this device ("lines_too_long", snake case); it
	// is shown by status and in the metrics.
	Count(counter string, n uint64)
}

// Device produces readings until ctx ends.
type Device interface {
	// Run blocks, reconnecting as often as it must. It returns ctx.Err(), or an
	// error that no waiting can mend (the agent then reports the device as failed).
	// When it returns, every descriptor and goroutine that it had is gone.
	Run(ctx context.Context, sink Sink) error
}

// Env is what the outside gives to a device. Clock and randomness are injected.
type Env struct {
	Name  string // the device's configured name
	Log   *slog.Logger
	Clock Clock
	Seed  uint64 // for sim; 0: from the name
	// Heard takes the time that a device knows from outside (a satellite receiver): it was utc at the
	// instant at, or up to bound later. nil: nobody listens.
	Heard func(at Instant, utc time.Time, bound time.Duration)
	// StateDir is for what must survive a power cut, written rarely: it is on the card. The device makes
	// it when it has something to keep. "": nothing can be kept.
	StateDir string
	// RuntimeDir is the same for what must survive the process only: a tmpfs. "": there is none.
	RuntimeDir string
	// Line finds a GPIO line by any name that lasts: the header's pin ("pin11", "P9_12"), the BCM
	// number ("GPIO17"), the chip's label and the offset ("pinctrl-bcm2711:17"). Ask at each opening:
	// the path may be another one after a chip was gone. nil: no board is known (tests).
	Line func(name string) (Line, error)
}

// Line is a GPIO line where it is now.
type Line struct {
	Path   string // of its chip now: "/dev/gpiochip0"
	Chip   string // the chip's label, which lasts
	Offset uint32
}

// Clock is the boot-monotonic clock and its timers.
type Clock interface {
	Now() Instant
	After(d time.Duration) <-chan time.Time
}

// Problem is one mistake in a device's settings.
type Problem struct {
	Key     string // the key within the device's table, "" for the table
	Message string // what is wrong and what to do
	Warning bool   // true: it runs, but the user should know
}

// Settings is a driver's part of a [[device]] table: a pointer to a struct with
// `toml` tags, made with its defaults filled in.
type Settings interface {
	Check() []Problem
}

// Sharer is implemented by the Settings of devices that share a port with others of
// their driver: slaves on one line.
type Sharer interface {
	// CannotShare says why not with the other one, which names the same port; "": it can.
	CannotShare(other Settings) string
}

// LineUser is implemented by the Settings of devices that use GPIO lines: check holds them
// against the board.
type LineUser interface {
	Lines() []LineUse
}

// LineUse is one line that is named in the settings.
type LineUse struct {
	Key  string // where it is named
	Name string // as Env.Line takes it
}

// Driver makes devices of one kind.
type Driver interface {
	Settings() Settings
	New(settings Settings, env Env) (Device, error)
}
