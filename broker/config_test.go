package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/limits"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
	"holdfast/systemd/settings"
)

func parse(t *testing.T, text string) (Config, []string) {
	t.Helper()
	cfg, problems := ParseConfig("broker.toml", []byte(text))
	out := []string{}
	for _, p := range problems {
		out = append(out, p.String())
	}
	return cfg, out
}

func TestConfigDefaultsListenOnLoopback(t *testing.T) {
	cfg, problems := parse(t, "")
	if cfg.Listen.MQTT != "127.0.0.1:1883" || cfg.Listen.Admin != "127.0.0.1:18083" || cfg.Node.DataDir != "/var/lib/holdfast-broker" {
		t.Errorf("%+v", cfg)
	}
	if !reflect.DeepEqual(cfg.Verify, []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}}) {
		t.Errorf("verify: %+v", cfg.Verify)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "warning: listen.mqtt: without [[auth]]") || !strings.Contains(problems[0], "loopback only: 127.0.0.1:1883") {
		t.Errorf("problems: %q", problems)
	}
}

func TestConfigReadsEverything(t *testing.T) {
	certFile, keyFile, _ := certificate(t)
	dir := filepath.Dir(certFile)
	cfg, problems := ParseConfig(filepath.Join(dir, "broker.toml"), []byte(`
[node]
name = "n-2"
data_dir = "data"
[listen]
mqtt = ""
mqtts = "[::1]:8883"
ws = "127.0.0.1:8083"
wss = "127.0.0.1:8084"
admin = "localhost:1"
cert_file = "cert.pem"
key_file = "key.pem"
ws_origins = ["https://panel.example"]
proxy_protocol = ["mqtts", "ws"]
trusted_proxies = ["10.0.0.0/8", "::1"]
max_connections = 5000
[store]
sync = "always"
max_bytes = "1GiB"
max_age = "36h"
[[verify]]
filter = "gw/+/raw"
policy = "mark"
[[verify]]
filter = "gw/#"
policy = "reject"
`))
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	want := Config{
		Node: NodeConfig{Name: "n-2", DataDir: filepath.Join(dir, "data")},
		Listen: listen.Config{MQTTS: "[::1]:8883", WS: "127.0.0.1:8083", WSS: "127.0.0.1:8084", Admin: "localhost:1", CertFile: certFile, KeyFile: keyFile,
			WSOrigins: []string{"https://panel.example"}, ProxyProtocol: []string{"mqtts", "ws"}, TrustedProxies: []string{"10.0.0.0/8", "::1"}, MaxConnections: 5000},
		Store:  StoreConfig{Sync: SyncAlways, MaxBytes: 1 << 30, MaxAge: 36 * time.Hour},
		Limits: limits.Default(),
		Verify: []door.Rule{{Filter: "gw/+/raw", Policy: door.PolicyMark}, {Filter: "gw/#", Policy: door.PolicyReject}},
		Access: defaultAccess(),
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("%+v\nwant %+v", cfg, want)
	}
}

