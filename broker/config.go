package broker

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/systemd/settings"
)

// DefaultConfigFile is where the broker's settings are.
const DefaultConfigFile = "/etc/holdfast-broker/broker.toml"

// Config is the broker's settings, as docs/BROKER.md explains them.
type Config struct {
	Node   NodeConfig   `toml:"node"`
	Listen ListenConfig `toml:"listen"`
	Store  StoreConfig  `toml:"store"`
	Verify []VerifyRule // [[verify]]; the first whose filter matches decides
}

// NodeConfig is [node].
type NodeConfig struct {
	Name    string `toml:"name"`     // of this node; default: the host's name
	DataDir string `toml:"data_dir"` // everything the broker keeps
}

// ListenConfig is [listen]. An empty address is a closed listener.
type ListenConfig struct {
	MQTT     string `toml:"mqtt"`      // host:port
	MQTTS    string `toml:"mqtts"`     // MQTT over TLS
	WS       string `toml:"ws"`        // MQTT over WebSocket
	WSS      string `toml:"wss"`       // MQTT over WebSocket over TLS
	Admin    string `toml:"admin"`     // admin API, dashboard, metrics, health
	CertFile string `toml:"cert_file"` // for mqtts
	KeyFile  string `toml:"key_file"`  // for mqtts

	ProxyProtocol  []string `toml:"proxy_protocol"`  // listeners that require PROXY v1/v2
	TrustedProxies []string `toml:"trusted_proxies"` // networks that may send it
}

// Describe names the open MQTT listeners.
func (l ListenConfig) Describe() string {
	var out []string
	for _, o := range []struct{ name, addr string }{{"mqtt", l.MQTT}, {"mqtts", l.MQTTS}} {
		if o.addr != "" {
			out = append(out, o.name+" "+o.addr)
		}
	}
	return strings.Join(out, ", ")
}

// The values of StoreConfig.Sync.
const (
	SyncAlways   = "always"   // PUBACK means on disk
	SyncInterval = "interval" // faster: a power cut may cost what was acknowledged last
)

// StoreConfig is [store].
type StoreConfig struct {
	Sync     string        `toml:"sync"`
	MaxBytes int64         `toml:"max_bytes,size"` // bytes on disk, per node
	MaxAge   time.Duration `toml:"max_age"`        // how long messages are kept
}

// The values of VerifyRule.Policy.
const (
	PolicyReject = "reject" // a message that does not verify is refused
	PolicyMark   = "mark"   // every message passes, and says what the check found
	PolicyOff    = "off"    // no check
)

// VerifyRule is one [[verify]].
type VerifyRule struct {
	Filter string `toml:"filter"` // MQTT topic filter
	Policy string `toml:"policy"`
}

// minStore is the least that max_bytes may be: a few segments of the log and of the state.
const minStore = 64 << 20

// DefaultConfig is what a file without any key means.
func DefaultConfig() Config {
	name, err := os.Hostname()
	if name, _, _ = strings.Cut(name, "."); err != nil || checkName(name) != nil {
		name = "n1"
	}
	return Config{
		Node:   NodeConfig{Name: name, DataDir: "/var/lib/holdfast-broker"},
		Listen: ListenConfig{MQTT: ":1883", Admin: "127.0.0.1:18083"},
		Store:  StoreConfig{Sync: SyncAlways, MaxBytes: 10 << 30, MaxAge: 7 * 24 * time.Hour},
		Verify: defaultVerify(),
	}
}

func defaultVerify() []VerifyRule { return []VerifyRule{{Filter: "gw/#", Policy: PolicyReject}} }

// LoadConfig reads the settings file. The Config is usable only if no problem is an
// error (see settings.Errors).
func LoadConfig(file string) (Config, []settings.Problem) {
	doc, _ := settings.Load(file)
	return readConfig(doc)
}

// ParseConfig reads settings from memory; file is only the name that problems carry.
func ParseConfig(file string, data []byte) (Config, []settings.Problem) {
	doc, _ := settings.Parse(file, data)
	return readConfig(doc)
}

func readConfig(doc *settings.Doc) (Config, []settings.Problem) {
	cfg := DefaultConfig()
	doc.Decode(&cfg)
	cfg.readVerify(doc)
	cfg.notYet(doc)
	cfg.checkNode(doc)
	cfg.checkListen(doc)
	cfg.checkStore(doc)
	return cfg, doc.Problems()
}

// notYet refuses what the contract names and this program cannot do yet: better than
// a setting that has no effect.
func (c *Config) notYet(doc *settings.Doc) {
	if doc.Has("cluster") {
		doc.Decode(&struct {
			Cluster map[string]any `toml:"cluster"`
		}{})
		doc.Problem("cluster", "comes with the cluster: not available yet; remove the table to run one node")
	}
	for i, t := range doc.Tables("auth") {
		t.AcceptAll()
		t.SetLabel(fmt.Sprintf("auth #%d", i+1))
		t.Problem("", "sources of users come in a later issue: not available yet; remove the table: the broker then listens on loopback only")
	}
	for key, addr := range map[string]string{"ws": c.Listen.WS, "wss": c.Listen.WSS} {
		if addr != "" {
			doc.Problem("listen."+key, `comes in a later issue: not available yet; write %s = "" or remove it`, key)
		}
	}
}

