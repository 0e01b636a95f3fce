package limits

import (
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"holdfast/broker/limitlog"
	"holdfast/systemd/settings"
)

// A limit, as an index of Names.
const (
	Connections = iota
	ConnectRate
	AddressRate
	HalfOpen
	ConnectTime
	ConnectBytes
	Packet
	Messages
	Bytes
	Inflight
	Subscriptions
	Levels
	Topic
	Retained
	FailedLogins
)

// Names are the keys under [limits], and the names in the metrics.
var Names = [...]string{"connections_per_address", "connect_rate", "connect_rate_per_address", "half_open", "connect_timeout", "connect_bytes",
	"packet_bytes", "messages_per_second", "bytes_per_second", "inflight", "subscriptions", "topic_levels", "topic_bytes", "retained", "login_failures"}

// Limits holds what clients do against [limits]. What is above one is refused, slowed or ended as docs/BROKER.md
// says; here it is counted and, once a minute for each limit and address, logged.
type Limits struct {
	Config
	env    Env
	counts *Counts
	log    *limitlog.Log
}

// Env is what limits get from their surroundings.
type Env struct {
	Log  *slog.Logger
	Mono func() time.Duration // orders and ages
	Wall func() time.Time     // for the log
	Rand func(n int) []byte   // as many random bytes
}

// Counts is how often each limit was reached, as Names.
type Counts [len(Names)]atomic.Uint64

// New makes the limits that the settings say; what is reached is counted in counts.
func New(cfg Config, counts *Counts, env Env) *Limits {
	return &Limits{Config: cfg.Filled(), env: env, counts: counts, log: limitlog.New(env.Log, env.Wall)}
}

// Hit counts and says that somebody reached a limit.
func (l *Limits) Hit(which int, client, addr, what string) {
	l.counts[which].Add(1)
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	l.log.Warn(Names[which]+"\x00"+host, func(to *slog.Logger, repeated uint64) {
		to.Warn("limit reached: "+what, "limit", Names[which], "client", client, "addr", addr, "do", l.remedy(which), "repeated", repeated)
	})
}

// remedy is the setting and its value.
func (l *Limits) remedy(which int) string {
	value := ""
	switch which {
	case Connections:
		value = fmt.Sprint(l.ConnectionsPerAddress)
	case ConnectRate:
		value = fmt.Sprint(l.ConnectRate)
	case AddressRate:
		value = fmt.Sprint(l.ConnectRatePerAddress)
	case HalfOpen:
		value = fmt.Sprint(l.HalfOpen)
	case ConnectTime:
		value = settings.FormatDuration(l.ConnectTimeout)
	case ConnectBytes:
		value = settings.FormatSize(l.ConnectBytes)
	case Packet:
		value = settings.FormatSize(l.PacketBytes)
	case Messages:
		value = fmt.Sprint(l.MessagesPerSecond)
	case Bytes:
		value = settings.FormatSize(l.BytesPerSecond)
	case Inflight:
		value = fmt.Sprint(l.Inflight)
	case Subscriptions:
		value = fmt.Sprint(l.Subscriptions)
	case Levels:
		value = fmt.Sprint(l.TopicLevels)
	case Topic:
		value = settings.FormatSize(l.TopicBytes)
	case Retained:
		value = fmt.Sprint(l.Retained)
	case FailedLogins:
		value = fmt.Sprint(l.LoginFailures)
	}
	return fmt.Sprintf("if it is right to do so, change %s = %s under [limits]", Names[which], value)
}