// TestConfigProblems: what a mistake is answered with, and on which line.
func TestConfigProblems(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "[listen]\nmqqt = \":1883\"", "broker.toml:2: listen.mqqt:"},
		{"wrong type", "[store]\nmax_bytes = 5", "broker.toml:2: store.max_bytes:"},
		{"no unit", "[store]\nmax_age = \"7\"", "broker.toml:2: store.max_age:"},
		{"too small", "[store]\nmax_bytes = \"1MiB\"", `broker.toml:2: store.max_bytes: 1MiB is too little; at least 64MiB`},
		{"too short", "[store]\nmax_age = \"1s\"", `broker.toml:2: store.max_age: 1s is too short; at least 1m`},
		{"sync", "[store]\nsync = \"never\"", `broker.toml:2: store.sync: is "never"; write "always" or "interval"`},
		{"interval", "[store]\nsync = \"interval\"", `broker.toml:2: warning: store.sync: "interval": a power cut`},
		{"not an address", "[listen]\nmqtt = \"1883\"", `broker.toml:2: listen.mqtt: "1883" is not an address`},
		{"port", "[listen]\nmqtt = \"127.0.0.1:99999\"", `broker.toml:2: listen.mqtt: "127.0.0.1:99999" has no port number`},
		{"not loopback", "[listen]\nmqtt = \"0.0.0.0:1883\"", `broker.toml:2: listen.mqtt: "0.0.0.0:1883" is not loopback, and without [[auth]]`},
		{"admin not loopback", "[listen]\nadmin = \":18083\"", `broker.toml:2: listen.admin: ":18083" is not loopback`},
		{"no listener", "[listen]\nmqtt = \"\"", `broker.toml:1: listen: no listener is open`},
		{"tls without files", "[listen]\nmqtts = \"127.0.0.1:8883\"", `broker.toml:2: listen.mqtts: needs listen.cert_file`},
		{"tls files unreadable", "[listen]\nmqtts = \"127.0.0.1:8883\"\ncert_file = \"/nowhere/c\"\nkey_file = \"/nowhere/k\"", `broker.toml:3: listen.cert_file: cannot be read`},
		{"ws not loopback", "[listen]\nws = \"0.0.0.0:8083\"", `broker.toml:2: listen.ws: "0.0.0.0:8083" is not loopback, and without [[auth]]`},
		{"a proxy lifts nothing", "[listen]\nws = \"0.0.0.0:8083\"\nproxy_protocol = [\"ws\"]\ntrusted_proxies = [\"10.0.0.0/8\"]", `broker.toml:2: listen.ws: "0.0.0.0:8083" is not loopback`},
		{"wss without files", "[listen]\nwss = \"127.0.0.1:8084\"", `broker.toml:2: listen.wss: needs listen.cert_file`},
		{"no certificate in it", "[listen]\nmqtts = \"127.0.0.1:8883\"\ncert_file = \"config.go\"\nkey_file = \"config.go\"", `config.go holds no usable certificate (PEM`},
		{"files for nobody", "[listen]\nkey_file = \"x\"", `broker.toml:2: warning: listen.key_file: has no effect: mqtts and wss are closed`},
		{"no origin", "[listen]\nws = \":8083\"\nws_origins = [\"example.com\"]", `broker.toml:3: listen.ws_origins: "example.com" is not an origin; write "https://host"`},
		{"any origin", "[listen]\nws = \":8083\"\nws_origins = [\"*\"]", `broker.toml:3: warning: listen.ws_origins: "*" lets every web page`},
		{"origins for nobody", "[listen]\nws_origins = [\"*\"]", `broker.toml:2: warning: listen.ws_origins: has no effect: ws and wss are closed`},
		{"no such listener", "[listen]\nproxy_protocol = [\"mqqt\"]\ntrusted_proxies = [\"10.0.0.1\"]", `broker.toml:2: listen.proxy_protocol: "mqqt" is no listener; there are ["mqtt" "mqtts" "ws" "wss"]`},
		{"closed listener", "[listen]\nproxy_protocol = [\"ws\"]\ntrusted_proxies = [\"10.0.0.1\"]", `broker.toml:2: listen.proxy_protocol: "ws" is closed; give listen.ws an address`},
		{"listener twice", "[listen]\nproxy_protocol = [\"mqtt\", \"mqtt\"]\ntrusted_proxies = [\"10.0.0.1\"]", `broker.toml:2: listen.proxy_protocol: "mqtt" stands in it twice`},
		{"trusts nobody", "[listen]\nproxy_protocol = [\"mqtt\"]", `broker.toml:2: listen.proxy_protocol: needs listen.trusted_proxies`},
		{"trust for nothing", "[listen]\ntrusted_proxies = [\"10.0.0.1\"]", `broker.toml:2: warning: listen.trusted_proxies: has no effect`},
		{"no network", "[listen]\nproxy_protocol = [\"mqtt\"]\ntrusted_proxies = [\"ten\"]", `broker.toml:3: listen.trusted_proxies: "ten" is no network; write "10.0.0.0/8"`},
		{"bits too many", "[listen]\nproxy_protocol = [\"mqtt\"]\ntrusted_proxies = [\"10.0.0.1/8\"]", `broker.toml:3: listen.trusted_proxies: "10.0.0.1/8" has bits beyond its length; did you mean "10.0.0.0/8"?`},
		{"trusts everybody", "[listen]\nproxy_protocol = [\"mqtt\"]\ntrusted_proxies = [\"0.0.0.0/0\"]", `broker.toml:3: warning: listen.trusted_proxies: 0.0.0.0/0: everybody who reaches the listener`},
		{"fewer than none", "[listen]\nmax_connections = -1", `broker.toml:2: listen.max_connections: -1 is less than none`},
		{"auth without a type", "[[auth]]\npath = \"x\"", `broker.toml:1: auth #1: type: "" is no source of users; there are file`},
		{"auth of no type", "[[auth]]\ntype = \"ldap\"", `broker.toml:2: auth ldap: type: "ldap" is no source of users; there are file`},
		{"auth without its file", "[[auth]]\ntype = \"file\"\npath = \"nowhere.toml\"", `broker.toml:3: auth file: path: stat `},
		{"auth timeout", "[[auth]]\ntype = \"anonymous\"\ntimeout = \"1m\"", `broker.toml:3: auth anonymous: timeout: 1m is not between 10ms and 10s`},
		{"auth on_error", "[[auth]]\ntype = \"anonymous\"\non_error = \"allow\"", `broker.toml:3: auth anonymous: on_error: is "allow"; write "deny" or "last-known"`},
		{"auth unknown key", "[[auth]]\ntype = \"anonymous\"\nacl = 1", `broker.toml:3: auth anonymous: acl: unknown key`},
		{"auth filter", "[[auth]]\ntype = \"anonymous\"\npublish = [\"a/#/b\"]", `broker.toml:3: auth anonymous: publish: "a/#/b"`},
		{"an empty list of auth is none", "auth = []\n[listen]\nmqtt = \"0.0.0.0:1883\"", `broker.toml:3: listen.mqtt: "0.0.0.0:1883" is not loopback, and without [[auth]]`},
		{"plain text outside", "[[auth]]\ntype = \"anonymous\"\n[listen]\nmqtt = \":1883\"", `broker.toml:4: warning: listen.mqtt: ":1883" has no TLS`},
		{"admin stays", "[[auth]]\ntype = \"anonymous\"\n[listen]\nadmin = \":1\"", `broker.toml:4: listen.admin: ":1" is not loopback`},
		{"refused publish", "[access]\non_refused_publish = \"ignore\"", `broker.toml:2: access.on_refused_publish: is "ignore"`},
		{"refused delay", "[access]\nrefused_delay = \"1m\"", `broker.toml:2: access.refused_delay: 1m is longer than clients wait; at most 10s`},
		{"access for nobody", "[access]\nrefused_delay = \"1s\"", `broker.toml:1: warning: access: has no effect: there is no [[auth]]`},
		{"node name", "[node]\nname = \"a b\"", `broker.toml:2: node.name: "a b" is not a node name`},
		{"no data_dir", "[node]\ndata_dir = \"\"", `broker.toml:2: node.data_dir: is empty`},
		{"data_dir is a file", "[node]\ndata_dir = \"config.go\"", `config.go is not a directory`},
		{"section misspelled", "[clustr]\nname = \"x\"", `broker.toml:1: clustr: unknown table; did you mean "cluster"?`},
		{"no filter", "[[verify]]\npolicy = \"off\"", `broker.toml:1: verify #1: has no filter`},
		{"bad filter", "[[verify]]\nfilter = \"a/#/b\"\npolicy = \"off\"", `broker.toml:2: verify #1: filter: "a/#/b": "#" can only be the last level`},
		{"bad policy", "[[verify]]\nfilter = \"a\"\npolicy = \"maybe\"", `broker.toml:3: verify #1: policy: is "maybe"; write "reject", "mark" or "off"`},
		{"no policy", "[[verify]]\nfilter = \"a\"", `verify #1: policy: is ""`},
		{"shadowed", "[[verify]]\nfilter = \"a\"\npolicy = \"off\"\n[[verify]]\nfilter = \"a\"\npolicy = \"mark\"", `broker.toml:5: verify #2: filter: "a" stands in an earlier [[verify]]`},
		{"syntax", "[node\n", "broker.toml:1:"},
	} {
		_, problems := parse(t, c.text)
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, c.want) || strings.Contains(p, c.want) }) {
			t.Errorf("%s: %q, want %q among them", c.name, problems, c.want)
		}
	}
}

