package devices

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootClock is the real Clock: CLOCK_BOOTTIME and the runtime's timers.
func BootClock() Clock { return bootClock{} }

type bootClock struct{}

func (bootClock) Now() Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // Linux 2.6.39 and later have it
	}
	return Instant(ts.Nano())
}

func (bootClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
