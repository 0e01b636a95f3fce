package modbus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/systemd/freeport"
)

// Two implementations that are not ours: libmodbus in C, pymodbus in Python.

// launch runs a peer until the test ends, and returns when it can be asked.
func launch(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("%s %v did not start; this test needs the Debian packages libmodbus-dev, gcc, libc6-dev, python3-pymodbus and python3-serial-asyncio (.ci/need test):\n%s", name, args, log.String())
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

var compiled struct {
	sync.Once
	dir, bin string
	err      error
}

// cServer compiles testdata/server.c once per run of the tests.
func cServer(t testing.TB) string {
	t.Helper()
	compiled.Do(func() {
		if compiled.dir, compiled.err = os.MkdirTemp("", "holdfast-modbus-"); compiled.err != nil {
			return
		}
		compiled.bin = filepath.Join(compiled.dir, "server")
		out, err := exec.Command("gcc", "-O1", "-Wall", "-o", compiled.bin, "testdata/server.c", "-lmodbus").CombinedOutput()
		if err != nil {
			compiled.err = fmt.Errorf("this test needs the Debian packages gcc, libc6-dev and libmodbus-dev (.ci/need test): %w\n%s", err, out)
		}
	})
	if compiled.err != nil {
		t.Fatal(compiled.err)
	}
	return compiled.bin
}

const python = "/usr/bin/python3" // Debian's, which sees its packages

// wires joins our port with the ports of peers: everybody hears everybody, as on a bus
// (libmodbus counts on hearing the answers of others). What we hear is changed by mangle.
type wires struct {
	ours  *drivertest.Line
	peers []*drivertest.Line
}

func join(t testing.TB, peers int, mangle func([]byte) []burst) *wires {
	t.Helper()
	w := &wires{ours: drivertest.NewLine(t)}
	var done sync.WaitGroup
	lines := []*drivertest.Line{w.ours}
	for range peers {
		l := drivertest.NewLine(t)
		w.peers = append(w.peers, l)
		lines = append(lines, l)
	}
	for _, l := range lines { // as long as somebody has it open, reading it is no error
		fd, err := unix.Open(l.Path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
	}
	pump := func(from *os.File, give func([]byte)) {
		done.Go(func() {
			for buf := make([]byte, 4096); ; {
				n, err := from.Read(buf)
				if n > 0 {
					give(buf[:n])
				}
				if err != nil {
					return
				}
			}
		})
	}
	pump(w.ours.Pty, func(b []byte) {
		for _, p := range w.peers {
			_, _ = p.Pty.Write(b)
		}
	})
	for _, p := range w.peers {
		pump(p.Pty, func(b []byte) {
			for _, o := range w.peers {
				if o != p {
					_, _ = o.Pty.Write(b)
				}
			}
			bursts := []burst{{0, b}}
			if mangle != nil {
				bursts = mangle(b)
			}
			for _, x := range bursts {
				<-time.After(x.after)
				_, _ = w.ours.Pty.Write(x.data)
			}
		})
	}
	t.Cleanup(func() {
		for _, l := range lines {
			l.Pty.Close() // ends its pump
		}
		done.Wait()
	})
	return w
}

// everything is settings that read what server.c and server.py hold.
func everything(slave int) *Settings {
	s := defaults()
	// Under load an answer may take long; what a test here is about is what it says.
	s.Slave, s.Timeout, s.Retries, s.ReportEvery = slave, time.Second, 10, time.Second
	s.Baud, s.Frame = 115200, "8N1"
	reg := func(metric string, address int, change func(*Register)) Register {
		r := Register{Metric: metric, Address: &address}
		if change != nil {
			change(&r)
		}
		return r
	}
	kind := func(name, words, bytes string) func(*Register) {
		return func(r *Register) { r.Type, r.WordOrder, r.ByteOrder = name, words, bytes }
	}
	of := func(function string) func(*Register) { return func(r *Register) { r.Function = function } }
	g := Group{Interval: 50 * time.Millisecond, Registers: []Register{
		reg("abcd", 200, kind("float32", "big", "big")), reg("cdab", 202, kind("float32", "little", "big")),
		reg("badc", 204, kind("float32", "big", "little")), reg("dcba", 206, kind("float32", "little", "little")),
		reg("i32", 208, kind("int32", "", "")), reg("u64", 210, kind("uint64", "", "")), reg("i16", 214, kind("int16", "", "")),
		reg("bcd", 215, kind("bcd16", "", "")), reg("text", 216, func(r *Register) { r.Type, r.Length = "string", 8 }),
		reg("last", 299, nil), reg("none", 300, nil),
		reg("coil3", 3, of("coil")), reg("coil4", 4, of("coil")), reg("coil15", 15, of("coil")), reg("door6", 6, of("discrete")), reg("door7", 7, of("discrete")),
		reg("in9", 9, of("input")),
	}}
	for i := range 100 {
		g.Registers = append(g.Registers, reg(fmt.Sprint("h", i), i, nil))
	}
	s.Groups = []Group{g}
	return s
}

// expected is the values of everything; "exception-2" for what the peers do not have.
func expected(slave int) map[string]string {
	want := map[string]string{
		"abcd": "230.1", "cdab": "230.1", "badc": "230.1", "dcba": "230.1", "i32": "-123456", "u64": "1234567890123", "i16": "-40", "bcd": "1234",
		"text": "HOLDFAST 1", "last": "0", "none": "exception-2",
		"coil3": "true", "coil4": "false", "coil15": "true", "door6": "true", "door7": "false", "in9": "63",
	}
	for i := range 100 {
		want[fmt.Sprint("h", i)] = fmt.Sprint(100*slave + i)
	}
	return want
}

func shown(r devices.Reading) string {
	switch {
	case r.Quality == devices.Bad:
		return r.Reason
	case r.Value.Kind == devices.KindText:
		return r.Value.Text
	case r.Value.Kind == devices.KindBool:
		return fmt.Sprint(r.Value.Bool)
	}
	return strconv.FormatFloat(r.Value.Num, 'f', -1, 64)
}

// running is a device with a recorder, by the real clock.
type running struct {
	*drivertest.Recorder
	*Device
	slave int
}

func begin(t testing.TB, d *Driver, s *Settings) *running {
	t.Helper()
	dev, err := d.New(s, devices.Env{Name: fmt.Sprint("slave-", s.Slave), Clock: devices.BootClock(), Log: slog.New(slog.DiscardHandler), Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{drivertest.NewRecorder(), dev.(*Device), s.Slave}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- dev.Run(ctx, r.Recorder) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		for _, f := range r.Faults() {
			t.Errorf("against the contract: %s", f)
		}
	})
	return r
}

// right waits for n good readings of each metric, and fails at the first that is wrong;
// lost says which reasons may come in between.
func (r *running) right(t testing.TB, n int, lost ...string) {
	t.Helper()
	want := expected(r.slave)
	seen := map[string]int{}
	checked := 0
	r.Wait(t, fmt.Sprintf("%d rounds of slave %d", n, r.slave), func(rs []devices.Reading, _ map[string]uint64) bool {
		for _, x := range rs[checked:] {
			checked++
			got := shown(x)
			if got == want[x.Metric] {
				seen[x.Metric]++
				continue
			}
			ok := false
			for _, l := range lost {
				ok = ok || got == l
			}
			if !ok && !t.Failed() {
				t.Errorf("slave %d: %s = %s, want %s", r.slave, x.Metric, got, want[x.Metric])
			}
		}
		for m := range want {
			if seen[m] < n {
				return t.Failed()
			}
		}
		return true
	})
}

// writes sets a coil and a register, and sees them change.
func (r *running) writes(t testing.TB) {
	t.Helper()
	again := func(write func() error) (err error) { // a loaded machine may lose one
		for range 10 {
			if err = write(); !errors.Is(err, errTimeout) {
				break
			}
		}
		return err
	}
	coil := again(func() error { return r.WriteCoil(t.Context(), 4, true) })
	register := again(func() error { return r.WriteRegister(t.Context(), 299, 4711) })
	if err := errors.Join(coil, register); err != nil {
		t.Fatal(err)
	}
	var e Exception
	if err := again(func() error { return r.WriteRegister(t.Context(), 300, 1) }); !errors.As(err, &e) || e != illegalAddress {
		t.Errorf("a register that is not there: %v", err)
	}
	for metric, want := range map[string]string{"coil4": "true", "last": "4711"} {
		r.Wait(t, metric+" = "+want, func(rs []devices.Reading, _ map[string]uint64) bool {
			for i := len(rs) - 1; i >= 0; i-- {
				if rs[i].Metric == metric {
					return shown(rs[i]) == want
				}
			}
			return false
		})
	}
}

// TestLibmodbusRTU: two slaves and one that is not there, on one line.
func TestLibmodbusRTU(t *testing.T) {
	drivertest.NoLeak(t)
	server := cServer(t)
	w := join(t, 2, nil)
	for i, p := range w.peers {
		launch(t, server, "rtu", p.Path, strconv.Itoa(i+1))
	}
	d := NewDriver()
	var all []*running
	for slave := 1; slave <= 3; slave++ {
		s := everything(slave)
		s.Port = w.ours.Path
		if slave == 3 {
			s.Timeout, s.Retries = 100*time.Millisecond, 0
		}
		all = append(all, begin(t, d, s))
	}
	all[0].right(t, 10)
	all[1].right(t, 10)
	dead := all[2]
	dead.Wait(t, "word of the dead slave", func(rs []devices.Reading, _ map[string]uint64) bool { return len(rs) > 0 && rs[0].Reason == "timeout" })
	all[0].writes(t)
	all[1].writes(t)
}

// TestLibmodbusTCP: the same over TCP; when the server goes away and comes back, so do
// the readings.
func TestLibmodbusTCP(t *testing.T) {
	port := strconv.Itoa(freeport.Port(t)) // which keeps a descriptor
	drivertest.NoLeak(t)
	s := everything(1)
	s.Server = "127.0.0.1:" + port
	r := begin(t, NewDriver(), s)
	r.Wait(t, "word of the absent server", func(rs []devices.Reading, _ map[string]uint64) bool {
		return len(rs) > 0 && rs[0].Reason == connectionRefused
	})
	launch(t, cServer(t), "tcp", port, "1")
	r.right(t, 10, connectionRefused, connectionLost)
	r.writes(t)
}

// TestPymodbus: RTU with two slaves in one program, then TCP with two units.
func TestPymodbus(t *testing.T) {
	port := strconv.Itoa(freeport.Port(t)) // which keeps a descriptor
	drivertest.NoLeak(t)
	w := join(t, 1, nil)
	launch(t, python, "testdata/server.py", "rtu", w.peers[0].Path, "1", "2")
	launch(t, python, "testdata/server.py", "tcp", port, "3", "4")
	d := NewDriver()
	var all []*running
	for slave := 1; slave <= 4; slave++ {
		s := everything(slave)
		if slave <= 2 {
			s.Port = w.ours.Path
		} else {
			s.Server = "127.0.0.1:" + port
		}
		all = append(all, begin(t, d, s))
	}
	for _, r := range all {
		r.right(t, 5)
		r.writes(t)
	}
}

// TestLibmodbusOnABadLine: split, late, damaged and lost answers and noise between a real
// slave and us: every good reading is right.
func TestLibmodbusOnABadLine(t *testing.T) {
	drivertest.NoLeak(t)
	const ms = time.Millisecond
	n := 0
	w := join(t, 1, func(b []byte) []burst {
		b = clone(b)
		switch n++; n % 12 {
		case 1: // byte by byte
			var out []burst
			for i := range b {
				out = append(out, burst{ms / 4, b[i : i+1]})
			}
			return out
		case 3: // noise around
			return []burst{{0, []byte{0x00, 0xFF, 0x01, 0x03}}, {ms, b}, {ms, []byte{0x7E}}}
		case 5:
			b[len(b)/2] ^= 0x10
		case 7: // too late
			return []burst{{300 * ms, b}}
		case 9: // lost
			return nil
		case 11: // twice
			return []burst{{0, b}, {ms, b}}
		}
		return []burst{{0, b}}
	})
	launch(t, cServer(t), "rtu", w.peers[0].Path, "1")
	s := everything(1)
	s.Port, s.Timeout = w.ours.Path, 200*ms
	r := begin(t, NewDriver(), s)
	r.right(t, 4, "timeout", "damaged")
	c := r.Counts()
	if c["crc_errors"] == 0 || c["timeouts"] == 0 || c["retries"] == 0 || c["stale_bytes"]+c["foreign_bytes"] == 0 {
		t.Errorf("the line was not bad: %v", c)
	}
}

// TestWrongAnswers: a TCP server that answers other requests, other units, in pieces, and
// then nonsense.
func TestWrongAnswers(t *testing.T) {
	drivertest.NoLeak(t)
	l, err := listen(t)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { defer c.Close(); confuse(c, n) })
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	s := holding(1, 20*time.Millisecond, 5, 1)
	s.Port, s.Server = "", l.Addr().String()
	s.Timeout = 5 * time.Second
	r := begin(t, NewDriver(), s)
	r.Wait(t, "readings through it all", func(rs []devices.Reading, c map[string]uint64) bool {
		good := 0
		for _, x := range rs {
			if x.Quality == devices.Good {
				good++
				if x.Value.Num != 4242 {
					t.Fatalf("took %v", x.Value.Num)
				}
			}
		}
		return good > 30 && c["foreign_bytes"] > 0
	})
}

// confuse answers requests for one register with 4242, among answers with 666.
func confuse(c io.ReadWriter, n int) {
	question := make([]byte, 12)
	for i := 0; ; i++ {
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		tid := question[:2]
		answer := func(hi, lo, unit byte, value string) []byte {
			return append([]byte{hi, lo}, append([]byte{0, 0, 0, 5, unit, 3, 2}, unhex(value)...)...)
		}
		right := answer(tid[0], tid[1], 1, "1092")
		switch {
		case i%4 == 1: // of an earlier request, then of another unit
			_, _ = c.Write(append(answer(tid[0], tid[1]-1, 1, "029A"), answer(tid[0], tid[1], 9, "029A")...))
		case i%4 == 2:
			_, _ = c.Write(right[:5])
			right = right[5:]
		case i == 11 && n < 2:
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			return
		}
		if _, err := c.Write(right); err != nil {
			return
		}
	}
}
