package serial

import (
	"testing"

	"go.uber.org/goleak"

	"holdfast/devices/drivertest"
	"holdfast/devices/tty"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type line = drivertest.Line

func newLine(t testing.TB) *line { return drivertest.NewLine(t) }

const portLost, portFailed = tty.Lost, tty.Failed
