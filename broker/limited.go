package broker

// What reaching a limit means for a connection. The limits themselves are in broker/limits.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"holdfast/broker/auth"
	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// overLimit counts a connection that a limit has ended.
func (c *conn) overLimit(err error) {
	l := c.b.limits
	var e *mqtt.Error
	switch {
	case c.session == nil && errors.Is(err, os.ErrDeadlineExceeded):
		l.Hit(limits.ConnectTime, c.id, c.addr, "no CONNECT came in time: a port scan, a broken network, or somebody who wants to hold connections")
	case !errors.As(err, &e):
	case e.Code == mqtt.PacketTooLarge && c.id == "" && c.session == nil:
		l.Hit(limits.ConnectBytes, c.id, c.addr, e.Text)
	case e.Code == mqtt.PacketTooLarge:
		l.Hit(limits.Packet, c.id, c.addr, e.Text)
	case e.Code == mqtt.ReceiveMaximumExceeded:
		l.Hit(limits.Inflight, c.id, c.addr, e.Text)
	}
}

// tooLong says whether a topic or filter is too long or too deep.
func (c *conn) tooLong(topic string) (text string) {
	l := c.b.limits
	switch {
	case len(topic) > int(l.TopicBytes):
		text = fmt.Sprintf("a topic of %d bytes; at most %d", len(topic), l.TopicBytes)
		l.Hit(limits.Topic, c.id, c.addr, text)
	case len(topic) >= l.TopicLevels && strings.Count(topic, "/") >= l.TopicLevels: // n levels have n-1 separators
		text = fmt.Sprintf("a topic of %d levels; at most %d", strings.Count(topic, "/")+1, l.TopicLevels)
		l.Hit(limits.Levels, c.id, c.addr, text)
	}
	return text
}

// tooMuch says why a PUBLISH is beyond a limit; nil: it is not.
func (c *conn) tooMuch(p *mqtt.Publish) *mqtt.Error {
	if text := c.tooLong(p.Topic); text != "" {
		return &mqtt.Error{Code: mqtt.TopicNameInvalid, Text: text}
	}
	if p.Retain && len(p.Payload) > 0 && c.b.tooManyRetained(p.Topic) {
		text := fmt.Sprintf("there are %d retained messages already", c.b.limits.Retained)
		c.b.limits.Hit(limits.Retained, c.id, c.addr, text)
		return &mqtt.Error{Code: mqtt.QuotaExceeded, Text: text}
	}
	return nil
}

// barredFilter is the reason code of a subscription that is beyond a limit; 0: it is not.
func (c *conn) barredFilter(filter string) byte {
	if c.tooLong(filter) != "" {
		return mqtt.TopicFilterInvalid
	}
	return 0
}

// tooManyRetained: a topic that has none would be one too many. Those on their way are not counted yet.
func (b *Broker) tooManyRetained(topic string) bool {
	if b.retained.len() < b.limits.Retained {
		return false
	}
	_, has := b.retained.get(topic)
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
	b.ends.Warn(host+"\x00"+why, func(to *slog.Logger, repeated uint64) {
		to.Info("connection ended", "client", c.id, "addr", c.addr, "err", err, "repeated", repeated)
	})
}

// unwelcome refuses a client that a limit of its address turns away, once it has said in which protocol it can be told; a
// little later, so that it does not come again at once.
func (c *conn) unwelcome() error {
	if c.in == nil || c.in.Refusal == nil {
		return nil
	}
	r := c.in.Refusal
	c.b.limits.Hit(r.Limit, c.id, c.addr, r.Text)
	c.b.penalty.Wait(c.b.ctx, refusalDelay)
	return c.refuse(r.Code, r.Text)
}

// refusalDelay is how long somebody waits who is refused by a limit.
const refusalDelay = time.Second

// paced waits until the client may send on. What it has just sent counts.
func (c *conn) paced(ctx context.Context, first byte, size int) error {
	wait, which := c.pace.Take(first>>4 == mqtt.PUBLISH, size, c.b.mono())
	if wait <= 0 {
		return nil
	}
	c.b.limits.Hit(which, c.id, c.addr, "it sends faster, and is not read from for a while")
	return c.rest(ctx, wait)
}

// rest waits, or until the connection ends.
func (c *conn) rest(ctx context.Context, d time.Duration) error {
	over := false
	t := time.AfterFunc(d, func() {
		c.mu.Lock()
		over = true
		c.nudge()
		c.mu.Unlock()
	})
	defer t.Stop()
	return c.waitFor(ctx, func() bool { return over })
}

// guarded refuses a client that has to wait; without an error its password may be looked at, and settled says what came of
// it. The answer comes a little later, so that it does not come again at once. Who gives no password guesses none.
func (c *conn) guarded(ctx context.Context, k *mqtt.Connect) (settled func(error), err error) {
	if !k.HasPassword {
		return func(error) {}, nil
	}
	l := c.b.logins
	in := l.Login(limits.AddressOf(c.nc.RemoteAddr()), k.User, k.Password)
	if wait := l.Wait(in); wait > 0 {
		c.b.limits.Hit(limits.FailedLogins, c.id, c.addr, fmt.Sprintf("too many failed logins: none is looked at for %s", wait.Round(time.Second)))
		c.b.penalty.Wait(ctx, refusalDelay)
		return nil, c.refuse(mqtt.ConnectionRateExceeded, fmt.Sprintf("too many failed logins; try again in %d s", int(wait/time.Second)+1))
	}
	return func(err error) {
		switch {
		case err == nil:
			l.Succeed(in)
		case errors.Is(err, auth.ErrCredentials): // not a source that does not answer, or a hash that waits too long
			c.b.stats.LoginsFailed.Add(1)
			l.Fail(in)
		}
	}, nil
}
