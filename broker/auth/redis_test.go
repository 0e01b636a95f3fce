package auth

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/broker/auth/servers"
	"holdfast/systemd/freeport"
)

// cryptOf is the hash that Debian's own library makes of a password.
func cryptOf(t testing.TB, password string) string {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", "import crypt, sys; print(crypt.crypt(sys.argv[1], '$2a$04$abcdefghijklmnopqrstuu'))", password).Output()
	if err != nil {
		t.Fatalf("python3 (apt install python3): %v", err)
	}
	return strings.TrimSpace(string(out))
}

func TestRedis(t *testing.T) {
	r := servers.Redis(t, nil)
	addr := r.Addr
	env, log := sourceEnv(t)
	s := openSource(t, "redis", fmt.Sprintf("servers = [%q]", addr), env)
	hash := cryptOf(t, "s3cret")
	r.CLI(t, "SET", `["","test-client","test-user"]`, `{"passhash":"`+hash+`","publish_acl":[{"pattern":"a/%c/#","max_qos":1,"allowed_retain":false}],"subscribe_acl":[{"pattern":"a/+/c"}]}`)
	alice := &Client{ID: "test-client", Username: "test-user", Password: []byte("s3cret")}

	t.Run("known", func(t *testing.T) {
		a, proven, err := check(t, s, alice)
		if err != nil || a.Decision != Allow || !proven || len(a.Rules) != 2 || a.Rules[0].String() != `allow publish "a/%c/#", QoS at most 1, no retain` || a.Rules[1].String() != `allow subscribe "a/+/c"` {
			t.Errorf("%+v %v %v", a, proven, err)
		}
		if _, proven, _ := check(t, s, &Client{ID: alice.ID, Username: alice.Username, Password: []byte("s3creT")}); proven {
			t.Error("another password is right as well")
		}
	})
	t.Run("not known", func(t *testing.T) {
		for _, c := range []*Client{{ID: "other", Username: "test-user"}, {ID: "test-client", Username: "other"}, {ID: "test-client"}, {ID: `x","test-user"]`, Username: "y"}} {
			if a, _, err := check(t, s, c); err != nil || a.Decision != NotMine {
				t.Errorf("%+v: %+v %v", c, a, err)
			}
		}
	})
	t.Run("other values", func(t *testing.T) {
		r.CLI(t, "RPUSH", `["","list","u"]`, "x")
		r.CLI(t, "SET", `["","text","u"]`, "x")
		r.CLI(t, "SET", `["","plain","u"]`, `{"passhash":"s3cret"}`)
		r.CLI(t, "SET", `["","empty","u"]`, "")
		r.CLI(t, "EVAL", `return redis.call("SET", KEYS[1], '{"passhash":"' .. string.rep("x", 30000000) .. '"}')`, "1", `["","huge","u"]`)
		for id, want := range map[string]string{"list": "VerneMQ keeps text", "text": "is not JSON", "plain": "not a bcrypt hash", "huge": "at most"} {
			_, _, err := check(t, s, &Client{ID: id, Username: "u", Password: []byte("p")})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: %v", id, err)
			}
		}
		if a, _, err := check(t, s, &Client{ID: "empty", Username: "u"}); a.Decision != NotMine || err != nil {
			t.Error(a, err)
		}
	})
	t.Run("a limit of the payload", func(t *testing.T) {
		r.CLI(t, "SET", `["","small","u"]`, `{"passhash":"`+hash+`","publish_acl":[{"pattern":"a","max_payload_size":128},{"pattern":"b"}]}`)
		g, err := chainWith(t, "redis", fmt.Sprintf("servers = [%q]", addr)).Admit(t.Context(), &Client{ID: "small", Username: "u", Password: []byte("s3cret")})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			topic string
			size  int
			want  bool
		}{{"a", 0, true}, {"a", 128, true}, {"a", 129, false}, {"b", 1 << 20, true}, {"c", 1, false}} {
			if v := g.MayCarry(g.MayPublish(x.topic, 1, false), x.size); v.Allowed != x.want || !v.Allowed && x.topic == "a" && (v.Short() != "not authorized: payload too large" || !strings.Contains(g.Why(v), "at most 128 bytes")) {
				t.Errorf("%s with %d bytes: %v %s", x.topic, x.size, v.Allowed, g.Why(v))
			}
		}
	})
	t.Run("many connects", func(t *testing.T) { manyRedis(t, r) })
	t.Run("hangs, dies, comes back", func(t *testing.T) {
		comesAndGoes(t, s, r.Process, addr, alice, func() {
			r.CLI(t, "SET", `["","test-client","test-user"]`, `{"passhash":"`+hash+`"}`)
		})
	})
	if strings.Contains(log.String(), "s3cret") || strings.Contains(log.String(), hash) {
		t.Errorf("a secret stands in the log: %s", log)
	}
}

