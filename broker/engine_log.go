package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"holdfast/broker/limitlog"
	"holdfast/broker/listen"
)

// engineLog hands the engine's own log lines on. While it starts, what it calls fatal is not logged: it is
// the answer of whoever started it. The engine itself would only never be ready.
type engineLog struct {
	log    *slog.Logger
	failed chan error // the first fatal error; full once the engine runs

	refused *limitlog.Log // connections between nodes

	doubt func(stream string) error // engineConfig
}

func newEngineLog(log *slog.Logger, doubt func(stream string) error) *engineLog {
	return &engineLog{log: log, doubt: doubt, failed: make(chan error, 1), refused: limitlog.New(log, time.Now)}
}

// handshake says that a connection between nodes was refused, and by whom; once a minute and host: whoever it is
// tries again at once. False if it is about something else.
func (l *engineLog) handshake(f string, v []any) bool {
	if !strings.Contains(f, "TLS %s handshake error") || len(v) < 2 { // which of its ports, and why
		return false
	}
	addr, _, _ := strings.Cut(f, " - ")
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	l.refused.Warn(host, func(to *slog.Logger, repeated uint64) {
		to.Warn("a connection between nodes was refused", "addr", addr, "err", v[1], "repeated", repeated,
			"do", "secret_file must have the same content on all nodes, and [cluster] the same name; if no node is there: keep strangers away from the port of [cluster] listen")
	})
	return true
}

var errBegan = errors.New("it has begun")

// failure is what has failed so far.
func (l *engineLog) failure() error {
	select {
	case err := <-l.failed:
		return err
	default:
		return nil
	}
}

// began: from now on nobody waits for a failure.
func (l *engineLog) began() {
	select {
	case l.failed <- errBegan:
	default:
	}
}

func (l *engineLog) Fatalf(f string, v ...any) {
	err := fmt.Errorf(f, v...)
	for _, a := range v {
		var op *net.OpError
		if cause, _ := a.(error); errors.As(cause, &op) && op.Op == "listen" {
			err = fmt.Errorf("[cluster] listen: %w", listen.Explain(op))
		}
	}
	select {
	case l.failed <- err:
	default:
		l.log.Error("storage engine: " + err.Error())
	}
}

func (l *engineLog) Noticef(f string, v ...any) {
	l.log.Debug("storage engine: " + fmt.Sprintf(f, v...))
}

// Warnf: the password that it warns of is made for the process and stays in it.
func (l *engineLog) Warnf(f string, v ...any) {
	if strings.HasPrefix(f, "Error loading message for catchup") && len(v) > 1 && l.doubt != nil {
		// This node leads a stream and cannot read what another copies: that one would wait for ever.
		if stream, ok := v[1].(string); ok {
			_ = l.doubt(stream) // has it checked
		}
	}
	if !strings.HasPrefix(f, "Plaintext passwords") {
		l.log.Warn("storage engine: " + fmt.Sprintf(f, v...))
	}
}

// Errorf: a node that cannot be reached is no error of this one.
func (l *engineLog) Errorf(f string, v ...any) {
	if l.handshake(f, v) {
		return
	}
	if strings.Contains(f, "route") || strings.Contains(f, "TLS") || strings.Contains(f, "flushing") {
		l.Warnf(f, v...)
		return
	}
	l.log.Error("storage engine: " + fmt.Sprintf(f, v...))
}
func (l *engineLog) Debugf(f string, v ...any) {
	l.log.Debug("storage engine: " + fmt.Sprintf(f, v...))
}
func (l *engineLog) Tracef(string, ...any) {}