func TestConfigTellsEverythingAtOnce(t *testing.T) {
	_, problems := ParseConfig("broker.toml", []byte("[node]\nname = \"\"\n[store]\nsync = \"x\"\nmax_age = \"1s\"\n[cluster]\nname = \"c\"\n"))
	if n := len(settings.Errors(problems)); n != 5 {
		t.Errorf("%d errors, want 5: %v", n, problems)
	}
}

func TestConfigFileMissing(t *testing.T) {
	_, problems := LoadConfig(filepath.Join(t.TempDir(), "none.toml"))
	if errs := settings.Errors(problems); len(errs) != 1 || !strings.Contains(errs[0].String(), "no such file") {
		t.Errorf("%v", problems)
	}
}

// TestConfigIsDocumented: docs/BROKER.md has a row for every key, and none for a key
// that does not exist.
func TestConfigIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/BROKER.md")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+\\.[a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		have[m[1]] = true
	}
	want := map[string]bool{}
	keys := func(table string, v any) {
		for f := range reflect.TypeOf(v).NumField() {
			tag, _, _ := strings.Cut(reflect.TypeOf(v).Field(f).Tag.Get("toml"), ",")
			want[table+"."+tag] = true
		}
	}
	keys("node", NodeConfig{})
	keys("listen", listen.Config{})
	keys("store", StoreConfig{})
	keys("cluster", ClusterConfig{})
	keys("verify", door.Rule{})
	keys("access", AccessConfig{})
	if !reflect.DeepEqual(have, want) {
		for k := range want {
			if !have[k] {
				t.Errorf("docs/BROKER.md has no row for %s", k)
			}
		}
		for k := range have {
			if !want[k] {
				t.Errorf("docs/BROKER.md explains %s, which is no key", k)
			}
		}
	}
}