// comesAndGoes: a server that hangs is an error when the client's time is over, one that is gone at once; when it is back, it is
// asked as before.
func comesAndGoes(t *testing.T, s Source, r *servers.Process, addr string, known *Client, refill func()) {
	t.Helper()
	short := func() (Answer, error) { return checkWithin(t, s, known, shortly) }
	r.Hang()
	if a, err := short(); err == nil || a.Decision == Allow {
		t.Errorf("it hangs: %+v %v", a, err)
	}
	r.GoOn()
	answersAgain(t, s, known, "after it hung")
	r.Die()
	if a, err := checkWithin(t, s, known, patience); err == nil || a.Decision == Allow {
		t.Errorf("it is dead: %+v %v", a, err)
	} else if !strings.Contains(err.Error(), addr) {
		t.Errorf("which server? %v", err)
	}
	r.Start()
	r.Listens(addr)
	refill()
	answersAgain(t, s, known, "after it came back")
}

func answersAgain(t *testing.T, s Source, c *Client, when string) {
	t.Helper()
	var last error
	eventually(t, "it answers "+when, func() bool {
		a, err := checkWithin(t, s, c, 10*shortly)
		last = err
		return err == nil && a.Decision == Allow
	})
	if last != nil {
		t.Error(last)
	}
}

func TestRedisPassword(t *testing.T) {
	addr := servers.Redis(t, nil, "--requirepass", "hunter2hunter2").Addr
	env, _ := sourceEnv(t)
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "wrong\n")
	s := openSource(t, "redis", fmt.Sprintf("servers = [%q]\npassword_file = %q", addr, file), env)
	if _, _, err := check(t, s, &Client{ID: "c", Username: "u"}); err == nil || !strings.Contains(err.Error(), "password_file must be") || strings.Contains(err.Error(), "wrong\n") {
		t.Error(err)
	}
	write(t, file, "hunter2hunter2\n")
	s = openSource(t, "redis", fmt.Sprintf("servers = [%q]\npassword_file = %q", addr, file), env)
	if a, _, err := check(t, s, &Client{ID: "c", Username: "u"}); err != nil || a.Decision != NotMine {
		t.Error(a, err)
	}
	s = openSource(t, "redis", fmt.Sprintf("servers = [%q]\ntls = true", addr), env)
	if _, err := checkWithin(t, s, &Client{ID: "c", Username: "u"}, shortly); err == nil || !strings.Contains(err.Error(), "does it not speak TLS there") {
		t.Error(err)
	}
	env.Path = func(string) string { return file }
	none := openSource(t, "redis", fmt.Sprintf("servers = [%q]", addr), env)
	if _, _, err := check(t, none, &Client{ID: "c", Username: "u"}); err == nil || !strings.Contains(err.Error(), "password_file must be") {
		t.Error(err)
	}
}

// TestRedisCluster: one node that has all slots, so every key is there; what matters is that the client speaks to a cluster.
func TestRedisCluster(t *testing.T) {
	r := servers.Redis(t, nil, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
	addr := r.Addr
	r.CLI(t, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	eventually(t, "the cluster is up", func() bool { return strings.Contains(r.CLI(t, "CLUSTER", "INFO"), "cluster_state:ok") })
	r.CLI(t, "SET", `["mp","c","u"]`, `{"passhash":"`+someHash+`","publish_acl":[{"pattern":"%m/x"}]}`)
	env, _ := sourceEnv(t)
	s := openSource(t, "redis", fmt.Sprintf("servers = [%q]\ncluster = true\nmountpoint = \"mp\"", addr), env)
	a, _, err := check(t, s, &Client{ID: "c", Username: "u"})
	if err != nil || a.Decision != Allow || a.Rules[0].Filter != "mp/x" {
		t.Error(a, err)
	}
}

// TestRedisSentinel: the client finds the master through a sentinel.
func TestRedisSentinel(t *testing.T) {
	master := servers.Redis(t, nil)
	_, port, _ := net.SplitHostPort(master.Addr)
	dir := servers.Dir(t)
	conf := filepath.Join(dir, "sentinel.conf")
	at := freeport.Addr(t)
	_, own, _ := net.SplitHostPort(at)
	servers.File(t, conf, fmt.Appendf(nil, "port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor mymaster 127.0.0.1 %s 1\n", own, dir, port))
	servers.Run(t, servers.Program(t, "redis-server", "redis-server"), conf, "--sentinel").Listens(at)
	master.CLI(t, "SET", `["","c","u"]`, `{"passhash":"`+someHash+`"}`)
	env, _ := sourceEnv(t)
	s := openSource(t, "redis", fmt.Sprintf("servers = [%q]\nsentinel = \"mymaster\"", at), env)
	if a, _, err := check(t, s, &Client{ID: "c", Username: "u"}); err != nil || a.Decision != Allow {
		t.Error(a, err)
	}
}

func TestRedisSettings(t *testing.T) {
	env, _ := sourceEnv(t)
	for text, want := range map[string]string{
		`servers = []`:                                "broker.toml:2: auth #1: servers: is empty",
		`servers = ["a"]`:                             `servers[0]: "a" is not host:port`,
		`servers = ["a:1", "b:2"]`:                    "several servers are sentinels",
		"sentinel = \"m\"\ncluster = true":            "not both",
		"cluster = true\ndatabase = 1":                "a cluster has only database 0",
		`password_file = "/does/not/exist"`:           "password_file: ",
		`ca_file = "x.pem"`:                           "write tls = true",
		"tls = true\nca_file = \"/does/not/exist\"":   "/does/not/exist",
		"tls = true\ncert_file = \"/does/not/exist\"": "belong together",
		`pool_size = 0`:                               "1 to 1000",
	} {
		if got := problems("redis", text, env); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}
