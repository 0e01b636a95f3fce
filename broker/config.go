package broker

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/broker/auth"
	"holdfast/broker/door"
	"holdfast/broker/limits"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
	"holdfast/systemd/settings"
)

// DefaultConfigFile is where the broker's settings are.
const DefaultConfigFile = "/etc/holdfast-broker/broker.toml"

// Config is the broker's settings, as docs/BROKER.md explains them.
type Config struct {
	Node    NodeConfig     `toml:"node"`
	Listen  listen.Config  `toml:"listen"`
	Store   StoreConfig    `toml:"store"`
	Cluster *ClusterConfig // [cluster]; nil: one node
	Limits  limits.Config  `toml:"limits"`
	Verify  []door.Rule    // [[verify]]; the first whose filter matches decides
	Auth    []auth.Link    // [[auth]], asked in order; none: everybody may everything
	Access  AccessConfig   `toml:"access"`
	Enrol   *EnrolConfig   // [enrol]; nil: gateways get no certificates here
}

// NodeConfig is [node].
type NodeConfig struct {
	Name    string `toml:"name"`     // of this node; default: the host's name
	DataDir string `toml:"data_dir"` // everything the broker keeps
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

// engineBytes is the backstop of the engine: retention keeps the messages well below it.
func (s StoreConfig) engineBytes() int64 { return s.MaxBytes + s.MaxBytes/4 + 1<<30 }

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
		Listen: listen.Config{MQTT: ":1883", Admin: "127.0.0.1:18083"},
		Store:  StoreConfig{Sync: SyncAlways, MaxBytes: 10 << 30, MaxAge: 7 * 24 * time.Hour},
		Limits: limits.Default(),
		Verify: door.DefaultRules(),
		Access: defaultAccess(),
	}
}

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
	cfg.readCluster(doc)
	cfg.readAuth(doc)
	cfg.readEnrol(doc)
	cfg.checkNode(doc)
	cfg.Listen.Check(doc, len(cfg.Auth) > 0 || len(doc.Tables("auth")) > 0) // one with a mistake keeps the broker from starting
	cfg.Limits.Check(doc)
	cfg.checkStore(doc)
	return cfg, doc.Problems()
}

func (c *Config) readVerify(doc *settings.Doc) {
	tables := doc.Tables("verify")
	if len(tables) == 0 {
		return
	}
	c.Verify = nil
	for i, t := range tables {
		t.SetLabel(fmt.Sprintf("verify #%d", i+1))
		rule := door.Rule{}
		t.Decode(&rule)
		if !t.Has("filter") {
			t.Problem("", `has no filter; write filter = "gw/#"`)
		} else if err := mqtt.CheckFilter(rule.Filter); err != nil {
			t.Problem("filter", "%v", err)
		}
		if policies := []string{door.PolicyReject, door.PolicyMark, door.PolicyOff}; !slices.Contains(policies, rule.Policy) {
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
	if info, err := os.Stat(c.Node.DataDir); err == nil && !info.IsDir() {
		doc.Problem("node.data_dir", "%s is not a directory", c.Node.DataDir)
	}
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
