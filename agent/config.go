package agent

import (
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// Config is what an agent needs to know, composed of each part's own configuration.
type Config struct {
	File         string         // where it was read from
	GatewayID    string         // "": made from the machine id and kept in DataDir
	DataDir      string         // on the card
	Board        string         // a board's name, or "auto"
	Algorithm    string         // wire.Ed25519 or wire.HMACSHA256
	KeyFile      string         // absolute, or under DataDir
	Format       wire.Format    //
	Batch        Batch          // readings of one device signed and sent together
	Buffer       buffer.Config  // New fills in DataDir and MachineID
	Uplink       uplink.Config  // New fills in an empty ClientID
	Topic        string         // template, "gw/{gateway}/{device}"
	StatusListen string         // host:port; "": none
	Update       UpdateConfig   // how a new program replaces this one
	Enrol        EnrolConfig    // where the client certificate comes from
	Devices      []DeviceConfig // names are unique

	// Tags are those of readings that come from no configured device: what one that is gone left behind.
	Tags map[string]string
}

// UpdateConfig is the [update] table.
type UpdateConfig struct {
	KeysFile      string        // minisign public keys of those whose releases may run
	ConfirmWithin time.Duration // from the first start of a new program until it must be well
	Settle        time.Duration // how long it must be well without a break
}

// Batch bounds a message; whichever comes first. Interval is never above
// Buffer.CommitInterval.
type Batch struct {
	Interval time.Duration // from the first reading of a batch until it is sealed
	Count    int           // readings
	Bytes    int           // of the readings, before sealing
}

// DeviceConfig is one [[device]].
type DeviceConfig struct {
	Name     string
	Driver   string
	Settings devices.Settings  // what the driver's Settings() made, filled in
	Rules    []Rule            // what of its readings is sent; the first that fits decides
	Tags     map[string]string // what its messages carry, those of the gateway included; nil: none. Never changed
}

// file is the configuration as it is written. docs/CONFIG.md explains every key; a
// test holds the two together.
type file struct {
	Gateway struct {
		ID      string            `toml:"id"`
		DataDir string            `toml:"data_dir"`
		Board   string            `toml:"board"`
		Tags    map[string]string `toml:"tags"`
	} `toml:"gateway"`
	Signing struct {
		Algorithm string `toml:"algorithm"`
		KeyFile   string `toml:"key_file"`
	} `toml:"signing"`
	Payload struct {
		Format string `toml:"format"`
	} `toml:"payload"`
	Buffer struct {
		MaxBytes       int64         `toml:"max_bytes,size"`
		MaxAge         time.Duration `toml:"max_age"`
		WhenFull       string        `toml:"when_full"`
		CommitInterval time.Duration `toml:"commit_interval"`
		CommitCount    int           `toml:"commit_count"`
		BatchInterval  time.Duration `toml:"batch_interval"`
		BatchCount     int           `toml:"batch_count"`
		BatchBytes     int64         `toml:"batch_bytes,size"`
		RuntimeDir     string        `toml:"runtime_dir"`
	} `toml:"buffer"`
	Uplink struct {
		Servers       []string      `toml:"servers"`
		Username      string        `toml:"username"`
		PasswordFile  string        `toml:"password_file"`
		CAFile        string        `toml:"ca_file"`
		CertFile      string        `toml:"cert_file"`
		KeyFile       string        `toml:"key_file"`
		Topic         string        `toml:"topic"`
		SessionExpiry time.Duration `toml:"session_expiry"`
		Keepalive     time.Duration `toml:"keepalive"`
		Drain         string        `toml:"drain"`
		DrainRate     uplink.Rate   `toml:"drain_rate"`
	} `toml:"uplink"`
	Status struct {
		Listen string `toml:"listen"`
	} `toml:"status"`
	Enrol struct {
		Servers   []string `toml:"servers"`
		TokenFile string   `toml:"token_file"`
	} `toml:"enrol"`
	Update struct {
		Keys          string        `toml:"keys"`
		ConfirmWithin time.Duration `toml:"confirm_within"`
		Settle        time.Duration `toml:"settle"`
	} `toml:"update"`
}

// deviceKeys is what every [[device]] has; the rest belongs to its driver.
type deviceKeys struct {
	Name   string            `toml:"name"`
	Driver string            `toml:"driver"`
	Rules  []Rule            `toml:"rule"`
	Tags   map[string]string `toml:"tags"`
}

// defaults is the configuration of an empty file.
func defaults() file {
	var f file
	f.Gateway.DataDir, f.Gateway.Board = "/var/lib/holdfast", "auto"
	f.Signing.Algorithm, f.Signing.KeyFile = wire.Ed25519, "identity.pem"
	f.Payload.Format = string(wire.JSON)
	f.Buffer.MaxBytes, f.Buffer.MaxAge = 512<<20, 30*24*time.Hour
	f.Buffer.WhenFull = buffer.WhenFullDropOldest
	f.Buffer.CommitInterval, f.Buffer.CommitCount = time.Second, 64
	f.Buffer.BatchInterval, f.Buffer.BatchCount, f.Buffer.BatchBytes = 200*time.Millisecond, 20, 32<<10
	f.Buffer.RuntimeDir = "/run/holdfast"
	f.Uplink.Topic = "gw/{gateway}/{device}"
	f.Uplink.SessionExpiry, f.Uplink.Keepalive = 7*24*time.Hour, 30*time.Second
	f.Uplink.Drain = uplink.InOrder
	f.Status.Listen = "127.0.0.1:9180"
	f.Update.Keys, f.Update.ConfirmWithin, f.Update.Settle = "release.pub", 10*time.Minute, 30*time.Second
	return f
}

// config composes the parts' configurations; abs makes the names of files absolute.
func (f file) config(abs func(string) string) Config {
	c := Config{
		Tags: mergeTags(f.Gateway.Tags, nil), GatewayID: f.Gateway.ID, DataDir: f.Gateway.DataDir, Board: f.Gateway.Board,
		Algorithm: f.Signing.Algorithm, KeyFile: f.Signing.KeyFile,
		Format:       wire.Format(f.Payload.Format),
		Batch:        Batch{f.Buffer.BatchInterval, f.Buffer.BatchCount, int(f.Buffer.BatchBytes)},
		Topic:        f.Uplink.Topic,
		StatusListen: f.Status.Listen,
		Update:       UpdateConfig{abs(f.Update.Keys), f.Update.ConfirmWithin, f.Update.Settle},
	}
	c.Enrol = EnrolConfig{TokenFile: abs(f.Enrol.TokenFile)}
	if len(f.Enrol.Servers) > 0 { // an empty list says what no list says
		c.Enrol.Servers = f.Enrol.Servers
	}
	c.Buffer = buffer.Config{
		DataDir: f.Gateway.DataDir, RuntimeDir: f.Buffer.RuntimeDir,
		MaxBytes: f.Buffer.MaxBytes, MaxAge: f.Buffer.MaxAge, WhenFull: f.Buffer.WhenFull,
		CommitInterval: f.Buffer.CommitInterval, CommitCount: f.Buffer.CommitCount,
	}
	c.Uplink = uplink.Config{
		Servers: f.Uplink.Servers, ClientID: f.Gateway.ID, Username: f.Uplink.Username,
		PasswordFile: abs(f.Uplink.PasswordFile), CAFile: abs(f.Uplink.CAFile),
		CertFile: abs(f.Uplink.CertFile), KeyFile: abs(f.Uplink.KeyFile),
		SessionExpiry: f.Uplink.SessionExpiry, Keepalive: f.Uplink.Keepalive,
		Drain: f.Uplink.Drain, DrainRate: f.Uplink.DrainRate,
	}
	return c.withPair()
}
