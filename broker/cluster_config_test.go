package broker

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/systemd/settings"
)

// TestClusterConfig: what is wrong with [cluster] is said with its line, and nothing else is.
func TestClusterConfig(t *testing.T) {
	dir := t.TempDir()
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{"good": {"0123456789abcdef", 0o600}, "group": {"0123456789abcdef", 0o640}, "open": {"0123456789abcdef", 0o644},
		"short": {"0123456789abcde\n\n", 0o600}, "empty": {"", 0o600}} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	const two, three = `peers = ["10.0.0.2:6222"]`, `peers = ["10.0.0.2:6222", "10.0.0.3:6222"]`
	for _, c := range []struct{ name, text, want string }{
		{"good", "listen = \"10.0.0.1:6222\"\nsecret_file = \"good\"\n" + three, ""},
		{"group", "secret_file = \"group\"\n" + three, ""},
		{"advertised", "advertise = \"b1.example:6222\"\nsecret_file = \"good\"\n" + three, ""},
		{"no secret", three, "broker.toml:1: cluster.secret_file: is missing: a node of a cluster needs one"},
		{"lost secret", "secret_file = \"nowhere\"\n" + three, "broker.toml:2: cluster.secret_file: cannot be read"},
		{"open secret", "secret_file = \"open\"\n" + three, "has mode 0644: others could read or change it; chmod 600"},
		{"short secret", "secret_file = \"short\"\n" + three, "has 15 characters, at least 16"},
		{"empty secret", "secret_file = \"empty\"\n" + three, "has 0 characters"},
		{"no peers", "secret_file = \"good\"", "broker.toml:1: cluster.peers: is empty"},
		{"itself", "listen = \"10.0.0.2:6222\"\nsecret_file = \"good\"\n" + three, `broker.toml:4: cluster.peers: "10.0.0.2:6222" is this node itself`},
		{"itself, advertised", "advertise = \"10.0.0.3:6222\"\nsecret_file = \"good\"\n" + three, `"10.0.0.3:6222" is this node itself`},
		{"twice", "secret_file = \"good\"\npeers = [\"10.0.0.2:1\", \"10.0.0.2:1\", \"10.0.0.3:1\"]", `"10.0.0.2:1" and "10.0.0.2:1" are the same node; remove one`},
		{"no port", "secret_file = \"good\"\npeers = [\"10.0.0.2\", \"10.0.0.3:6222\"]", `"10.0.0.2" is not an address`},
		{"no host", "secret_file = \"good\"\npeers = [\":1\", \"10.0.0.3:6222\"]", `":1" has no host`},
		{"no such host", "secret_file = \"good\"\npeers = [\"nowhere.invalid:1\", \"10.0.0.3:6222\"]", `the name "nowhere.invalid" cannot be resolved`},
		{"bad listen", "listen = \"6222\"\nsecret_file = \"good\"\n" + three, `broker.toml:2: cluster.listen: "6222" is not an address`},
		{"no listen", "listen = \"\"\nsecret_file = \"good\"\n" + three, `cluster.listen: is empty`},
		{"bad name", "name = \"a b\"\nsecret_file = \"good\"\n" + three, `cluster.name: "a b" is not a name`},
		{"too many replicas", "replicas = 5\nsecret_file = \"good\"\n" + three, "broker.toml:2: cluster.replicas: is 5, and peers and this node are only 3 nodes"},
		{"one replica", "replicas = 1\nsecret_file = \"good\"\n" + three, "cluster.replicas: is 1; 3 or 5"},
		{"even", "replicas = 2\nsecret_file = \"good\"\n" + three, "warning: cluster.replicas: 2: "},
		{"two nodes", "secret_file = \"good\"\n" + two, "warning: cluster.peers: two nodes: when one dies the other stores nothing either"},
		{"unknown key", "secret = \"x\"\nsecret_file = \"good\"\n" + three, "broker.toml:2: cluster.secret: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, problems := ParseConfig(filepath.Join(dir, "broker.toml"), []byte("[cluster]\n"+c.text+"\n"))
			found, errs := c.want == "", 0
			for _, p := range problems {
				found = found || strings.Contains(p.String(), c.want)
				if strings.Contains(p.String(), "cluster") {
					errs++
				}
			}
			if !found || c.want == "" && errs > 0 || cfg.Cluster == nil {
				t.Errorf("%v, want %q", problems, c.want)
			}
			if warns := strings.HasPrefix(c.want, "warning"); c.want != "" && warns != (len(settings.Errors(problems)) == 0) {
				t.Errorf("errors: %v", settings.Errors(problems))
			}
		})
	}
}

// TestClusterTLS: who has the secret gets in, who has another, or another cluster's name, does not.
func TestClusterTLS(t *testing.T) {
	mine := func(secret, name string) *tls.Config {
		cfg, err := clusterTLS([]byte(secret), name)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	shake := func(server, client *tls.Config) (serverErr, clientErr error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		b, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer b.Close()
		for _, c := range []net.Conn{a, b} {
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
		}
		errs := make(chan error, 1)
		go func() {
			s := tls.Server(a, server)
			err := s.Handshake()
			if err == nil {
				_, err = s.Write([]byte("x")) // with TLS 1.3 a client is done before the server has judged it
			}
			a.Close()
			errs <- err
		}()
		c := tls.Client(b, client)
		clientErr = c.Handshake()
		if clientErr == nil {
			_, clientErr = c.Read(make([]byte, 1))
		}
		b.Close()
		return <-errs, clientErr
	}
	good := mine("0123456789abcdef", "c")
	if s, c := shake(good, mine("0123456789abcdef", "c")); s != nil || c != nil {
		t.Errorf("the same secret: %v, %v", s, c)
	}
	without := mine("0123456789abcdef", "c")
	without.Certificates = nil
	for what, other := range map[string]*tls.Config{"another secret": mine("0123456789abcdeg", "c"), "another cluster": mine("0123456789abcdef", "d"), "no certificate": without} {
		if s, c := shake(good, other); s == nil || c == nil {
			t.Errorf("%s: %v, %v", what, s, c)
		}
	}
	if s, c := shake(mine("another secret 16", "c"), good); s == nil || c == nil {
		t.Errorf("a server with another secret: %v, %v", s, c)
	}
}