func (c *Config) readVerify(doc *settings.Doc) {
	tables := doc.Tables("verify")
	if len(tables) == 0 {
		return
	}
	c.Verify = nil
	for i, t := range tables {
		t.SetLabel(fmt.Sprintf("verify #%d", i+1))
		rule := VerifyRule{}
		t.Decode(&rule)
		if !t.Has("filter") {
			t.Problem("", `has no filter; write filter = "gw/#"`)
		} else if err := CheckFilter(rule.Filter); err != nil {
			t.Problem("filter", "%v", err)
		}
		if policies := []string{PolicyReject, PolicyMark, PolicyOff}; !slices.Contains(policies, rule.Policy) {
			t.Problem("policy", `is %q; write "reject", "mark" or "off"`, rule.Policy)
		}
		for _, earlier := range c.Verify {
			if earlier.Filter == rule.Filter {
				t.Problem("filter", "%q stands in an earlier [[verify]] already, and the first match decides; remove one", rule.Filter)
			}
		}
		c.Verify = append(c.Verify, rule)
	}
}

func (c *Config) checkNode(doc *settings.Doc) {
	if err := checkName(c.Node.Name); err != nil {
		doc.Problem("node.name", "%v", err)
	}
	if c.Node.DataDir == "" {
		doc.Problem("node.data_dir", "is empty; name a directory on a disk, the default is /var/lib/holdfast-broker")
		return
	}
	c.Node.DataDir = doc.Path(c.Node.DataDir)
}

// checkName wants letters, digits, "_", "-": a node's name is part of stream names.
func checkName(name string) error {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return !ok(r) }) {
		return fmt.Errorf("%q is not a node name: 1 to 64 letters, digits, \"-\" and \"_\"", name)
	}
	return nil
}

func (c *Config) checkListen(doc *settings.Doc) {
	l := &c.Listen
	l.MQTT = checkAddress(doc, "mqtt", l.MQTT, true)
	l.MQTTS = checkAddress(doc, "mqtts", l.MQTTS, true)
	l.Admin = checkAddress(doc, "admin", l.Admin, false)
	if l.MQTT == "" && l.MQTTS == "" && !doc.Broken() {
		doc.Problem("listen", `no listener is open; write mqtt = ":1883"`)
	}
	l.checkTLS(doc)
	if len(l.ProxyProtocol) > 0 || len(l.TrustedProxies) > 0 {
		key := "listen.proxy_protocol"
		if len(l.ProxyProtocol) == 0 {
			key = "listen.trusted_proxies"
		}
		doc.Problem(key, "comes in a later issue: not available yet; remove it")
	}
}

func (l *ListenConfig) checkTLS(doc *settings.Doc) {
	files := []struct {
		key  string
		file *string
	}{{"listen.cert_file", &l.CertFile}, {"listen.key_file", &l.KeyFile}}
	for _, f := range files {
		switch {
		case *f.file == "" && l.MQTTS != "":
			doc.Problem("listen.mqtts", "needs %s: a PEM file", f.key)
		case *f.file != "" && l.MQTTS == "":
			doc.Warn(f.key, `has no effect: mqtts is closed; write mqtts = ":8883"`)
		case *f.file != "":
			*f.file = doc.Path(*f.file)
			if file, err := os.Open(*f.file); err != nil {
				doc.Problem(f.key, "cannot be read: %v", err)
			} else {
				file.Close()
			}
		}
	}
}

// checkAddress checks host:port and keeps it on loopback: without [[auth]] nobody who
// reaches a listener would be asked who he is. The admin API stays there in any case.
func checkAddress(doc *settings.Doc, name, addr string, mqtt bool) string {
	if addr == "" {
		return ""
	}
	key := "listen." + name
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		doc.Problem(key, `%q is not an address; write "host:port" or ":port"`, addr)
		return addr
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		doc.Problem(key, "%q has no port number from 0 to 65535", addr)
	} else if n == 0 {
		doc.Warn(key, "port 0 lets the system choose a port; the log says which")
	}
	ip := net.ParseIP(host)
	switch {
	case host == "localhost" || ip != nil && ip.IsLoopback():
	case host == "" && mqtt:
		local := net.JoinHostPort("127.0.0.1", port)
		doc.Warn(key, "without [[auth]] anyone who reaches the broker could publish and subscribe, so it listens on loopback only: %s", local)
		return local
	case mqtt:
		doc.Problem(key, "%q is not loopback, and without [[auth]] anyone who reaches it could publish and subscribe; write %q", addr, net.JoinHostPort("127.0.0.1", port))
	default:
		doc.Problem(key, "%q is not loopback: the admin API is for this host; write %q and reach it by SSH or a proxy of yours", addr, net.JoinHostPort("127.0.0.1", port))
	}
	return addr
}

func (c *Config) checkStore(doc *settings.Doc) {
	switch c.Store.Sync {
	case SyncAlways:
	case SyncInterval:
		doc.Warn("store.sync", `"interval": a power cut may cost messages that were acknowledged; "always" does not`)
	default:
		doc.Problem("store.sync", `is %q; write "always" or "interval"`, c.Store.Sync)
	}
	if c.Store.MaxBytes < minStore {
		doc.Problem("store.max_bytes", "%s is too little; at least %s", settings.FormatSize(c.Store.MaxBytes), settings.FormatSize(minStore))
	}
	if c.Store.MaxAge < time.Minute {
		doc.Problem("store.max_age", "%s is too short; at least 1m", settings.FormatDuration(c.Store.MaxAge))
	}
}
