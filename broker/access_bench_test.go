package broker

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"holdfast/broker/auth"
	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
	"holdfast/systemd/settings"
)

// BenchmarkRules: QoS 1, 256 B, 50 publishers, without rules and with a thousand of which the last one decides. The
// goal is 97 % of the rate without.
func BenchmarkRules(b *testing.B) {
	u := newTestUsers()
	var rules []string
	for i := range 1000 {
		rules = append(rules, fmt.Sprintf("deny both plant/%d/+/%%c/#", i))
	}
	u.may("", append(rules, "both bench/#")...)
	u.change("", func(a *auth.Answer) { a.Password = nil })
	for _, with := range []bool{false, true} {
		b.Run(map[bool]string{false: "without", true: "thousand"}[with], func(b *testing.B) {
			cfg := testConfig(b.TempDir())
			if with {
				cfg.Auth = u.links()
			}
			r := start(b, cfg)
			before := processorTime(b)
			ingest(b, r.addr, 50, 256, 512)
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/msg") // the publishers' included; says something on a busy machine, too
		})
	}
}

// processorTime is what this process has had of the processors.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkConnects: CONNECT to CONNACK and DISCONNECT of clients with users of a file, 64 at a time: beside nobody
// being asked, and beside mosquitto with a password file (PBKDF2 with 101 rounds). cold: each user comes for the first
// time; warm: its password is known.
func BenchmarkConnects(b *testing.B) {
	const users = 100
	b.Run("holdfast-nobody-asked", func(b *testing.B) {
		connects(b, start(b, testConfig(b.TempDir())).addr, users, b.N)
	})
	for name, cost := range map[string]int{"bcrypt-10": 10, "bcrypt-4": 4} {
		cfg := benchUsers(b, users, cost)
		b.Run("holdfast-"+name+"-warm", func(b *testing.B) {
			r := start(b, cfg)
			connects(b, r.addr, users, users)
			b.ResetTimer()
			connects(b, r.addr, users, b.N)
		})
		b.Run("holdfast-"+name+"-cold", func(b *testing.B) {
			r := start(b, cfg)
			b.ResetTimer()
			connects(b, r.addr, users, min(b.N, users))
			b.ReportMetric(float64(min(b.N, users))/b.Elapsed().Seconds(), "connects/s")
		})
	}
	b.Run("mosquitto-password-file", func(b *testing.B) {
		addr := mosquittoUsers(b, users)
		b.ResetTimer()
		connects(b, addr, users, b.N)
	})
}

func benchUsers(b testing.TB, users, cost int) Config {
	dir := b.TempDir()
	var text strings.Builder
	for i := range users {
		name := fmt.Sprint("user", i)
		hash, err := bcrypt.GenerateFromPassword([]byte(name), cost)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(&text, "[[user]]\nname = %q\npassword = %q\npublish = [\"gw/%%u/#\"]\nsubscribe = [\"cmd/%%u/#\"]\n", name, hash)
	}
	if err := os.WriteFile(filepath.Join(dir, "users.toml"), []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	cfg, problems := ParseConfig(filepath.Join(dir, "broker.toml"), []byte("[[auth]]\ntype = \"file\"\npath = \"users.toml\"\n"))
	if errs := settings.Errors(problems); len(errs) > 0 {
		b.Fatal(errs)
	}
	test := testConfig(b.TempDir())
	test.Auth, test.Access = cfg.Auth, cfg.Access
	return test
}

// connects connects n clients, 64 at a time, whose user names are in turn those of so many users; each must be let in.
func connects(b testing.TB, addr string, users, n int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				code := byte(3)
				for code == 3 { // come again: too many wait for their hash
					code = connectAs(b, addr, fmt.Sprint("c", i), fmt.Sprint("user", i%users))
				}
				if code != 0 {
					b.Errorf("client %d is not let in: %d", i, code)
				}
			}
		})
	}
	all.Wait()
	if x, is := b.(*testing.B); is {
		x.ReportMetric(float64(n)/x.Elapsed().Seconds(), "connects/s")
	}
}

// connectAs connects and disconnects with MQTT 3.1.1; the password is the user's name. It returns the return code.
func connectAs(b testing.TB, addr, id, user string) (code byte) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return 0
	}
	defer nc.Close()
	_, _ = nc.Write(connectPacket(id, opts{version: mqtt.V311, clean: true, user: user, secret: user})) // the answer says it
	var ack [4]byte
	if _, err := io.ReadFull(nc, ack[:]); err != nil {
		b.Errorf("%s gets no answer: %v", id, err)
	}
	_, _ = nc.Write([]byte{mqtt.DISCONNECT << 4, 0})
	return ack[3]
}

func mosquittoUsers(b *testing.B, users int) string {
	for _, program := range []string{"mosquitto", "mosquitto_passwd"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Fatal(program + " is missing: apt-get install mosquitto")
		}
	}
	dir := b.TempDir()
	addr := freeport.Addr(b)
	_, port, _ := strings.Cut(addr, ":")
	file := filepath.Join(dir, "passwords")
	var text strings.Builder
	for i := range users {
		fmt.Fprintf(&text, "user%d:user%d\n", i, i)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil { // it gives up its rights
		b.Fatal(err)
	}
	if out, err := exec.Command("mosquitto_passwd", "-U", file).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	conf := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "user root\nlistener %s 127.0.0.1\nallow_anonymous false\npassword_file %s\n", port, file), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", conf)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(b, "mosquitto listens", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return addr
}

// TestAccessStorm: everybody comes back at once, many with the same passwords, while somebody tries wrong ones: nobody who
// is right is refused, and no password that is known is hashed again.
func TestAccessStorm(t *testing.T) {
	const users = 20
	clients := 2000
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		clients = 20000
	}
	cfg := benchUsers(t, users, bcrypt.MinCost)
	b := start(t, cfg)
	connects(t, b.addr, users, users)
	before := b.access.chain.Passwords()
	stop := make(chan struct{})
	var trying sync.WaitGroup
	for i := range 4 {
		trying.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("tcp", b.addr)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = nc.Write(connectPacket("x", opts{version: mqtt.V311, clean: true, user: fmt.Sprint("user", i), secret: fmt.Sprint("wrong", n)}))
				nc.Close() // it does not wait for the answer
			}
		})
	}
	connects(t, b.addr, users, clients)
	close(stop)
	trying.Wait()
	after := b.access.chain.Passwords()
	if hits := after.Hits - before.Hits; hits < uint64(clients) {
		t.Errorf("%d of %d passwords were known", hits, clients)
	}
	if after.Busy > 0 {
		t.Logf("%d tries found the queue full", after.Busy)
	}
}
