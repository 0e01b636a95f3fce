// Package auth says who may connect, publish and subscribe.
//
// # What it is
//
// A Source knows clients: a file of users, a database, a certificate. The Chain asks the sources in the order of the
// [[auth]] tables once per connection, and makes of their answers a Grant: the client's rules, compiled. Whoever
// publishes or subscribes is checked against the Grant, in memory.
//
// # What it promises
//
//   - Nobody is let in by an error: a source that fails, or does not answer in time, is never an allow.
//   - No check of a publish waits for anything, takes a lock or allocates.
//   - The first rule that matches decides; what no rule allows is refused.
//   - A client id or user name never widens a rule, whatever characters it has.
//   - A subscription is allowed only if every topic that it can match is allowed.
//   - A password is kept nowhere; what remembers that one was right is a hash with a key that dies with the process.
//
// # What it will not do
//
// It knows nothing of MQTT packets, sessions or reason codes, counts no failed logins by address, and writes nothing but
// the users' file, and that only when it is asked to (File.Edit).
package auth

import (
	"context"
	"crypto/x509"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"holdfast/systemd/settings"
)

// Client is who wants to connect.
type Client struct {
	ID          string
	Username    string // "" if none was given
	Password    []byte // nil if none was given; never kept
	Addr        netip.AddrPort
	Listener    string            // mqtt, mqtts, ws, wss
	Certificate *x509.Certificate // the verified leaf; nil: none
}

// Decision is what a source says about a client.
type Decision uint8

// The decisions.
const (
	NotMine Decision = iota // the next source is asked
	Allow
	Deny
)

// String is the decision as logs spell it.
func (d Decision) String() string { return [...]string{"not mine", "allow", "deny"}[min(d, Deny)] }

// Answer is what a source says about a client. The zero Answer is NotMine.
type Answer struct {
	Decision Decision
	// Reason says why, for logs: with Deny to the operator, never to the client. No secrets.
	Reason string
	// Forbidden, with Deny: the client is who it says and may not connect all the same (0x87); else its user name or
	// password is wrong (0x86).
	Forbidden bool
	// Password: the client still has to give the right one, also to be told that it is forbidden. The Chain sees to that, behind its bounded
	// queue, so that no hash counts against the source's time. nil: the source has seen to it, or asks for none.
	Password *Password
	// Rules are the client's, in order. Those of a source that answers NotMine count too, if another one allows.
	Rules     []Rule
	Superuser bool      // may do everything; no rule is asked
	Until     time.Time // the connection ends then; zero: never
	// TTL is how long the answer may be used again for a client that says the same; 0: not at all.
	TTL time.Duration
}

// Password is what a password has to match.
type Password struct {
	// Stored is all that decides besides the password: scheme, salt, hash. When it changes, connections that were
	// let in by the old one end.
	Stored string
	// Verify says whether a password is right. It takes as long as the hash does.
	Verify func(password []byte) bool
	// Fast: the hash costs less than a microsecond or two (md5, sha256), and needs no queue.
	Fast bool
}

// Source knows clients. It is used by many goroutines.
type Source interface {
	// Check says what the source knows about a client. It returns when ctx ends at the latest. An error is never an allow:
	// it says that the source could not answer, and on_error decides.
	Check(ctx context.Context, c *Client) (Answer, error)
	// Close ends what Start began.
	Close() error
}

// Starter is a Source that has something to do before it is asked, or while it is not: connections, watching a
// file. Start does not wait for an outside system: one that is away must not keep the broker from starting.
type Starter interface {
	Start(ctx context.Context) error
}

// Refresher is a Source that can say again what it says about a client that it has let in, which is asked every
// refresh, and when the source calls Env.Changed. The Client has no Password: that it was right is known. An error
// changes nothing.
type Refresher interface {
	Refresh(ctx context.Context, c *Client) (Answer, error)
}

// Env is what a source gets from its surroundings.
type Env struct {
	Log        *slog.Logger
	Now        func() time.Duration // monotonic
	Wall       func() time.Time     // for what carries a date: tokens, certificates
	Rand       io.Reader
	Path       func(name string) string // makes a file name of the settings absolute
	Mountpoint string                   // VerneMQ's; "" is its default
	// Changed says that something the source knows has changed: the clients that it let in, and those that use its
	// rules, are asked about again. It does not block, and may be called at any time between Start and Close.
	Changed func()
}

// New makes a source of its [[auth]] table. It reports what is wrong with the table there, starts nothing and opens no
// connection: `check` calls it as well.
type New func(t *settings.Table, env Env) Source

// Kind is a type of source.
type Kind struct {
	Type string
	New  New
	// RulesOnly: it knows rules and nobody's identity. It is asked about clients that another source has allowed, too.
	RulesOnly bool
}
