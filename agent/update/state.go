package update

import (
	"encoding/json"
	"slices"
	"time"
)

// State is which program runs. It is kept whole or not at all.
type State struct {
	Current  string  `json:"current"`         // id of the release that starts; "": the package's program
	Previous string  `json:"previous"`        // the one before it, for --back
	Trial    *Trial  `json:"trial,omitempty"` // what starts instead, for now
	Events   []Event `json:"events"`          // the last, oldest first
}

// Trial is a release that has to prove itself.
type Trial struct {
	Release string        `json:"release"`
	Version string        `json:"version"`
	Uplink  bool          `json:"uplink"`            // it must connect: the one before it was connected
	Within  time.Duration `json:"within"`            // nanoseconds, from the first start of a boot on
	Settle  time.Duration `json:"settle"`            // nanoseconds that it must be well without a break
	Tries   int           `json:"tries"`             // starts, each counted before it happens
	Boot    string        `json:"boot"`              // of Since
	Since   time.Duration `json:"since"`             // powered-on clock
	Verdict string        `json:"verdict,omitempty"` // why it may not stay: the next start goes back
}

// began notes a start.
func (t *Trial) began(now Moment) {
	t.Tries++
	if t.Boot != now.Boot {
		t.Boot, t.Since = now.Boot, now.At
	}
}

// left is how much time it has; what began in another boot has all of it.
func (t *Trial) left(now Moment) time.Duration {
	if t.Boot != now.Boot {
		return t.Within
	}
	return t.Since + t.Within - now.At
}

// Event is something that happened to the gateway's program.
type Event struct {
	What    string    `json:"what"`
	Version string    `json:"version"`          // of what it happened to
	Reason  string    `json:"reason,omitempty"` // in plain words
	Wall    time.Time `json:"wall"`             // for people: nothing is decided by it
}

// What happens.
const (
	Staged    = "staged"
	Confirmed = "confirmed"
	WentBack  = "went back"
	LetGo     = "let go"    // a newer package took its place
	Unusable  = "unusable"  // it should have started and could not
	Recovered = "recovered" // the state was unreadable: the newest confirmed release was taken
)

const (
	maxEvents = 8
	maxReason = 240 // bytes
)

func (s State) clone() State {
	if s.Trial != nil {
		t := *s.Trial
		s.Trial = &t
	}
	s.Events = slices.Clone(s.Events)
	return s
}

func (s *State) note(what, version, reason string) {
	if n := len(s.Events); n > 0 && s.Events[n-1].What == what && s.Events[n-1].Version == version && s.Events[n-1].Reason == reason {
		return // the same at each start is one event
	}
	s.Events = append(s.Events, Event{what, version, cut(reason, maxReason), time.Now().UTC().Truncate(time.Second)})
	if n := len(s.Events); n > maxEvents {
		s.Events = s.Events[n-maxEvents:]
	}
}

func cut(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}

// giveUp ends a trial: the one before it is what starts.
func (s *State) giveUp(reason string) {
	s.note(WentBack, s.Trial.Version, reason)
	s.Trial = nil
}

// confirm makes the release on trial the one that starts.
func (s *State) confirm(reason string) {
	s.note(Confirmed, s.Trial.Version, reason)
	s.Previous, s.Current, s.Trial = s.Current, s.Trial.Release, nil
}

// Last is the last event of an update's outcome; false: there was none.
func (s State) Last() (Event, bool) {
	for i := len(s.Events) - 1; i >= 0; i-- {
		switch e := s.Events[i]; e.What {
		case Confirmed, WentBack, LetGo, Unusable:
			return e, true
		}
	}
	return Event{}, false
}

// encode drops the oldest events until the state fits into most bytes.
func (s State) encode(most int) ([]byte, error) {
	for {
		b, err := json.Marshal(s)
		if err != nil || len(b) <= most || len(s.Events) == 0 {
			return b, err
		}
		s.Events = s.Events[1:]
	}
}
