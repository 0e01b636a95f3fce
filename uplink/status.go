package uplink

import "time"

// Status is a snapshot of the uplink. Counters run from New and never fall.
type Status struct {
	Connected      bool          `json:"connected"`
	Server         string        `json:"server"`                 // connected to, or tried last; no credentials
	Since          time.Duration `json:"since"`                  // on Options.Now's clock: connected or disconnected since
	SessionPresent bool          `json:"session_present"`        // what the last CONNACK said
	NextTry        time.Duration `json:"next_try,omitempty"`     // on Options.Now's clock: of connecting, or of a line that is Stopped; 0: trying or sending
	Stopped        string        `json:"stopped,omitempty"`      // why the line stands still although connected, or why it is tried slowly
	LastError      string        `json:"last_error,omitempty"`   // of the connection or of a message, with what to do
	LastErrorAt    time.Duration `json:"last_error_at,omitzero"` // on Options.Now's clock
	RTT            time.Duration `json:"rtt"`                    // PUBLISH to PUBACK, smoothed; 0: not measured yet

	Window   int    `json:"window"`    // messages that may be in flight now
	InFlight int    `json:"in_flight"` // sent, no PUBACK yet
	Waiting  uint64 `json:"waiting"`   // positions between the first unacknowledged and the next: an upper bound of what waits
	Backlog  uint64 `json:"backlog"`   // of these, older than the last connect and not sent yet: an upper bound
	Drain    string `json:"drain"`     // "in-order" or "live-first"

	Connects       uint64 `json:"connects"`        // accepted connections
	ConnectErrors  uint64 `json:"connect_errors"`  // refused or failed attempts
	Disconnects    uint64 `json:"disconnects"`     // connections that ended without our wish
	Sent           uint64 `json:"sent"`            // PUBLISH packets, resent ones included
	SentBytes      uint64 `json:"sent_bytes"`      // bytes of these packets
	Resent         uint64 `json:"resent"`          // PUBLISH packets with DUP
	Acked          uint64 `json:"acked"`           // PUBACKs that said success
	Retried        uint64 `json:"retried"`         // PUBACKs that said try again
	Refused        uint64 `json:"refused"`         // PUBACKs that said not authorised
	Rejected       uint64 `json:"rejected"`        // PUBACKs that said the message is bad
	Quarantined    uint64 `json:"quarantined"`     // messages taken out of the line
	UnknownPubacks uint64 `json:"unknown_pubacks"` // PUBACKs for no message in flight
	Evicted        uint64 `json:"evicted"`         // in flight, but gone from the Source when they were to be resent
	SourceErrors   uint64 `json:"source_errors"`   // errors of Read, Ack and Quarantine; each is tried again
}

// Status returns a snapshot for the status page and the metrics.
func (u *Uplink) Status() Status {
	first, next := u.opt.Source.Bounds()
	u.mu.Lock()
	c, drain := u.st, u.cfg.Drain
	u.mu.Unlock()
	l := u.line
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.n
	s.Connected, s.Server, s.Since, s.NextTry = c.Connected, c.Server, c.Since, c.NextTry
	s.ConnectErrors, s.Disconnects = c.ConnectErrors, c.Disconnects
	s.SessionPresent, s.InFlight, s.Drain = l.present, l.fl.wire, drain
	s.Waiting, s.Backlog = next-min(first, next), u.lanes.backlog.Load()
	if s.Stopped = l.stopped; s.Stopped == "" {
		s.Stopped = c.Stopped
	}
	if c.LastErrorAt > s.LastErrorAt || s.LastError == "" {
		s.LastError, s.LastErrorAt = c.LastError, c.LastErrorAt
	}
	if c.Connected && l.stopped != "" && l.onHold() {
		s.NextTry = l.holdTill
	}
	if c.Connected {
		s.Window = min(l.window, l.limit)
	} else {
		s.InFlight = 0
	}
	return s
}

// lost notes an error of the connection.
func (s *Status) lost(err error, now time.Duration) {
	s.LastError, s.LastErrorAt = err.Error(), now
}

func (u *Uplink) note(change func(*Status)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(&u.st)
}

func (l *line) acked() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n.Acked
}
