package drivertest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/devices"
)

// Patience is how long a Recorder waits for what must come. It bounds a failure, no
// success takes it.
const Patience = 5 * time.Minute

// Recorder is a Sink that keeps everything and watches over the rules.
type Recorder struct {
	mu       sync.Mutex
	readings []devices.Reading
	counts   map[string]uint64
	faults   []string
	last     map[string]devices.Instant
	hold     bool
	gate     chan struct{} // nil: open; else Emit waits until it is closed
	emitting bool
	changed  chan struct{} // closed and replaced at each change
}

// NewRecorder makes an empty one.
func NewRecorder() *Recorder {
	return &Recorder{counts: map[string]uint64{}, last: map[string]devices.Instant{}, changed: make(chan struct{})}
}

// Emit keeps readings, and notes what is wrong with them.
func (r *Recorder) Emit(readings ...devices.Reading) {
	r.mu.Lock()
	if r.emitting {
		r.fault("Emit was called while another Emit was not back: a device has one goroutine for its sink")
	}
	r.emitting = true
	gate := r.gate
	r.notify()
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emitting = false
	if len(readings) == 0 {
		r.fault("Emit without a reading")
	}
	for _, g := range readings {
		r.judge(g)
	}
	r.readings = append(r.readings, readings...)
	r.notify()
}

func (r *Recorder) judge(g devices.Reading) {
	if err := devices.Validate(g); err != nil {
		r.fault(err.Error())
	}
	if g.Device != "" {
		r.fault(fmt.Sprintf("metric %s: Device is filled in by the agent, not by the driver", g.Metric))
	}
	if g.At < r.last[g.Metric] {
		r.fault(fmt.Sprintf("metric %s: taken at %v after one taken at %v", g.Metric, g.At, r.last[g.Metric]))
	}
	r.last[g.Metric] = g.At
}

// Hold says what SetHold said.
func (r *Recorder) Hold() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hold
}

// Count adds up, and notes a name that is not in snake case.
func (r *Recorder) Count(counter string, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !snake(counter) {
		r.fault(fmt.Sprintf("counter %q: want snake_case", counter))
	}
	r.counts[counter] += n
	r.notify()
}

func snake(s string) bool {
	ok := s != "" && s[0] >= 'a' && s[0] <= 'z'
	for _, c := range s {
		ok = ok && (c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9')
	}
	return ok
}

func (r *Recorder) fault(s string) {
	if len(r.faults) < 20 {
		r.faults = append(r.faults, s)
	}
}

func (r *Recorder) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// SetHold makes the buffer seem full.
func (r *Recorder) SetHold(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = on
}

// Block makes Emit wait until the returned function is called.
func (r *Recorder) Block() (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gate := make(chan struct{})
	r.gate = gate
	return sync.OnceFunc(func() {
		r.mu.Lock()
		r.gate = nil
		r.mu.Unlock()
		close(gate)
	})
}

// Readings is what was emitted so far.
func (r *Recorder) Readings() []devices.Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.readings)
}

// Counts is the counters.
func (r *Recorder) Counts() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// Faults is what was against the contract.
func (r *Recorder) Faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.faults)
}

// Forget empties it, but for the faults and the order of time.
func (r *Recorder) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readings, r.counts = nil, map[string]uint64{}
}

// Wait waits until cond holds of what was recorded.
func (r *Recorder) Wait(t testing.TB, what string, cond func(readings []devices.Reading, counts map[string]uint64) bool) {
	t.Helper()
	deadline := time.After(Patience)
	for {
		r.mu.Lock()
		ok, changed := cond(r.readings, r.counts), r.changed
		n, counts := len(r.readings), maps.Clone(r.counts)
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %v in vain for %s: %d readings, counts %v", Patience, what, n, counts)
		}
	}
}

func (r *Recorder) check(cond func([]devices.Reading, map[string]uint64) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cond(r.readings, r.counts)
}

// Emitting says whether an Emit is under way.
func (r *Recorder) Emitting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.emitting
}
