package stream

import (
	"testing"

	"go.uber.org/goleak"
)

// What this package does is tested through its drivers, on pseudo-terminals: serial-line, serial-frame, nmea.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
