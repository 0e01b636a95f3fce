package auth

import (
	"context"

	"holdfast/systemd/settings"
)

// anonymous lets in whoever gives no user name. What they may do say its own rules and those of sources that know rules
// alone: without any, nothing.
type anonymous struct{ rules []Rule }

func newAnonymous(t *settings.Table, _ Env) Source {
	var cfg struct {
		Publish   []string `toml:"publish"`
		Subscribe []string `toml:"subscribe"`
	}
	t.Decode(&cfg)
	a := &anonymous{}
	for _, list := range []struct {
		key     string
		access  Access
		filters []string
	}{{"publish", Publish, cfg.Publish}, {"subscribe", Subscribe, cfg.Subscribe}} {
		for _, filter := range list.filters {
			r := Rule{Allow: true, Access: list.access, Filter: filter, MaxQoS: 2, From: "[[auth]] anonymous"}
			if err := r.Check(); err != nil {
				t.Problem(list.key, "%v", err)
				continue
			}
			a.rules = append(a.rules, r)
		}
	}
	t.Warn("type", "whoever reaches a listener may connect without a user name")
	return a
}

// Check implements Source.
func (a *anonymous) Check(_ context.Context, c *Client) (Answer, error) {
	if c.Username != "" || c.Password != nil {
		return Answer{}, nil
	}
	return Answer{Decision: Allow, Rules: a.rules}, nil
}

// Close implements Source.
func (a *anonymous) Close() error { return nil }
