package tty

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	lib "go.bug.st/serial"
	"golang.org/x/sys/unix"

	"holdfast/devices"
)

// Mode is how a port is set.
type Mode struct {
	Baud     uint32
	DataBits byte // 5 to 8
	Parity   byte // 'N', 'E', 'O'
	StopBits byte // 1 or 2
}

func (m Mode) String() string {
	return fmt.Sprintf("%d %d%c%d", m.Baud, m.DataBits, m.Parity, m.StopBits)
}

// Chars is the time that n characters take on the wire: a start bit, data, parity and
// stop bits each.
func (m Mode) Chars(n float64) time.Duration {
	bits := 1 + int(m.DataBits) + int(m.StopBits)
	if m.Parity != 'N' {
		bits++
	}
	return time.Duration(n * float64(bits) * float64(time.Second) / float64(m.Baud))
}

// The rates that termios names (asm-generic/termbits.h); others may work too.
var usualRates = []int{
	50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800,
	500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
}

// ParseMode reads the settings "baud" and "frame" ("8N1"), and tells what is wrong with
// them; with a problem that is no warning the Mode is not to be used.
func ParseMode(baud int, frame string) (Mode, []devices.Problem) {
	m := Mode{Baud: uint32(max(0, baud))}
	var problems []devices.Problem
	switch {
	case baud < 50 || baud > 4000000:
		problems = append(problems, devices.Problem{Key: "baud", Message: fmt.Sprintf("want 50 to 4000000 bits per second, not %d", baud)})
	case !slices.Contains(usualRates, baud):
		problems = append(problems, devices.Problem{Key: "baud", Warning: true,
			Message: fmt.Sprintf("%d is an unusual rate (9600, 19200, 38400, 57600 and 115200 are common): not every port can do it", baud)})
	}
	f := strings.ToUpper(frame)
	if len(f) != 3 || f[0] < '5' || f[0] > '8' || !strings.Contains("NEO", f[1:2]) || f[2] != '1' && f[2] != '2' {
		return m, append(problems, devices.Problem{Key: "frame",
			Message: fmt.Sprintf(`%q: want data bits 5-8, parity N, E or O, stop bits 1 or 2, such as "8N1" or "7E1"`, frame)})
	}
	m.DataBits, m.Parity, m.StopBits = f[0]-'0', f[1], f[2]-'0'
	return m, problems
}

// A numbered name is given out in the order of plugging.
var numbered = regexp.MustCompile(`^/dev/tty(USB|ACM)[0-9]+$`)

// CheckPath tells what is wrong with the setting "port". A port that is absent is no
// problem: it may be plugged in later.
func CheckPath(path string) []devices.Problem {
	switch {
	case path == "":
		return []devices.Problem{{Key: "port", Message: "missing: name the serial port (`holdfast devices` lists them)"}}
	case !filepath.IsAbs(path):
		return []devices.Problem{{Key: "port", Message: fmt.Sprintf("%q is not an absolute path such as /dev/serial/by-id/usb-…", path)}}
	case numbered.MatchString(path):
		return []devices.Problem{{Key: "port", Warning: true, Message: path +
			" is numbered in the order of plugging and may name another device tomorrow: use its name under /dev/serial/by-id (`holdfast devices` shows it)"}}
	}
	return nil
}

func (m Mode) forLib() *lib.Mode {
	return &lib.Mode{
		BaudRate: int(m.Baud), DataBits: int(m.DataBits),
		Parity:   map[byte]lib.Parity{'N': lib.NoParity, 'E': lib.EvenParity, 'O': lib.OddParity}[m.Parity],
		StopBits: map[byte]lib.StopBits{1: lib.OneStopBit, 2: lib.TwoStopBits}[m.StopBits],
	}
}

// frame is the mode's data, parity and stop bits as termios(3) has them.
func (m Mode) frame() uint32 {
	f := map[byte]uint32{5: unix.CS5, 6: unix.CS6, 7: unix.CS7, 8: unix.CS8}[m.DataBits] |
		map[byte]uint32{'E': unix.PARENB, 'O': unix.PARENB | unix.PARODD}[m.Parity]
	if m.StopBits == 2 {
		f |= unix.CSTOPB
	}
	return f
}
