package holdfast

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/devices/drivertest"
	"holdfast/systemd/freeport"
)

// BenchmarkTelegraf is BenchmarkModbus with Telegraf in the agent's place: its Modbus input and MQTT output, the same
// slave, registers, broker and QoS. The program is HOLDFAST_BENCH_TELEGRAF, which .ci/telegraf builds. What it does
// not do: sign, number, and keep on disk what is not acknowledged.
func BenchmarkTelegraf(b *testing.B) {
	program := os.Getenv("HOLDFAST_BENCH_TELEGRAF")
	if program == "" {
		b.Skip("telegraf is left out: build it with .ci/telegraf, and name it in HOLDFAST_BENCH_TELEGRAF")
	}
	server := libmodbus(b)
	b.Run("tcp", func(b *testing.B) {
		port := strconv.Itoa(freeport.Port(b))
		peer(b, server, "tcp", port, "1")
		benchTelegraf(b, program, fmt.Sprintf("controller = \"tcp://127.0.0.1:%s\"", port))
	})
	b.Run("rtu", func(b *testing.B) {
		ours, theirs := drivertest.NewLine(b), drivertest.NewLine(b)
		bridge(b, ours, theirs)
		peer(b, server, "rtu", theirs.Path, "1")
		benchTelegraf(b, program, fmt.Sprintf("controller = \"file://%s\"\ntransmission_mode = \"RTU\"\nbaud_rate = 115200\ndata_bits = 8\nparity = \"N\"\nstop_bits = 1", ours.Path))
	})
}

func benchTelegraf(b *testing.B, program, line string) {
	at := startMosquitto(b, false)
	conf := "[agent]\ninterval = \"1s\"\nflush_interval = \"1s\"\nomit_hostname = true\n" +
		"[[outputs.mqtt]]\nservers = [\"tcp://" + at.addr + "\"]\ntopic = \"telegraf\"\nqos = 1\ndata_format = \"json\"\n" +
		"[[inputs.modbus]]\nname = \"meter\"\nslave_id = 1\ntimeout = \"1s\"\nconfiguration_type = \"register\"\n" + line + "\nholding_registers = [\n"
	for i := range 200 {
		conf += fmt.Sprintf("  { name = \"r%d\", byte_order = \"AB\", data_type = \"UFIXED\", scale = 0.1, address = [%d] },\n", i, i)
	}
	file := filepath.Join(b.TempDir(), "telegraf.conf")
	if err := os.WriteFile(file, []byte(conf+"]\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	hold := benchSeconds(b, 30)
	for b.Loop() {
		cmd := exec.Command(program, "--config", file)
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &log, &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		<-time.After(5 * time.Second) // as the agent: what it does first is not measured
		cpu, began := cpuOf(b, cmd.Process.Pid), time.Now()
		fields := listen(b, at.addr, hold)
		used, span, m := cpuOf(b, cmd.Process.Pid)-cpu, time.Since(began), memoryOf(b, cmd.Process.Pid)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if fields < 200 {
			b.Fatalf("%d readings in %v\n%s", fields, span, log.String())
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(fields)/span.Seconds(), "readings/s")
		b.ReportMetric(100*used.Seconds()/span.Seconds(), "%CPU")
		b.ReportMetric(float64(used.Microseconds())/float64(fields), "us-CPU/reading")
		b.ReportMetric(float64(m.rss)/1024, "RSS-MiB")
		b.ReportMetric(float64(m.anon)/1024, "anon-MiB")
	}
}

// listen counts the registers in what arrives for so long.
func listen(b *testing.B, addr string, hold time.Duration) int {
	host, port, _ := net.SplitHostPort(addr)
	// It ends by itself, with 27 (timed out): -W.
	out, err := exec.Command("mosquitto_sub", "-h", host, "-p", port, "-t", "telegraf", "-W", strconv.Itoa(int(hold.Seconds()))).Output()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() != 27) {
		b.Fatalf("mosquitto_sub (Debian package mosquitto-clients): %v", err)
	}
	return strings.Count(string(out), `"r`)
}
