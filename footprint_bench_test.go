package holdfast

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// BenchmarkFootprint measures the built agent from outside: its memory at 50 readings/s with a prompt broker, its
// anonymous memory over a backlog of 1M messages and how long it takes to be ready with it, and the size of the ARMv6 binary.
func BenchmarkFootprint(b *testing.B) {
	b.Run("online", benchOnline)
	b.Run("backlog", benchBacklog)
	b.Run("binary", benchBinary)
}

func benchOnline(b *testing.B) {
	at := startMosquitto(b, false)
	bin := built(b, "holdfast", "./agent/cmd/holdfast")
	for b.Loop() {
		a := startGateway(b, bin, b.TempDir(), at.addr, `interval = "20ms"`, 20)
		hold := benchSeconds(b, 60)
		var worst memory
		for end := time.Now().Add(hold); time.Now().Before(end); {
			<-time.After(time.Second)
			worst = worst.max(memoryOf(b, a.cmd.Process.Pid))
		}
		s := a.status(b)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(s.Buffer.Acked), "acked-msgs")
		b.ReportMetric(float64(worst.rss)/1024, "RSS-MiB")
		b.ReportMetric(float64(worst.anon)/1024, "anon-MiB")
		a.stop(b)
	}
}

func benchBacklog(b *testing.B) {
	n := backlog(b)
	bin := built(b, "holdfast", "./agent/cmd/holdfast")
	for b.Loop() {
		dir := b.TempDir()
		a := startGateway(b, bin, dir, freeport.Addr(b), fmt.Sprintf("interval = \"40us\"\nlimit = %d", n), 1)
		var worst memory
		for s := a.status(b); s.Buffer.Messages < uint64(n); s = a.status(b) {
			worst = worst.max(memoryOf(b, a.cmd.Process.Pid))
			<-time.After(time.Second)
		}
		full := memoryOf(b, a.cmd.Process.Pid)
		a.stop(b)
		began := time.Now()
		a = startGateway(b, bin, dir, freeport.Addr(b), "interval = \"1s\"", 20)
		readyAfter := time.Since(began)
		<-time.After(5 * time.Second)
		idle, s := memoryOf(b, a.cmd.Process.Pid), a.status(b)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(s.Buffer.Messages), "backlog-msgs")
		b.ReportMetric(float64(s.Buffer.DiskBytes)/(1<<20), "disk-MiB")
		b.ReportMetric(float64(worst.anon)/1024, "anon-MiB-while-filling")
		b.ReportMetric(float64(full.anon)/1024, "anon-MiB-full")
		b.ReportMetric(float64(idle.anon)/1024, "anon-MiB-reopened")
		b.ReportMetric(float64(idle.rss)/1024, "RSS-MiB-reopened")
		b.ReportMetric(readyAfter.Seconds(), "s-to-ready")
		a.stop(b)
	}
}

func benchBinary(b *testing.B) {
	for b.Loop() {
		bin := filepath.Join(b.TempDir(), "holdfast")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./agent/cmd/holdfast")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm", "GOARM=6")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		info, err := os.Stat(bin)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
	}
}

func benchSeconds(b *testing.B, otherwise int) time.Duration {
	n, err := strconv.Atoi(cmpOr(os.Getenv("HOLDFAST_BENCH_SECONDS"), strconv.Itoa(otherwise)))
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

type gateway struct {
	cmd       *exec.Cmd
	run, conf string
	statusURL string
}

// gatewayStatus is the part of `holdfast status --json` that the figures need.
type gatewayStatus struct {
	Ready  bool
	Buffer struct {
		Messages  uint64
		Acked     uint64
		DiskBytes int64 `json:"disk_bytes"`
	}
	Devices []struct{ Taken, Bad uint64 }
}

// startGateway runs the agent with one simulated device and returns once it is ready.
func startGateway(b *testing.B, bin, dir, server, device string, batch int) *gateway {
	return startGatewayWith(b, bin, dir, server, "[[device]]\nname = \"sim\"\ndriver = \"sim\"\n"+device, batch)
}

// startGatewayWith is the same for any [[device]] tables.
func startGatewayWith(b *testing.B, bin, dir, server, device string, batch int) *gateway {
	run, err := os.MkdirTemp("/dev/shm", "holdfast-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(run) })
	listen := freeport.Addr(b)
	conf := fmt.Sprintf("[gateway]\nid = \"gw-bench\"\ndata_dir = %q\n[buffer]\nruntime_dir = %q\nmax_bytes = \"4GiB\"\nbatch_count = %d\n[uplink]\nservers = [\"mqtt://%s\"]\n[status]\nlisten = %q\n%s\n",
		filepath.Join(dir, "data"), run, batch, server, listen, device)
	g := &gateway{run: run, conf: filepath.Join(dir, "agent.toml"), statusURL: "http://" + listen}
	if err := os.WriteFile(g.conf, []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	g.cmd = started(b, listen, bin, "run", "--config", g.conf)
	for range 6000 {
		if resp, err := http.Get(g.statusURL + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return g
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	b.Fatal("the agent is not ready")
	return nil
}

func (g *gateway) status(b *testing.B) gatewayStatus {
	resp, err := http.Get(g.statusURL + "/status.json")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var s gatewayStatus
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		b.Fatal(err)
	}
	return s
}

func (g *gateway) stop(b *testing.B) {
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	for {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.statusURL, "http://"))
		if err != nil {
			break
		}
		conn.Close()
		<-time.After(20 * time.Millisecond)
	}
	_ = g.cmd.Wait()
}

// memory is what a process has resident, in KiB (proc(5), /proc/pid/status).
type memory struct{ rss, anon int }

func (m memory) max(o memory) memory { return memory{max(m.rss, o.rss), max(m.anon, o.anon)} }

func memoryOf(b *testing.B, pid int) memory {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	var m memory
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch f[0] {
		case "VmRSS:":
			m.rss, _ = strconv.Atoi(f[1])
		case "RssAnon:":
			m.anon, _ = strconv.Atoi(f[1])
		}
	}
	return m
}
