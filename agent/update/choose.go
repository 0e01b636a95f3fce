package update

import (
	"fmt"
	"time"
)

// choice is what a start does.
type choice struct {
	release string // "": this program goes on itself
	trial   bool
}

// choose decides which program starts, and notes in the state what that changes. manifest
// returns a verified one; an error of it means that the release cannot be used.
func choose(s *State, self Self, now Moment, manifest func(id string) (Manifest, error)) choice {
	if s.Trial != nil {
		if why := lost(s.Trial, self, now, manifest); why != "" {
			s.giveUp(why)
		} else {
			s.Trial.began(now)
			return choice{s.Trial.Release, true}
		}
	}
	for _, id := range []string{s.Current, s.Previous} {
		if id == "" {
			break
		}
		m, err := manifest(id)
		switch {
		case err != nil: // it may be the keys: what was chosen stays chosen
			s.note(Unusable, id, err.Error())
			continue
		case m.Build().Compare(self.Build) <= 0:
			s.note(LetGo, m.Version, "the package's program, "+self.Version+", is not older")
			s.Current, s.Previous = "", ""
			return choice{}
		}
		return choice{id, false}
	}
	return choice{}
}

// lost says why a trial is over at a start; "": it is not.
func lost(t *Trial, self Self, now Moment, manifest func(id string) (Manifest, error)) string {
	m, err := manifest(t.Release)
	switch {
	case err != nil:
		return err.Error()
	case m.Build().Compare(self.Build) <= 0:
		return "the package's program, " + self.Version + ", is not older"
	case t.Verdict != "":
		return t.Verdict
	case t.Tries >= Tries:
		return fmt.Sprintf("it was started %d times and ended each time before it was confirmed", t.Tries)
	case t.left(now) <= 0:
		return fmt.Sprintf("it was not confirmed within %v", t.Within.Round(time.Second))
	}
	return ""
}
