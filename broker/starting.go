package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A node that comes up says at each moment what it does or waits for: to /readyz, to the service manager, to the other
// nodes with its beats, and to its log what took long.

// slowStep is how long a step of a start may take before the log has it.
const slowStep = time.Second

// starting is what a node does until it serves.
type starting struct {
	b    *Broker
	tell func(doing string) // Options.Starts; may be nil

	mu    sync.Mutex
	step  string
	since time.Duration
	why   error // what the step waits for, nil: for nothing but itself
}

// begin says that a step begins, and so the one before is done.
func (s *starting) begin(format string, args ...any) {
	s.mu.Lock()
	old, took := s.step, s.b.mono()-s.since
	s.step, s.since, s.why = fmt.Sprintf(format, args...), s.b.mono(), nil
	s.mu.Unlock()
	if old != "" && took >= slowStep {
		s.b.log.Info("done while starting", "what", old, "took", took.Round(time.Millisecond))
	}
	s.say()
}

// waits says what the step waits for.
func (s *starting) waits(why error) {
	s.mu.Lock()
	s.why = why
	s.mu.Unlock()
	s.say()
}

func (s *starting) say() {
	words := s.words()
	s.b.unready(fmt.Errorf("the node starts: %s", words))
	if s.tell != nil {
		s.tell(words)
	}
}

// words are what the node does now.
func (s *starting) words() string {
	s.mu.Lock()
	step, why := s.step, s.why
	s.mu.Unlock()
	if why == nil {
		return step
	}
	out := step + ": " + why.Error()
	if few := s.b.tooFew(); few != "" {
		out = few + " (" + out + ")"
	} else if lost := s.b.copiesLost(); lost != nil {
		out = lost.Error() + " (" + out + ")"
	}
	return out
}

// tooFew says that a node waits because too few others are heard, "" if that is not so.
func (b *Broker) tooFew() string {
	if b.peers == nil || !b.founded.Load() { // before it is founded, a cluster waits for all
		return ""
	}
	size, heard := len(b.cfg.Cluster.Peers)+1, []string{b.cfg.Node.Name}
	for _, m := range b.peers.members.list() {
		if m.Heard && m.Node != b.cfg.Node.Name {
			heard = append(heard, m.Node)
		}
	}
	if 2*len(heard) > size {
		return ""
	}
	slices.Sort(heard)
	return fmt.Sprintf("waiting for the cluster: of %d nodes these are heard: %s", size, strings.Join(heard, ", "))
}
