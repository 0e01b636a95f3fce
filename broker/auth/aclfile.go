package auth

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"holdfast/systemd/settings"
)

// maxACLFile bounds an acl.conf; ten thousand rules take less than 1 MiB.
const maxACLFile = 4 << 20

// aclFile reads the rules of EMQX's acl.conf. It knows nobody's identity.
type aclFile struct {
	file  string
	env   Env
	rules atomic.Pointer[[]aclRule]
	watch watcher
}

func newACLFile(t *settings.Table, env Env) Source {
	var cfg struct {
		Path string `toml:"path"`
	}
	t.Decode(&cfg)
	a := &aclFile{env: env}
	if cfg.Path == "" {
		t.Problem("path", `is missing; name the file: path = "/etc/emqx/acl.conf"`)
		return a
	}
	a.file = env.Path(cfg.Path)
	if _, err := a.read(); err != nil {
		t.Problem("path", "%v", err)
	}
	return a
}

// read reads the file as it is now.
func (a *aclFile) read() ([]aclRule, error) {
	data, err := readSmall(a.file, maxACLFile)
	if err != nil {
		return nil, err
	}
	rules, mistakes := parseACL(data)
	var errs []error
	for _, m := range mistakes {
		errs = append(errs, fmt.Errorf("%s:%d: %s", a.file, m.line, m.text))
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	base := filepath.Base(a.file)
	for i := range rules {
		for j := range rules[i].topics {
			rules[i].topics[j].From = fmt.Sprintf("%s:%d", base, rules[i].line)
		}
	}
	return rules, nil
}

// Start implements Starter.
func (a *aclFile) Start(context.Context) error {
	a.watch.watch(a.file)
	rules, err := a.read()
	if err != nil {
		return err
	}
	a.rules.Store(&rules)
	a.watch.start(a.reload)
	return nil
}

func (a *aclFile) reload() {
	rules, err := a.read()
	if err != nil {
		a.env.Log.Error("the new rules cannot be used: the old ones stay; mend the file, it is looked at again", "err", err)
		return
	}
	a.rules.Store(&rules)
	a.env.Log.Info("rules read", "file", a.file, "rules", len(rules))
	a.env.Changed()
}

// Close implements Source.
func (a *aclFile) Close() error {
	a.watch.stop()
	return nil
}

// Check implements Source.
func (a *aclFile) Check(_ context.Context, c *Client) (Answer, error) {
	var mine []Rule
	for _, r := range *a.rules.Load() {
		if r.who(c) {
			mine = append(mine, r.topics...)
		}
	}
	return Answer{Rules: mine}, nil
}

// Refresh implements Refresher.
func (a *aclFile) Refresh(ctx context.Context, c *Client) (Answer, error) { return a.Check(ctx, c) }
