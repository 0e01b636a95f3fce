package limits

import (
	"time"

	"holdfast/systemd/settings"
)

// Config is [limits]. 0 is no limit where that is said; elsewhere it is the default.
type Config struct {
	ConnectionsPerAddress int           `toml:"connections_per_address"`    // 0: no limit. An IPv6 address counts as its /64, here and below
	ConnectRate           int           `toml:"connect_rate"`               // new connections a second; 0: no limit
	ConnectRatePerAddress int           `toml:"connect_rate_per_address"`   // 0: no limit
	HalfOpen              int           `toml:"half_open"`                  // connections whose CONNECT has not come; 0: half of max_connections
	ConnectTimeout        time.Duration `toml:"connect_timeout"`            // for what comes before MQTT, and as long for the CONNECT
	ConnectBytes          int64         `toml:"connect_bytes,size"`         // of a CONNECT
	PacketBytes           int64         `toml:"packet_bytes,size"`          // of every other packet; announced in CONNACK
	MessagesPerSecond     int           `toml:"messages_per_second"`        // that a client publishes; 0: no limit
	BytesPerSecond        int64         `toml:"bytes_per_second,size"`      // that a client sends; 0: no limit
	Inflight              int           `toml:"inflight"`                   // unacknowledged publishes of a client; announced in CONNACK
	Subscriptions         int           `toml:"subscriptions"`              // of a session
	TopicLevels           int           `toml:"topic_levels"`               // of topics and filters
	TopicBytes            int64         `toml:"topic_bytes,size"`           // of topics and filters
	Retained              int           `toml:"retained"`                   // topics with a retained message, in the whole cluster
	LoginFailures         int           `toml:"login_failures"`             // of one user from one address, before it has to wait; 0: nobody waits
	LoginFailuresUser     int           `toml:"login_failures_per_user"`    // of one user from all addresses
	LoginFailuresAddress  int           `toml:"login_failures_per_address"` // of all users from one address, besides ten for each that has got in from there
	LoginBackoff          time.Duration `toml:"login_backoff"`              // the longest wait
	LoginForget           time.Duration `toml:"login_forget"`               // failures are forgotten so long after the last one
}

// Default is what no key under [limits] means.
func Default() Config {
	return Config{
		ConnectTimeout: DefaultConnectTimeout, ConnectBytes: 128 << 10, PacketBytes: MaxPacket, Inflight: DefaultInflight, Subscriptions: DefaultSubscriptions,
		TopicLevels: 128, TopicBytes: maxTopic, Retained: 1 << 20,
		LoginFailures: 5, LoginFailuresUser: 20, LoginFailuresAddress: 50, LoginBackoff: time.Minute, LoginForget: 15 * time.Minute,
	}
}

const (
	MaxPacket             = 1 << 20          // bytes; default, and the most that can be configured
	DefaultInflight       = 1024             // unacknowledged publishes of one client
	DefaultConnectTimeout = 10 * time.Second // for what comes before MQTT, and as long for the CONNECT
	DefaultSubscriptions  = 4096             // of a session
)

// maxTopic is the longest string that MQTT has (1.5.4).
const maxTopic = 65535

// Filled is the limits with defaults for what cannot be 0.
func (l Config) Filled() Config {
	d := Default()
	for _, f := range []struct{ to, by *int }{{&l.Inflight, &d.Inflight}, {&l.Subscriptions, &d.Subscriptions}, {&l.TopicLevels, &d.TopicLevels}, {&l.Retained, &d.Retained},
		{&l.LoginFailuresUser, &d.LoginFailuresUser}, {&l.LoginFailuresAddress, &d.LoginFailuresAddress}} {
		if *f.to == 0 {
			*f.to = *f.by
		}
	}
	for _, f := range []struct{ to, by *int64 }{{&l.ConnectBytes, &d.ConnectBytes}, {&l.PacketBytes, &d.PacketBytes}, {&l.TopicBytes, &d.TopicBytes}} {
		if *f.to == 0 {
			*f.to = *f.by
		}
	}
	for _, f := range []struct{ to, by *time.Duration }{{&l.ConnectTimeout, &d.ConnectTimeout}, {&l.LoginBackoff, &d.LoginBackoff}, {&l.LoginForget, &d.LoginForget}} {
		if *f.to == 0 {
			*f.to = *f.by
		}
	}
	return l
}

// Check reports what cannot be meant.
func (l *Config) Check(doc *settings.Doc) {
	for _, f := range []struct {
		key         string
		value       int64
		least, most int64
	}{
		{"connections_per_address", int64(l.ConnectionsPerAddress), 0, 1 << 30},
		{"connect_rate", int64(l.ConnectRate), 0, 1 << 30},
		{"connect_rate_per_address", int64(l.ConnectRatePerAddress), 0, 1 << 30},
		{"half_open", int64(l.HalfOpen), 0, 1 << 30},
		{"messages_per_second", int64(l.MessagesPerSecond), 0, 1 << 30},
		{"inflight", int64(l.Inflight), 1, 65535}, // 3.1.2.11.3: two bytes
		{"subscriptions", int64(l.Subscriptions), 1, 1 << 20},
		{"topic_levels", int64(l.TopicLevels), 1, maxTopic + 1},
		{"retained", int64(l.Retained), 1, 1 << 30},
		{"login_failures", int64(l.LoginFailures), 0, 1 << 20},
		{"login_failures_per_user", int64(l.LoginFailuresUser), 1, 1 << 20},
		{"login_failures_per_address", int64(l.LoginFailuresAddress), 1, 1 << 20},
	} {
		if f.value < f.least || f.value > f.most {
			doc.Problem("limits."+f.key, "%d is not from %d to %d", f.value, f.least, f.most)
		}
	}
	for _, f := range []struct {
		key         string
		value       int64
		least, most int64
	}{
		{"connect_bytes", l.ConnectBytes, 1 << 10, MaxPacket},
		{"packet_bytes", l.PacketBytes, 1 << 10, MaxPacket}, // a batch of the log holds at least one packet
		{"topic_bytes", l.TopicBytes, 16, maxTopic},
		{"bytes_per_second", l.BytesPerSecond, 0, 1 << 40},
	} {
		if f.value < f.least || f.value > f.most {
			doc.Problem("limits."+f.key, "%s is not from %s to %s", settings.FormatSize(f.value), settings.FormatSize(f.least), settings.FormatSize(f.most))
		}
	}
	for _, f := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{
		{"connect_timeout", l.ConnectTimeout, time.Second, 5 * time.Minute},
		{"login_backoff", l.LoginBackoff, time.Second, time.Hour},
		{"login_forget", l.LoginForget, time.Minute, 24 * time.Hour},
	} {
		if f.value < f.least || f.value > f.most {
			doc.Problem("limits."+f.key, "%s is not from %s to %s", settings.FormatDuration(f.value), settings.FormatDuration(f.least), settings.FormatDuration(f.most))
		}
	}
	if l.BytesPerSecond > 0 && l.BytesPerSecond*paceDebt < l.PacketBytes {
		doc.Problem("limits.bytes_per_second", "a client that sends a packet of packet_bytes (%s) would not be heard for more than %d s, and lose its connection; allow at least %s, or less packet_bytes",
			settings.FormatSize(l.PacketBytes), paceDebt, settings.FormatSize((l.PacketBytes+paceDebt-1)/paceDebt))
	}
}
