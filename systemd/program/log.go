package program

import (
	"context"
	"io"
	"log/slog"
	"strconv"
)

// newLog makes the log that everything is handed. In the journal, which stamps the
// time itself, each line begins with its priority instead (sd-daemon(3)).
func newLog(w io.Writer, format, level string, journal bool) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, Usage("--log-level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: least}
	switch {
	case format == "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case format != "text" && format != "":
		return nil, Usage("--log-format %q: want text or json", format)
	case !journal:
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
	opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	h := journalHandler{}
	for i, priority := range priorities {
		h[i] = slog.NewTextHandler(prefixed{w, "<" + strconv.Itoa(priority) + ">"}, opts)
	}
	return slog.New(h), nil
}

// priorities of syslog for debug, info, warn and error.
var priorities = [4]int{7, 6, 4, 3}

// journalHandler has one handler per level, as each writes another priority.
type journalHandler [4]slog.Handler

func (h journalHandler) of(l slog.Level) slog.Handler {
	return h[min(max(0, (int(l)-int(slog.LevelDebug))/4), 3)]
}

func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool { return h[0].Enabled(ctx, l) }

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i := range h {
		h[i] = h[i].WithAttrs(attrs)
	}
	return h
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	for i := range h {
		h[i] = h[i].WithGroup(name)
	}
	return h
}

// prefixed writes each line behind a prefix; slog writes a line at a time.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
