package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// The values of Link.OnError.
const (
	OnErrorDeny      = "deny"       // who cannot be checked is not let in
	OnErrorLastKnown = "last-known" // who was let in lately, and says the same, is let in again
)

// Link is one [[auth]] table: a source, and how it is asked.
type Link struct {
	Label     string // "file", "redis #2": for logs, metrics and explain
	Kind      Kind
	Open      func(Env) Source
	Timeout   time.Duration // of one question
	OnError   string
	LastKnown time.Duration // how long an answer counts as the last known one
	Refresh   time.Duration // how often the clients that it let in are asked about again; 0: only when it says that something has changed
}

// Chain asks sources in their order.
type Chain struct {
	links     []*link
	env       Env
	passwords *Passwords
	sets      *sets
}

// link is a Link with what has come of it.
type link struct {
	Link
	Source
	known  *known
	counts linkCounts
}

// linkCounts counts what a source has said, since the start.
type linkCounts struct {
	Asked, Allowed, Denied, NotMine, Failed, Reused, LastKnown atomic.Uint64
	Spent                                                      atomic.Int64 // ns
}

// Why a client is refused.
var (
	// ErrCredentials: no source knows the client, or its password is wrong.
	ErrCredentials = errors.New("bad user name or password")
	// ErrForbidden: it is known, and may not connect.
	ErrForbidden = errors.New("not authorized")
	// ErrUnavailable: a source could not say.
	ErrUnavailable = errors.New("it cannot be checked now")
)

// Refusal is why a client was refused: an ErrCredentials, ErrForbidden, ErrUnavailable or ErrBusy.
type Refusal struct {
	Is     error
	Source string // whose answer it was; "" if nobody knows the client
	Reason string // for the operator
}

func (r *Refusal) Error() string {
	if r.Source == "" {
		return fmt.Sprintf("%v: %s", r.Is, r.Reason)
	}
	return fmt.Sprintf("%v: %s: %s", r.Is, r.Source, r.Reason)
}

// Unwrap is for errors.Is.
func (r *Refusal) Unwrap() error { return r.Is }

// admission is what let a client in: the answers that its grant was made of.
type admission struct {
	client  Client // without its password
	by      *link
	answers []Answer // as the links; the zero Answer of those that were not asked
}

// NewChain makes a chain and its sources, which do nothing yet. changed is told the label of a source that says that
// something has changed; it must not block.
func NewChain(links []Link, env Env, changed func(label string)) *Chain {
	c := &Chain{env: env, passwords: NewPasswords(env.Rand, env.Now), sets: newSets()}
	for _, x := range links {
		l := &link{Link: x, known: newKnown(c.passwords, env.Now)}
		own := env
		own.Log = env.Log.With("source", x.Label)
		own.Changed = func() {
			l.known.forget()
			changed(x.Label)
		}
		l.Source = x.Open(own)
		c.links = append(c.links, l)
	}
	return c
}

// Start starts the sources, all or none.
func (c *Chain) Start(ctx context.Context) error {
	for i, l := range c.links {
		s, is := l.Source.(Starter)
		if !is {
			continue
		}
		if err := s.Start(ctx); err != nil {
			for _, l := range c.links[:i] {
				_ = l.Source.Close() // what is wrong is said already
			}
			return fmt.Errorf("start the source of users %s: %w", l.Label, err)
		}
	}
	return nil
}

