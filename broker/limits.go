package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"holdfast/broker/limitlog"
	"holdfast/broker/mqtt"
	"holdfast/systemd/settings"
)

// A limit, as an index of limitNames.
const (
	limitConnections = iota
	limitConnectRate
	limitAddressRate
	limitHalfOpen
	limitConnectTime
	limitConnectBytes
	limitPacket
	limitMessages
	limitBytes
	limitInflight
	limitSubscriptions
	limitLevels
	limitTopic
	limitRetained
	limitLogins
)

// limitNames are the keys under [limits], and the names in the metrics.
var limitNames = [...]string{"connections_per_address", "connect_rate", "connect_rate_per_address", "half_open", "connect_timeout", "connect_bytes",
	"packet_bytes", "messages_per_second", "bytes_per_second", "inflight", "subscriptions", "topic_levels", "topic_bytes", "retained", "login_failures"}

// limits holds what clients do against [limits]. What is above one is refused, slowed or ended as docs/BROKER.md
// says; here it is counted and, once a minute for each limit and address, logged.
type limits struct {
	LimitsConfig
	b    *Broker
	log  *limitlog.Log
	ends *limitlog.Log // of connections that never became clients
}

func newLimits(b *Broker) *limits {
	return &limits{LimitsConfig: b.cfg.Limits.filled(), b: b, log: limitlog.New(b.log, b.wall), ends: limitlog.New(b.log, b.wall)}
}

// hit counts and says that somebody reached a limit.
func (l *limits) hit(which int, client, addr, what string) {
	l.b.stats.Limits[which].Add(1)
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	l.log.Warn(limitNames[which]+"\x00"+host, func(to *slog.Logger, repeated uint64) {
		to.Warn("limit reached: "+what, "limit", limitNames[which], "client", client, "addr", addr, "do", l.remedy(which), "repeated", repeated)
	})
}

// remedy is the setting and its value.
func (l *limits) remedy(which int) string {
	value := ""
	switch which {
	case limitConnections:
		value = fmt.Sprint(l.ConnectionsPerAddress)
	case limitConnectRate:
		value = fmt.Sprint(l.ConnectRate)
	case limitAddressRate:
		value = fmt.Sprint(l.ConnectRatePerAddress)
	case limitHalfOpen:
		value = fmt.Sprint(l.HalfOpen)
	case limitConnectTime:
		value = settings.FormatDuration(l.ConnectTimeout)
	case limitConnectBytes:
		value = settings.FormatSize(l.ConnectBytes)
	case limitPacket:
		value = settings.FormatSize(l.PacketBytes)
	case limitMessages:
		value = fmt.Sprint(l.MessagesPerSecond)
	case limitBytes:
		value = settings.FormatSize(l.BytesPerSecond)
	case limitInflight:
		value = fmt.Sprint(l.Inflight)
	case limitSubscriptions:
		value = fmt.Sprint(l.Subscriptions)
	case limitLevels:
		value = fmt.Sprint(l.TopicLevels)
	case limitTopic:
		value = settings.FormatSize(l.TopicBytes)
	case limitRetained:
		value = fmt.Sprint(l.Retained)
	case limitLogins:
		value = fmt.Sprint(l.LoginFailures)
	}
	return fmt.Sprintf("if it is right to do so, change %s = %s under [limits]", limitNames[which], value)
}

// ended counts a connection that a limit has ended.
func (l *limits) ended(c *conn, err error) {
	var e *mqtt.Error
	switch {
	case c.session == nil && errors.Is(err, os.ErrDeadlineExceeded):
		l.hit(limitConnectTime, c.id, c.addr, "no CONNECT came in time: a port scan, a broken network, or somebody who wants to hold connections")
	case !errors.As(err, &e):
	case e.Code == mqtt.PacketTooLarge && c.id == "" && c.session == nil:
		l.hit(limitConnectBytes, c.id, c.addr, e.Text)
	case e.Code == mqtt.PacketTooLarge:
		l.hit(limitPacket, c.id, c.addr, e.Text)
	case e.Code == mqtt.ReceiveMaximumExceeded:
		l.hit(limitInflight, c.id, c.addr, e.Text)
	}
}

// topic says whether a topic or filter is too long or too deep.
func (l *limits) topic(c *conn, topic string) (text string) {
	switch {
	case len(topic) > int(l.TopicBytes):
		text = fmt.Sprintf("a topic of %d bytes; at most %d", len(topic), l.TopicBytes)
		l.hit(limitTopic, c.id, c.addr, text)
	case len(topic) >= l.TopicLevels && strings.Count(topic, "/") >= l.TopicLevels: // n levels have n-1 separators
		text = fmt.Sprintf("a topic of %d levels; at most %d", strings.Count(topic, "/")+1, l.TopicLevels)
		l.hit(limitLevels, c.id, c.addr, text)
	}
	return text
}

// publish says why a PUBLISH is beyond a limit; nil: it is not.
func (l *limits) publish(c *conn, p *mqtt.Publish) *mqtt.Error {
	if text := l.topic(c, p.Topic); text != "" {
		return &mqtt.Error{Code: mqtt.TopicNameInvalid, Text: text}
	}
	if p.Retain && len(p.Payload) > 0 && l.tooManyRetained(p.Topic) {
		text := fmt.Sprintf("there are %d retained messages already", l.Retained)
		l.hit(limitRetained, c.id, c.addr, text)
		return &mqtt.Error{Code: mqtt.QuotaExceeded, Text: text}
	}
	return nil
}

// filter is the reason code of a subscription that is beyond a limit; 0: it is not.
func (l *limits) filter(c *conn, filter string) byte {
	if l.topic(c, filter) != "" {
		return mqtt.TopicFilterInvalid
	}
	return 0
}

// tooManyRetained: a topic that has none would be one too many. Those on their way are not counted yet.
func (l *limits) tooManyRetained(topic string) bool {
	if l.b.retained.len() < l.Retained {
		return false
	}
	_, has := l.b.retained.get(topic)
	return !has
}

// maxPenalties is how many refused clients may be kept waiting for their answer at once; others get it at once.
const maxPenalties = 1024

// sayEnded logs why a connection ended. Of those that never became a client, once a minute for each address and reason.
func (b *Broker) sayEnded(c *conn, err error) {
	if c.session != nil {
		b.log.Info("connection ended", "client", c.id, "addr", c.addr, "err", err)
		return
	}
	host, _, _ := net.SplitHostPort(c.addr)
	why := err.Error()
	if op := (*net.OpError)(nil); errors.As(err, &op) { // it names the port
		why = op.Err.Error()
	}
	b.limits.ends.Warn(host+"\x00"+why, func(to *slog.Logger, repeated uint64) {
		to.Info("connection ended", "client", c.id, "addr", c.addr, "err", err, "repeated", repeated)
	})
}
