package holdfast

import (
	"bufio"
	"fmt"
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

	"holdfast/devices/drivertest"
	"holdfast/systemd/freeport"
)

// BenchmarkModbus is what 200 registers a second cost the built agent, from the wire to
// the acknowledged message, with libmodbus as the slave and mosquitto as the broker; beside the
// same readings from the driver sim, so that the difference is the driver's.
func BenchmarkModbus(b *testing.B) {
	server := libmodbus(b)
	registers := func(line string) string {
		conf := "[[device]]\nname = \"meter\"\ndriver = \"modbus\"\nslave = 1\n" + line + "\n[[device.group]]\ninterval = \"1s\"\nregisters = [\n"
		for i := range 200 {
			conf += fmt.Sprintf("  { metric = \"r%d\", address = %d, unit = \"V\", scale = 0.1 },\n", i, i)
		}
		return conf + "]\n"
	}
	b.Run("sim", func(b *testing.B) {
		conf := "[[device]]\nname = \"meter\"\ndriver = \"sim\"\ninterval = \"1s\"\nmetrics = [\n"
		for i := range 200 {
			conf += fmt.Sprintf("  { name = \"r%d\", wave = \"constant\", min = %d.5, max = %d.5, unit = \"V\" },\n", i, i, i)
		}
		benchDevice(b, conf+"]\n")
	})
	b.Run("tcp", func(b *testing.B) {
		port := strconv.Itoa(freeport.Port(b))
		peer(b, server, "tcp", port, "1")
		benchDevice(b, registers(`server = "127.0.0.1:`+port+`"`))
	})
	b.Run("rtu", func(b *testing.B) {
		ours, theirs := drivertest.NewLine(b), drivertest.NewLine(b)
		bridge(b, ours, theirs)
		peer(b, server, "rtu", theirs.Path, "1")
		benchDevice(b, registers(fmt.Sprintf("port = %q\nbaud = 115200\nframe = \"8N1\"", ours.Path)))
	})
}

func libmodbus(b *testing.B) string {
	bin := filepath.Join(b.TempDir(), "server")
	if out, err := exec.Command("gcc", "-O1", "-o", bin, "devices/modbus/testdata/server.c", "-lmodbus").CombinedOutput(); err != nil {
		b.Fatalf("this needs the Debian packages gcc, libc6-dev and libmodbus-dev (.ci/need test): %v\n%s", err, out)
	}
	return bin
}

// peer runs a program until the benchmark ends and returns when it says that it is ready.
func peer(b *testing.B, name string, args ...string) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.Fatalf("%s %v: %q, %v", name, args, line, err)
	}
}

// bridge joins two pseudo-terminals.
func bridge(b *testing.B, x, y *drivertest.Line) {
	var done sync.WaitGroup
	for _, l := range []*drivertest.Line{x, y} { // as long as somebody has it open, reading it is no error
		fd, err := unix.Open(l.Path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Close(fd) })
	}
	for _, pair := range [][2]*os.File{{x.Pty, y.Pty}, {y.Pty, x.Pty}} {
		done.Go(func() {
			for buf := make([]byte, 4096); ; {
				n, err := pair[0].Read(buf)
				_, _ = pair[1].Write(buf[:n])
				if err != nil {
					return
				}
			}
		})
	}
	b.Cleanup(func() { x.Pty.Close(); y.Pty.Close(); done.Wait() })
}

func benchDevice(b *testing.B, device string) {
	at := startMosquitto(b, false)
	bin := built(b, "holdfast", "./agent/cmd/holdfast")
	for b.Loop() {
		a := startGatewayWith(b, bin, b.TempDir(), at.addr, device, 20)
		<-time.After(3 * time.Second)
		before, cpu, began := a.status(b), cpuOf(b, a.cmd.Process.Pid), time.Now()
		hold := benchSeconds(b, 30)
		var worst memory
		for end := began.Add(hold); time.Now().Before(end); {
			<-time.After(time.Second)
			worst = worst.max(memoryOf(b, a.cmd.Process.Pid))
		}
		after, used, span := a.status(b), cpuOf(b, a.cmd.Process.Pid)-cpu, time.Since(began)
		readings := after.Devices[0].Taken - before.Devices[0].Taken
		if after.Devices[0].Bad > 0 || readings == 0 {
			b.Fatalf("%d readings, %d bad", readings, after.Devices[0].Bad)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(readings)/span.Seconds(), "readings/s")
		b.ReportMetric(100*used.Seconds()/span.Seconds(), "%CPU")
		b.ReportMetric(float64(used.Microseconds())/float64(readings), "us-CPU/reading")
		b.ReportMetric(float64(worst.rss)/1024, "RSS-MiB")
		b.ReportMetric(float64(worst.anon)/1024, "anon-MiB")
		a.stop(b)
	}
}

// cpuOf is the processor time of a process: fields 14 and 15 of proc(5)'s stat, in ticks of 10 ms.
func cpuOf(b *testing.B, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