// TestDocumentedConfigWorks: the example in docs/BROKER.md is accepted as it stands.
func TestDocumentedConfigWorks(t *testing.T) {
	text, err := os.ReadFile("../docs/BROKER.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		t.Fatal("no example")
	}
	for i, b := range blocks {
		if _, problems := ParseConfig(fmt.Sprint("example ", i), []byte(b[1])); len(settings.Errors(problems)) > 0 {
			t.Errorf("%v", problems)
		}
	}
}

func TestMatchFilter(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{ // MQTT 5.0 section 4.7
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"#", "a/b", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"a/b", "a/b", true},
		{"a/b", "a", false},
		{"a", "a/b", false},
		{"a/+/c/#", "a/b/c", true},
		{"", "", true},
	} {
		if got := mqtt.MatchFilter(c.filter, c.topic); got != c.want {
			t.Errorf("%q matches %q: %v", c.filter, c.topic, got)
		}
	}
}

func TestCheckFilter(t *testing.T) {
	for _, good := range []string{"#", "+", "a/+/b/#", "/", "a//b", "$share"} {
		if err := mqtt.CheckFilter(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a#", "a/b+", "#/a", "a\x00", "\xff", strings.Repeat("a", 65536)} {
		if mqtt.CheckFilter(bad) == nil {
			t.Errorf("%.20q is accepted", bad)
		}
	}
}

// FuzzMatchFilter compares with the definition, level by level.
func FuzzMatchFilter(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Add("+/b", "$SYS/b")
	f.Add("/#", "/")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if mqtt.CheckFilter(filter) != nil || topic == "" || strings.ContainsAny(topic, "+#") {
			return
		}
		fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
		want := true
		for i := 0; want; i++ {
			if i < len(fs) && fs[i] == "#" {
				break
			}
			if i == len(fs) || i == len(ts) {
				want = i == len(fs) && i == len(ts) || i == len(ts) && i == len(fs)-1 && fs[i] == "#"
				break
			}
			want = fs[i] == "+" || fs[i] == ts[i]
		}
		if strings.HasPrefix(topic, "$") && (fs[0] == "+" || fs[0] == "#") {
			want = false
		}
		if got := mqtt.MatchFilter(filter, topic); got != want {
			t.Errorf("%q matches %q: %v, want %v", filter, topic, got, want)
		}
	})
}