// Close ends the sources.
func (c *Chain) Close() error {
	var errs []error
	var closing sync.WaitGroup
	out := make(chan error, len(c.links))
	for _, l := range c.links {
		closing.Go(func() {
			if err := l.Source.Close(); err != nil {
				out <- fmt.Errorf("close the source of users %s: %w", l.Label, err)
			}
		})
	}
	closing.Wait()
	close(out)
	for err := range out {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Admit says who a client is and what it may do, or why it is refused: then the error is a *Refusal. ctx is how long
// the client may wait.
func (c *Chain) Admit(ctx context.Context, client *Client) (*Grant, error) {
	a := &admission{client: *client, answers: make([]Answer, len(c.links))}
	a.client.Password = nil
	asked := make([]bool, len(c.links))
	for i, l := range c.links {
		if a.by != nil && !l.Kind.RulesOnly {
			continue
		}
		answer, fresh, err := l.ask(ctx, client)
		if err != nil {
			return nil, &Refusal{ErrUnavailable, l.Label, err.Error()}
		}
		if answer.Decision == Deny {
			l.known.put(l.known.key(client), Answer{}, 0)
			if err := c.prove(ctx, l, answer.Password, client); err != nil { // who is not who it says learns nothing
				return nil, err
			}
			return nil, denied(l, answer)
		}
		a.answers[i], asked[i] = answer, fresh && (answer.Decision == Allow || l.Kind.RulesOnly)
		if answer.Decision != Allow || l.Kind.RulesOnly {
			continue
		}
		if err := c.prove(ctx, l, answer.Password, client); err != nil {
			return nil, err
		}
		a.by = l
		if err := c.outdated(answer.Until); err != nil {
			return nil, &Refusal{ErrCredentials, l.Label, err.Error()}
		}
	}
	if a.by == nil {
		return nil, &Refusal{ErrCredentials, "", "no source knows the client"}
	}
	for i, l := range c.links { // not before: who has not proven who it is fills nothing
		if asked[i] {
			l.keep(client, a.answers[i])
		}
	}
	return c.grant(a), nil
}

func denied(l *link, a Answer) *Refusal {
	is := ErrCredentials
	if a.Forbidden {
		is = ErrForbidden
	}
	return &Refusal{is, l.Label, a.Reason}
}

// prove sees that the password is right.
func (c *Chain) prove(ctx context.Context, l *link, want *Password, client *Client) error {
	if want == nil {
		return nil
	}
	if client.Password == nil {
		return &Refusal{ErrCredentials, l.Label, "it gave no password"}
	}
	ok, err := c.passwords.Verify(ctx, want, client.Password)
	switch {
	case err != nil:
		return &Refusal{ErrBusy, l.Label, err.Error()}
	case !ok:
		l.counts.Denied.Add(1)
		return &Refusal{ErrCredentials, l.Label, "the password is wrong"}
	}
	return nil
}

func (c *Chain) outdated(until time.Time) error {
	if now := c.env.Wall(); !until.IsZero() && !now.Before(until) {
		return fmt.Errorf("what it came with ended at %s", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// grant puts the answers together: the rules in the order of the tables.
func (c *Chain) grant(a *admission) *Grant {
	g := &Grant{Source: a.by.Label, User: a.client.Username, names: name{a.client.ID, a.client.Username}, from: a}
	var rules []Rule
	for i, answer := range a.answers {
		rules = append(rules, answer.Rules...)
		if c.links[i] == a.by {
			g.Superuser, g.Until = answer.Superuser, answer.Until
		}
	}
	if len(rules) > 0 {
		g.set = c.sets.of(rules, &a.client)
	}
	return g
}

// ask asks a source, or remembers what it has said; fresh says that it was asked.
func (l *link) ask(ctx context.Context, client *Client) (a Answer, fresh bool, err error) {
	key := l.known.key(client)
	if a, ok := l.known.fresh(key); ok {
		l.counts.Reused.Add(1)
		return a, false, nil
	}
	a, err = l.question(ctx, l.Check, client)
	if err != nil && l.OnError == OnErrorLastKnown {
		if last, ok := l.known.last(key); ok {
			l.counts.LastKnown.Add(1)
			return last, false, nil
		}
	}
	return a, true, err
}

// keep remembers an answer, as long as it may be used again.
func (l *link) keep(client *Client, a Answer) {
	keep := a.TTL
	if l.OnError == OnErrorLastKnown {
		keep = max(keep, l.LastKnown)
	}
	if keep > 0 {
		l.known.put(l.known.key(client), a, keep)
	}
}

// question is one question with its time and its counters.
func (l *link) question(ctx context.Context, ask func(context.Context, *Client) (Answer, error), client *Client) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	began := l.known.now()
	answer, err := ask(ctx, client)
	l.counts.Spent.Add(int64(l.known.now() - began))
	l.counts.Asked.Add(1)
	switch {
	case err != nil:
		l.counts.Failed.Add(1)
	case answer.Decision == Allow:
		l.counts.Allowed.Add(1)
	case answer.Decision == Deny:
		l.counts.Denied.Add(1)
	default:
		l.counts.NotMine.Add(1)
	}
	return answer, err
}

// Refresh asks again about a client that was let in: the source of that label if its grant has to do with it; "": all
// that have. What it may do now is the result: the same Grant if nothing has changed. A *Refusal: it may not stay. Another
// error changes nothing.
func (c *Chain) Refresh(ctx context.Context, g *Grant, label string) (*Grant, error) {
	if g == nil || g.from == nil {
		return g, nil
	}
	old := g.from
	a := &admission{client: old.client, by: old.by, answers: make([]Answer, len(c.links))}
	for i, l := range c.links {
		answer := old.answers[i]
		s, is := l.Source.(Refresher)
		if is && (l == old.by || l.Kind.RulesOnly) && (label == "" || label == l.Label) {
			var err error
			if answer, err = l.question(ctx, s.Refresh, &a.client); err != nil {
				return g, fmt.Errorf("%s: %w", l.Label, err)
			}
		}
		a.answers[i] = answer
		if l != old.by {
			continue
		}
		switch {
		case answer.Decision == Deny:
			return nil, denied(l, answer)
		case answer.Decision == NotMine:
			return nil, &Refusal{ErrForbidden, l.Label, "it is not known any more"}
		case stored(answer) != stored(old.answers[i]):
			return nil, &Refusal{ErrForbidden, l.Label, "its password was changed"}
		}
	}
	next := c.grant(a)
	if next.set == g.set && next.Superuser == g.Superuser && next.Until.Equal(g.Until) {
		return g, nil
	}
	return next, nil
}

func stored(a Answer) string {
	if a.Password == nil {
		return ""
	}
	return a.Password.Stored
}

// Every is how often a client is to be refreshed; 0: only after Env.Changed.
func (g *Grant) Every() (every time.Duration) {
	if g == nil || g.from == nil {
		return 0
	}
	return g.from.by.Refresh
}
