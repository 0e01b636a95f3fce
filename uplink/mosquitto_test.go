package uplink

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// mosquitto is a broker of Debian's package mosquitto on a loopback port.
type mosquitto struct {
	t    testing.TB
	dir  string
	addr string
	cmd  *exec.Cmd
}

// newMosquitto writes a configuration; listener is what follows "listener PORT
// 127.0.0.1", global what goes before it.
func newMosquitto(t testing.TB, global, listener string) *mosquitto {
	t.Helper()
	dir := t.TempDir()
	port := freeport.Port(t)
	m := &mosquitto{t: t, dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", port)}
	conf := fmt.Sprintf("user root\n%s\nlistener %d 127.0.0.1\n%s\nallow_anonymous true\n", global, port, listener)
	// user: as root it would become one that cannot read the test's files.
	if err := os.WriteFile(filepath.Join(dir, "mosquitto.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mosquitto) start() {
	m.t.Helper()
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			m.t.Fatal("this test needs the Debian package mosquitto")
		}
	}
	m.cmd = exec.Command(bin, "-c", filepath.Join(m.dir, "mosquitto.conf"))
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, patient, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// kill is kill -9.
func (m *mosquitto) kill() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// quick are durations for tests.
func quick() tuning {
	return tuning{
		connect: time.Minute, write: time.Minute, silence: time.Minute, stable: 200 * time.Millisecond,
		backoffBase: 10 * time.Millisecond, backoffBrisk: 100 * time.Millisecond, backoffMax: 100 * time.Millisecond,
		againBase: 10 * time.Millisecond, againMax: 50 * time.Millisecond,
		stopBase: 100 * time.Millisecond, stopMax: 200 * time.Millisecond,
		ackDelay: time.Millisecond, sourceRetry: 10 * time.Millisecond,
		finish: 800 * time.Millisecond,
	}
}

// running is an uplink whose Run goes on until stop.
type running struct {
	*Uplink
	stop func()
}

// run starts an uplink.
func run(t testing.TB, cfg Config, o Options, tune tuning) *running {
	t.Helper()
	if o.Open == nil {
		o.Open = openBlob
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "gw"
	}
	if o.Log == nil && os.Getenv("UPLINK_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	u, err := newUplink(cfg, o, tune)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	r := &running{Uplink: u}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patient):
			t.Errorf("Run did not end")
		}
	}
	t.Cleanup(r.stop)
	return r
}

func TestMosquittoDrain(t *testing.T) {
	m := newMosquitto(t, "max_inflight_messages 100", "")
	m.start()
	t.Cleanup(m.kill)
	src := newSource(numbered)
	src.add(5000)
	u := run(t, Config{Servers: []string{"mqtt://" + m.addr}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	src.add(10)
	within(t, patient, src.drained(), "live messages")
	s := u.Status()
	if s.Acked != 5010 || s.Sent != 5010 || !s.Connected || s.Window != 100 {
		t.Fatalf("%+v", s)
	}
}

// TestMosquittoContents: what a subscriber gets is what the Source held.
func TestMosquittoContents(t *testing.T) {
	m := newMosquitto(t, "", "")
	m.start()
	t.Cleanup(m.kill)
	const count = 60
	text := func(pos uint64) string { return fmt.Sprint(pos, "-", strings.Repeat("x", int(pos*pos*9%20000))) }
	src := newSource(func(pos uint64) []byte { return fmt.Appendf(nil, "gw/é/%d\n%s", pos, text(pos)) })
	sub := exec.CommandContext(t.Context(), "stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", m.addr[strings.LastIndex(m.addr, ":")+1:], "-V", "mqttv5", "-q", "1",
		"-d", "-t", "gw/#", "-C", fmt.Sprint(count), "-W", "300", "-F", "%t|%q|%r|%C|%P|%p")
	var got lockedBuffer
	sub.Stdout = &got
	if _, err := exec.LookPath("mosquitto_sub"); err != nil {
		t.Fatal("this test needs the Debian package mosquitto-clients")
	}
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patient, "subscribed", func() bool { return strings.Contains(got.String(), "Subscribed (mid") })
	src.add(count)
	u := run(t, Config{Servers: []string{"mqtt://" + m.addr}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	if err := sub.Wait(); err != nil {
		t.Fatalf("mosquitto_sub: %v\n%.2000s", err, got.String())
	}
	u.stop()
	for pos := uint64(1); pos <= count; pos++ {
		want := fmt.Sprintf("gw/é/%d|1|0|application/senml+json|jws:e30..c2ln jws:twice|%s\n", pos, text(pos))
		if !strings.Contains(got.String(), want) {
			t.Fatalf("not received: %.200s", want)
		}
	}
}

// lockedBuffer is a bytes.Buffer for a process that still runs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// passwd makes a password file.
func (m *mosquitto) passwd(file, user, password string) {
	m.t.Helper()
	out, err := exec.Command("mosquitto_passwd", "-b", "-c", file, user, password).CombinedOutput()
	if err != nil {
		m.t.Fatalf("this test needs the Debian package mosquitto: %v: %s", err, out)
	}
}

func contains(s, part string) bool { return strings.Contains(s, part) }
