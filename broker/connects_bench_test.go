package broker

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"holdfast/broker/mqtt"
	"holdfast/systemd/settings"
)

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
			alone := hashesAlone(b, users, cost)
			b.ResetTimer()
			connects(b, r.addr, users, min(b.N, users))
			cold := float64(min(b.N, users)) / b.Elapsed().Seconds()
			b.ReportMetric(cold, "connects/s")
			b.ReportMetric(alone, "hashes-alone/s")
			b.ReportMetric(cold/alone, "ratio") // the goal is 0.8
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
	return withAuth(b, fmt.Sprintf("[[auth]]\ntype = \"file\"\npath = %q\n", filepath.Join(dir, "users.toml")))
}

// withAuth is a broker with these tables.
func withAuth(b testing.TB, tables string) Config {
	b.Helper()
	cfg, problems := ParseConfig(filepath.Join(b.TempDir(), "broker.toml"), []byte(tables))
	if errs := settings.Errors(problems); len(errs) > 0 {
		b.Fatal(errs)
	}
	test := testConfig(b.TempDir())
	test.Auth, test.Access = cfg.Auth, cfg.Access
	return test
}

// connects connects n clients whose users have their own names as passwords.
func connects(b testing.TB, addr string, users, n int) {
	comers{addr: addr, users: users}.connect(b, n)
}

// comers is clients, whose user names are in turn those of so many users.
type comers struct {
	addr   string
	users  int
	secret func(user string) string            // nil: the user's name
	dial   func(user string) (net.Conn, error) // nil: TCP
}

// connect connects n of them, 64 at a time; each must be let in.
func (c comers) connect(b testing.TB, n int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				code := byte(3)
				for code == 3 { // come again: too many wait for their hash
					code = c.one(b, fmt.Sprint("c", i), fmt.Sprint("user", i%c.users))
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

// one connects and disconnects with MQTT 3.1.1. It returns the return code.
func (c comers) one(b testing.TB, id, user string) (code byte) {
	dial, secret := c.dial, user
	if dial == nil {
		dial = func(string) (net.Conn, error) { return net.Dial("tcp", c.addr) }
	}
	if c.secret != nil {
		secret = c.secret(user)
	}
	nc, err := dial(user)
	if err != nil {
		b.Error(err)
		return 0
	}
	defer nc.Close()
	_, _ = nc.Write(connectPacket(id, opts{version: mqtt.V311, clean: true, user: user, secret: secret})) // the answer says it
	var ack [4]byte
	if _, err := io.ReadFull(nc, ack[:]); err != nil {
		b.Errorf("%s gets no answer: %v", id, err)
	}
	_, _ = nc.Write([]byte{mqtt.DISCONNECT << 4, 0})
	return ack[3]
}

// hashesAlone is how many passwords a second all cores verify that do nothing else.
func hashesAlone(b testing.TB, n, cost int) float64 {
	hash, err := bcrypt.GenerateFromPassword([]byte("user"), cost)
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := bcrypt.CompareHashAndPassword(hash, []byte("user")); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(began).Seconds()
}

// mosquittoUsers is mosquitto with a password file; user and password are the same.
func mosquittoUsers(b *testing.B, users int) string {
	if _, err := exec.LookPath("mosquitto_passwd"); err != nil {
		b.Fatal("mosquitto_passwd is missing: apt-get install mosquitto")
	}
	file := filepath.Join(b.TempDir(), "passwords")
	var text strings.Builder
	for i := range users {
		fmt.Fprintf(&text, "user%d:user%d\n", i, i)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("mosquitto_passwd", "-U", file).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return mosquitto(b, "user root", "allow_anonymous false", "password_file "+file)
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
	began := time.Now()
	connects(t, b.addr, users, clients)
	t.Logf("%d clients in %s: %.0f/s", clients, time.Since(began).Round(time.Millisecond), float64(clients)/time.Since(began).Seconds())
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
