package serial

import (
	"fmt"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/stream"
)

// bench runs a device on a line, under a clock that the test moves.
type bench struct{ *drivertest.Bench }

func start(t testing.TB, s *Settings) *bench {
	t.Helper()
	return &bench{drivertest.Start(t, Driver{}, s, stream.MaxWait)}
}

// want waits for n readings without letting time go by, drive lets it.
func (b *bench) want(n int) []devices.Reading {
	b.Helper()
	b.Wait(b, fmt.Sprintf("%d readings", n), func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= n })
	return b.Readings()
}

func (b *bench) drive(n int) []devices.Reading {
	b.Helper()
	b.Drive(fmt.Sprintf("%d readings", n), func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= n })
	return b.Readings()
}

func (b *bench) wantCount(counter string, n uint64) {
	b.Helper()
	b.Wait(b, fmt.Sprintf("%s = %d", counter, n), func(_ []devices.Reading, c map[string]uint64) bool { return c[counter] == n })
}

func scale(l *line) *Settings {
	s := defaults()
	s.Port = l.Path
	s.Pattern = `^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$`
	s.Units = map[string]string{"weight": "kg"}
	return s
}

func (b *bench) equal(got []devices.Reading, want ...string) {
	b.Helper()
	var shown []string
	for _, r := range got {
		shown = append(shown, drivertest.Show(r))
	}
	if fmt.Sprint(shown) != fmt.Sprint(want) {
		b.Errorf("readings\n got %q\nwant %q", shown, want)
	}
}

func TestLinesBecomeReadings(t *testing.T) {
	l := newLine(t)
	b := start(t, scale(l))
	l.Send("n=1 w=12.50\r\nn=2 w=")
	b.equal(b.want(2), "n=1", "weight=12.5kg")
	b.Clock.Advance(time.Second)
	l.Send("0.4\nhello\nn=3 w=1\n")
	b.equal(b.want(6)[2:], "n=2", "weight=0.4kg", "n=3", "weight=1kg")
	b.wantCount("lines_unmatched", 1)
	b.wantCount("lines_ok", 3)
	r := b.Readings()
	if r[2].At != time.Hour+time.Second || r[2].At != r[3].At {
		t.Errorf("a line's instant is the arrival of its last byte: %v %v", r[2].At, r[3].At)
	}
}

func TestVanishAndReturn(t *testing.T) {
	l := newLine(t)
	b := start(t, scale(l))
	l.Send("n=1 w=1\nn=2")
	b.want(2)
	b.wantCount("bytes", 11)
	l.Unplug()
	b.equal(b.want(4)[2:], "n= bad:port-lost", "weight=kg bad:port-lost")
	b.wantCount("lines_torn", 1)
	// For a minute nothing new is told; then it is told again.
	told := b.drive(6)[4:]
	b.equal(told, "n= bad:port-lost", "weight=kg bad:port-lost")
	if since := told[0].At - time.Hour; since < time.Minute || since > time.Minute+2*stream.MaxWait {
		t.Errorf("told again after %v, want a minute", since)
	}
	l.Plug()
	l.Send("n=3 w=3\n")
	b.equal(b.drive(8)[6:], "n=3", "weight=3kg")
}
