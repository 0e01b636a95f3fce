package counter

import (
	"errors"
	"log/slog"
	"sync"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// The reasons of an uncertain count, besides the lost edges.
const (
	edgesLost  = "edges-lost"  // some that had to be debounced: pulses may be missing
	edgeMissed = "edge-missed" // two edges in one direction: a pulse may be missing
	notWatched = "not-watched" // nobody counted for a while: the agent was not running, or had not the line
	countGap   = "count-gap"   // a power cut: what was counted since it was written last is missing too
	countLost  = "count-lost"  // what was written cannot be read: it begins anew
)

// run is the state of one Run: a gpiocdev.Handler.
type run struct {
	*device
	sink devices.Sink
	log  *slog.Logger
	tally
	up      bool
	due     devices.Schedule // of the readings
	doubt   string           // of the count, from before the line was ours
	at      devices.Instant  // of the latest reading: it never goes back
	trouble devices.Trouble
	told    counters
	keep    *keeper
}

// counters is what was counted in the sink.
type counters struct{ count, lost, missed uint64 }

func newRun(d *device, sink devices.Sink) (*run, error) {
	log := d.env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	now := d.env.Clock.Now()
	r := &run{
		device: d, sink: sink, log: log, due: devices.NewSchedule(now+d.interval, d.interval),
		tally:   tally{edge: d.edge, states: d.wanted.Edge == gpio.BothEdges},
		trouble: devices.Trouble{Every: d.reportEvery},
	}
	r.Settle = d.debounce
	s, doubt, found, problem := recall(d.env.StateDir, d.env.RuntimeDir)
	if problem != nil {
		log.Error("the count that was kept cannot be read: kept aside", "err", problem)
	}
	if !found || doubt == countLost {
		s.Count = d.start
	}
	if doubt != "" {
		log.Info("the count goes on", "count", s.Count, "uncertain", doubt)
	}
	r.count, r.lost, r.doubt = s.Count, s.Lost, doubt
	r.told = counters{s.Count, s.Lost, 0}
	r.keep = newKeeper(d, s, now, log)
	return r, nil
}

// Up implements gpiocdev.Handler.
func (r *run) Up(_ int, _ *gpiocdev.Line, level gpio.Level, now devices.Instant) {
	r.begin(level, now)
	r.up = true
	r.trouble.Over()
	r.due = devices.NewSchedule(now+r.interval, r.interval)
}

// Edges implements gpiocdev.Handler.
func (r *run) Edges(_ int, edges []gpiocdev.Event) {
	for _, e := range edges {
		r.take(e)
	}
}

// Look implements gpiocdev.Handler.
func (r *run) Look(_ int, level gpio.Level, now devices.Instant) { r.look(level, now) }

// Down implements gpiocdev.Handler.
func (r *run) Down(_ int, reason string, _ error, now devices.Instant) {
	if r.up {
		r.doubt = notWatched
	}
	r.up = false
	r.Begin(gpio.Low)
	if !r.trouble.Due(reason, now) {
		return
	}
	r.at = max(r.at, now)
	var out []devices.Reading
	for _, m := range r.metrics {
		out = append(out, devices.Reading{Metric: m.Name, Unit: m.Unit, Quality: devices.Bad, Reason: reason, At: r.at})
	}
	r.sink.Emit(out...)
}

// Due implements gpiocdev.Handler.
func (r *run) Due() devices.Instant {
	due := r.due.Due()
	if at, moving := r.tally.Due(); moving {
		due = min(due, at)
	}
	return due
}

// Wake implements gpiocdev.Handler.
func (r *run) Wake() <-chan struct{} { return nil }

// Tick implements gpiocdev.Handler.
func (r *run) Tick(now devices.Instant) {
	if now < r.due.Due() {
		return
	}
	switch {
	case !r.up: // Down tells
	case r.sink.Hold():
		r.sink.Count("polls_skipped", 1)
	default:
		r.tell(now)
	}
	if missed := r.due.Done(now); missed > 0 {
		r.sink.Count("polls_missed", missed)
	}
}

// End implements gpiocdev.Handler: the last count is told and kept.
func (r *run) End(now devices.Instant) {
	if r.up {
		r.tell(now)
	}
	if err := r.keep.end(state{Count: r.count, Lost: r.lost}); err != nil {
		r.log.Error("the count was not kept", "count", r.count, "err", err)
	}
}

// tell makes a group of readings. What is told is kept first, as far as a tmpfs keeps.
func (r *run) tell(now devices.Instant) {
	r.keep.put(state{Count: r.count, Lost: r.lost}, now)
	frequency, duty, blurred := r.measure(now)
	doubt := r.doubt
	if doubt == "" {
		doubt = r.tally.doubt
	}
	r.at = max(r.at, now)
	var out []devices.Reading
	for _, m := range r.metrics {
		g := devices.Reading{Metric: m.Name, Unit: m.Unit, At: r.at}
		switch m.Name {
		case metricCount:
			g = number(g, float64(r.count), doubt)
		case metricLost:
			g = number(g, float64(r.lost), "")
		case metricFrequency:
			g = number(g, float64(frequency)/float64(physic.Hertz), r.tally.doubt)
		case metricDuty:
			g = number(g, duty, blurred)
		}
		out = append(out, g)
	}
	r.doubt, r.tally.doubt = "", ""
	r.tallyUp()
	r.sink.Emit(out...)
}

func number(g devices.Reading, v float64, doubt string) devices.Reading {
	g.Value = devices.Number(v)
	if doubt != "" {
		g.Quality, g.Reason = devices.Uncertain, doubt
	}
	return g
}

// tallyUp adds to the device's counters what is new.
func (r *run) tallyUp() {
	now := counters{r.count, r.lost, r.missed}
	r.sink.Count("pulses", now.count-r.told.count)
	r.sink.Count("edges_lost", now.lost-r.told.lost)
	r.sink.Count("edges_missed", now.missed-r.told.missed)
	r.told = now
}

// keeper writes the count: into the runtime directory whenever it is told, to the card
// rarely. A slow card holds up no edge: a goroutine writes to it.
type keeper struct {
	*device
	log     *slog.Logger
	number  uint64
	card    state // what is on the card, or on its way to it
	saved   devices.Instant
	failing bool

	work chan state
	done sync.WaitGroup
	mu   sync.Mutex
	err  error // of the latest writing
}

func newKeeper(d *device, s state, now devices.Instant, log *slog.Logger) *keeper {
	// The first count is written at once: what is on the card is that nothing came behind it.
	k := &keeper{device: d, log: log, number: s.Number, card: s, saved: now - d.saveEvery, work: make(chan state, 1)}
	k.done.Go(func() {
		for s := range k.work {
			err := saveState(d.env.StateDir, s, true)
			k.mu.Lock()
			k.err = err
			k.mu.Unlock()
		}
	})
	return k
}

// put keeps a count that is about to be told.
func (k *keeper) put(s state, now devices.Instant) {
	k.number++
	s.Number = k.number
	if k.env.StateDir != "" && now-k.saved >= k.saveEvery && (s.Count != k.card.Count || s.Lost != k.card.Lost || s.Number == 1 || k.card.Ended) {
		select {
		case k.work <- s:
			k.saved, k.card = now, s
		default: // the card has not done the one before
		}
	}
	var err error
	if k.env.RuntimeDir != "" {
		err = saveState(k.env.RuntimeDir, s, false)
	}
	k.mu.Lock()
	err = errors.Join(err, k.err)
	k.mu.Unlock()
	if err != nil && !k.failing {
		k.log.Error("the count is not kept: a restart would lose what is counted now; trying again", "err", err)
	}
	k.failing = err != nil
}

// end writes the last count.
func (k *keeper) end(s state) error {
	close(k.work)
	k.done.Wait()
	if k.env.StateDir == "" {
		return nil
	}
	k.number++
	s.Number, s.Ended = k.number, true
	return saveState(k.env.StateDir, s, true)
}
