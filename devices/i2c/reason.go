package i2c

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"holdfast/devices"
)

// The reasons of bad quality.
const (
	busLost     = "bus-lost"    // not there, or gone
	busDenied   = "bus-denied"  // not allowed
	notABus     = "not-a-bus"   // another kind of file
	busHung     = "bus-hung"    // a line is held low
	busError    = "bus-error"   // anything else
	chipInUse   = "chip-in-use" // a driver of the kernel has it
	nack        = "nack"        // nobody answers at the address
	wrongChip   = "wrong-chip"  // somebody else does
	badChecksum = "bad-checksum"
	notReady    = "not-ready"    // the conversion does not end
	notMeasured = "not-measured" // it ended, without a value
)

// Reasons of uncertain quality.
const (
	overRange  = "over-range"   // at the end of the converter's range: it may be more
	outOfRange = "out-of-range" // beyond what the chip is made for
)

// failure is an error whose reason is known where it arises.
type failure struct {
	reason string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// reasonOf is the word for an error of a transaction. What adapters return is in the
// kernel's Documentation/i2c/fault-codes.rst.
func reasonOf(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.reason
	}
	for _, c := range []struct {
		reason string
		codes  []unix.Errno
	}{
		{nack, []unix.Errno{unix.ENXIO, unix.EREMOTEIO}},
		{busHung, []unix.Errno{unix.ETIMEDOUT, unix.EBUSY, unix.EAGAIN}},
		{busLost, []unix.Errno{unix.ENODEV, unix.ENOENT, unix.ESHUTDOWN, unix.EPIPE}},
	} {
		for _, code := range c.codes {
			if errors.Is(err, code) {
				return c.reason
			}
		}
	}
	return busError
}

// within marks a number that is beyond what the chip is made for.
func within(r devices.Reading, low, high float64) devices.Reading {
	if r.Quality == devices.Good && !(r.Value.Num >= low && r.Value.Num <= high) {
		r.Quality, r.Reason = devices.Uncertain, outOfRange
	}
	return r
}

func clipped(r devices.Reading, is bool) devices.Reading {
	if is {
		r.Quality, r.Reason = devices.Uncertain, overRange
	}
	return r
}

func bad(r devices.Reading, reason string) devices.Reading {
	r.Value, r.Quality, r.Reason = devices.Value{}, devices.Bad, reason
	return r
}

// decimals rounds: digits below a converter's step are noise that costs bytes.
func decimals(v float64, n int) float64 {
	p := math.Pow10(n)
	return math.Round(v*p) / p
}

// identify compares what a chip says of itself.
func identify(what string, got, want uint16) error {
	if got != want {
		return &failure{wrongChip, fmt.Errorf("%s is %#x, want %#x: another chip is at this address", what, got, want)}
	}
	return nil
}
