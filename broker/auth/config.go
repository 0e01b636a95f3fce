package auth

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"holdfast/systemd/settings"
)

// Defaults of a table.
const (
	defaultTimeout   = 5 * time.Second
	defaultLastKnown = time.Hour
	defaultRefresh   = 30 * time.Second
)

// table is what all [[auth]] tables have.
type table struct {
	Type      string        `toml:"type"`
	Timeout   time.Duration `toml:"timeout"`
	OnError   string        `toml:"on_error"`
	LastKnown time.Duration `toml:"last_known_for"`
	Refresh   time.Duration `toml:"refresh"`
}

// Read reads the [[auth]] tables of the settings. What is wrong with them is noted there.
func Read(doc *settings.Doc) (links []Link) {
	tables := doc.Tables("auth")
	count := map[string]int{}
	for _, t := range tables {
		kind, _ := t.Text("type")
		count[kind]++
	}
	number := map[string]int{}
	identity := false
	for _, t := range tables {
		name, _ := t.Text("type")
		number[name]++
		label := name
		if count[name] > 1 {
			label = fmt.Sprintf("%s #%d", name, number[name])
		}
		if l, ok := readLink(doc, t, label); ok {
			links = append(links, l)
			identity = identity || !l.Kind.RulesOnly
		}
	}
	if len(links) > 0 && len(links) == len(tables) && !identity {
		doc.Warn("auth", `no [[auth]] says who a client is, only what it may do: nobody can connect; add type = "file", or type = "anonymous" to let in whoever gives no user name`)
	}
	return links
}

func readLink(doc *settings.Doc, t *settings.Table, label string) (Link, bool) {
	cfg := table{Timeout: defaultTimeout, OnError: OnErrorDeny, LastKnown: defaultLastKnown, Refresh: defaultRefresh}
	if label != "" {
		t.SetLabel("auth " + label)
	}
	t.Decode(&cfg)
	kind, known := KindOf(cfg.Type)
	if !known {
		t.AcceptAll()
		t.Problem("type", "%q is no source of users; there are %s", cfg.Type, strings.Join(Types(), ", "))
		return Link{}, false
	}
	if cfg.Timeout < 10*time.Millisecond || cfg.Timeout > 10*time.Second {
		t.Problem("timeout", "%s is not between 10ms and 10s: clients do not wait for longer", settings.FormatDuration(cfg.Timeout))
	}
	if !slices.Contains([]string{OnErrorDeny, OnErrorLastKnown}, cfg.OnError) {
		t.Problem("on_error", `is %q; write "deny" or "last-known"`, cfg.OnError)
	} else if t.Has("last_known_for") && cfg.OnError != OnErrorLastKnown {
		t.Warn("last_known_for", `has no effect: on_error is "deny"`)
	}
	if cfg.Refresh < time.Second {
		t.Problem("refresh", "%s is too often; at least 1s", settings.FormatDuration(cfg.Refresh))
	}
	l := Link{Label: label, Kind: kind, Timeout: cfg.Timeout, OnError: cfg.OnError, LastKnown: cfg.LastKnown, Refresh: cfg.Refresh}
	l.Open = func(env Env) Source {
		env.Path = doc.Path
		return kind.New(t, env)
	}
	began := time.Now()
	trial := l.Open(Env{Log: slog.New(slog.DiscardHandler), Now: func() time.Duration { return time.Since(began) }, Wall: time.Now, Rand: rand.Reader, Changed: func() {}})
	if trial != nil {
		_ = trial.Close() // it has begun nothing
	}
	return l, true
}
