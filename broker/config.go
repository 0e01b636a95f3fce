package broker

import (
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

// DefaultConfig is what a file without any key means.
func DefaultConfig() Config {
	return Config{
		Node:   NodeConfig{DataDir: "/var/lib/holdfast-broker"},
		Listen: ListenConfig{MQTT: ":1883", Admin: "127.0.0.1:18083"},
		Store:  StoreConfig{Sync: SyncAlways, MaxBytes: 10 << 30, MaxAge: 7 * 24 * time.Hour},
		Verify: []VerifyRule{{Filter: "gw/#", Policy: PolicyReject}},
	}
}

// LoadConfig reads the settings file. The Config is usable only if no problem is an
// error (see settings.Errors).
func LoadConfig(file string) (Config, []settings.Problem) {
	doc, _ := settings.Load(file)
	cfg := DefaultConfig()
	doc.Decode(&cfg)
	return cfg, doc.Problems()
}
