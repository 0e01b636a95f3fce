package holdfast

import (
	"fmt"
	"testing"
	"time"

	"holdfast/devices/drivertest"
)

// BenchmarkNMEA is what a satellite receiver that sends 10 sentences a second (5 fixes of GGA and RMC) costs the built
// agent, from the pseudo-terminal to the acknowledged message.
func BenchmarkNMEA(b *testing.B) {
	line := drivertest.NewLine(b)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			at := time.Date(2026, 3, 23, 10, 0, 0, 0, time.UTC).Add(time.Duration(n) * 200 * time.Millisecond)
			clock, east := at.Format("150405.00"), n%100000
			_, _ = line.Pty.WriteString(sentence(fmt.Sprintf("GNGGA,%s,4807.03800,N,011%02d.%05d,E,4,12,0.9,545.4,M,46.9,M,1.0,0000", clock, 31, east)) +
				sentence(fmt.Sprintf("GNRMC,%s,A,4807.03800,N,011%02d.%05d,E,12.5,84.4,230326,,,R", clock, 31, east))) // nobody reads it before the agent runs
		}
	}()
	defer func() { close(stop); <-stopped }()
	benchDevice(b, fmt.Sprintf("[[device]]\nname = \"gps\"\ndriver = \"nmea\"\nport = %q\nbaud = 9600\n", line.Path))
}

// sentence adds what IEC 61162-1 puts around: "$", the XOR of all bytes between, CR LF.
func sentence(text string) string {
	sum := byte(0)
	for i := range len(text) {
		sum ^= text[i]
	}
	return fmt.Sprintf("$%s*%02X\r\n", text, sum)
}
