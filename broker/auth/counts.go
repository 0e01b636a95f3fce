package auth

import "time"

// SourceCount is what a source has said, for metrics.
type SourceCount struct {
	Label                                                      string
	Asked, Allowed, Denied, NotMine, Failed, Reused, LastKnown uint64
	Spent                                                      time.Duration
}

// Counts is what the sources have said since the start, in their order.
func (c *Chain) Counts() (out []SourceCount) {
	for _, l := range c.links {
		n := &l.counts
		out = append(out, SourceCount{l.Label, n.Asked.Load(), n.Allowed.Load(), n.Denied.Load(), n.NotMine.Load(), n.Failed.Load(), n.Reused.Load(),
			n.LastKnown.Load(), time.Duration(n.Spent.Load())})
	}
	return out
}

// Passwords is what came of passwords.
func (c *Chain) Passwords() PasswordCounts { return c.passwords.Counts() }

// SetCounts is what came of rules.
type SetCounts struct {
	Remembered                  int
	Compiled, Shared, Forgotten uint64
}

// Sets is what came of rules.
func (c *Chain) Sets() SetCounts {
	x := c.sets
	return SetCounts{x.len(), x.compiled.Load(), x.shared.Load(), x.forgotten.Load()}
}
