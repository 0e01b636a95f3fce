package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

// heldBack is what every log holds back at the moment: messages that stand in it and are delivered only
// when a deliver record behind them says so. It follows from the logs, so every node knows it of all.
type heldBack struct {
	mu    sync.Mutex
	runs  map[string]map[string][]*heldRun // by node and client, in the order of the log
	ends  map[string][]lifeEnd             // by node: where lives of its log ended, the newest last
	known map[string]uint64                // by node: from which batch on ends has all
	last  map[string]uint64                // by node: the last batch that was read
}

// heldRun is held messages of one client that wait for the same logs.
type heldRun struct {
	client  string
	at      cursor    // where it begins
	clock   uint64    // the Lamport clock there
	origins []waitFor // the logs, and how far they had been read when the client came
	items   []cursor
}

// lifeEnd is a record behind which nothing of an earlier life of its log can stand.
type lifeEnd struct {
	batch uint64
	fence bool // and there is no new life yet
}

const maxLifeEnds = 64 // of one log; what waits for an older one finds it by reading

// read notes that a batch is about to be entered.
func (h *heldBack) read(b *Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil {
		h.runs, h.ends = map[string]map[string][]*heldRun{}, map[string][]lifeEnd{}
		h.known, h.last = map[string]uint64{}, map[string]uint64{}
	}
	node := strings.Clone(b.Node)
	if _, begun := h.known[node]; !begun {
		h.known[node] = b.Number
	}
	h.last[node] = b.Number
	if e, ends := endOf(b); ends {
		h.addEnd(node, e)
	}
}

func endOf(b *Batch) (lifeEnd, bool) {
	kind := b.kind()
	return lifeEnd{b.Number, kind == KindFence || b.Void}, kind == KindFence || kind == KindIncarnation || b.Void
}

// addEnd enters an end. h.mu is held.
func (h *heldBack) addEnd(node string, e lifeEnd) {
	list := h.ends[node]
	if slices.Contains(list, e) {
		return
	}
	list = append(list, e)
	slices.SortFunc(list, func(a, b lifeEnd) int { return int(int64(a.batch - b.batch)) })
	if len(list) > maxLifeEnds {
		h.known[node] = list[0].batch + 1
		list = slices.Delete(list, 0, 1)
	}
	h.ends[node] = list
}

// enter follows a record.
func (h *heldBack) enter(r *Record, at cursor, clock uint64) {
	switch {
	case r.Kind == KindHold:
		h.mu.Lock()
		defer h.mu.Unlock()
		runs := h.of(at.Node)[r.Client]
		from := waitFor{From: cursor(r.At)}
		from.From.Node, at.Node = strings.Clone(from.From.Node), strings.Clone(at.Node)
		if r.Rank > 0 {
			from.IDs = cursor{from.From.Node, r.Rank, uint32(r.Clock)}
		}
		if n := len(runs); n > 0 && len(runs[n-1].items) == 0 {
			runs[n-1].origins = append(runs[n-1].origins, from)
			return
		}
		h.add(at.Node, &heldRun{client: strings.Clone(r.Client), at: at, clock: clock, origins: []waitFor{from}})
	case r.Kind == KindMessage && r.Held:
		h.mu.Lock()
		defer h.mu.Unlock()
		at.Node = strings.Clone(at.Node)
		runs := h.of(at.Node)[r.Client]
		if len(runs) == 0 { // what it waits for is not known any more: for nothing
			h.add(at.Node, &heldRun{client: strings.Clone(r.Client), at: at, clock: clock, items: []cursor{at}})
			return
		}
		last := runs[len(runs)-1]
		last.items = append(last.items, at)
	case r.Kind == KindDeliver:
		h.mu.Lock()
		defer h.mu.Unlock()
		h.delivered(r.Client, cursor(r.At))
	}
}

// of is a node's runs. h.mu is held.
func (h *heldBack) of(node string) map[string][]*heldRun {
	if h.runs[node] == nil {
		h.runs[node] = map[string][]*heldRun{}
	}
	return h.runs[node]
}

func (h *heldBack) add(node string, run *heldRun) {
	m := h.of(node)
	m[run.client] = append(m[run.client], run)
}

func (h *heldBack) delivered(client string, at cursor) {
	m := h.of(at.Node)
	runs := m[client]
	for i, run := range runs {
		k := slices.Index(run.items, at) // it is the first but for damage
		if k < 0 {
			continue
		}
		if run.items = run.items[k+1:]; len(run.items) == 0 {
			runs = slices.Delete(runs, i, i+1)
		}
		break
	}
	if m[client] = runs; len(runs) == 0 {
		delete(m, client)
	}
}

// list is copies of a node's runs that hold something, in the order of the log.
func (h *heldBack) list(node string) (out []heldRun) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, runs := range h.runs[node] {
		for _, run := range runs {
			if len(run.items) > 0 {
				out = append(out, run.clone())
			}
		}
	}
	slices.SortFunc(out, func(a, b heldRun) int { return a.items[0].compare(b.items[0]) })
	return out
}

func (r *heldRun) clone() heldRun {
	return heldRun{r.client, r.at, r.clock, slices.Clone(r.origins), slices.Clone(r.items)}
}

// begin is a node's first run of a client that holds something; one that holds nothing if there is none.
func (h *heldBack) begin(node, client string) heldRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, run := range h.runs[node][client] {
		if len(run.items) > 0 {
			return run.clone()
		}
	}
	return heldRun{client: client, at: cursor{Node: node}}
}

// holds says whether a node holds back something of a client.
func (h *heldBack) holds(node, client string) bool { return len(h.begin(node, client).items) > 0 }

// waits says whether a node holds back something that stands before a batch, and that a run of the same client in
// another log has to wait for.
func (h *heldBack) waits(node string, before uint64, mine heldRun) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, run := range h.runs[node][mine.client] {
		if len(run.items) > 0 && run.items[0].Batch < before && !mine.goesBefore(run) {
			return true
		}
	}
	return false
}

// later is what a node holds back and lets go behind a run of the same client in another log.
func (h *heldBack) later(node string, mine heldRun) (out []cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, run := range h.runs[node][mine.client] {
		if mine.goesBefore(run) {
			out = append(out, run.items...)
		}
	}
	return out
}

// goesBefore says whether a run in another log, which waits for this one's, waits for this one, too. Two that wait for
// each other would do so for ever: the one goes first whose log said so first.
func (r *heldRun) goesBefore(other *heldRun) bool {
	if len(r.items) == 0 || !slices.ContainsFunc(other.origins, func(w waitFor) bool { return w.From.Node == r.at.Node }) {
		return false
	}
	return r.clock < other.clock || r.clock == other.clock && r.at.Node < other.at.Node
}

// first is where the logs have to be read from to know what is held: of those that hold something.
func (h *heldBack) first() (out vector) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, byClient := range h.runs {
		for _, runs := range byClient {
			for _, run := range runs {
				if at := (cursor{Node: node, Batch: run.at.Batch}); len(run.items) > 0 && (!out.has(node) || at.before(out.of(node))) {
					out = out.with(at)
				}
			}
		}
	}
	return out
}

// endBehind is where the life of a log ended that wrote at a batch, of what has been read; 0: it goes on.
func (h *heldBack) endBehind(node string, from uint64) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.ends[node] {
		if e.batch >= from {
			return e.batch
		}
	}
	return 0
}

// behind is the place that everybody has to have read before what waited for a log is delivered: what was held there
// as well was let go behind its end.
func (h *heldBack) behind(node string, end uint64) Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Position{Node: node, Batch: max(end, h.last[node]+1)}
}

// fenced says whether a log's last batch before next is a fence.
func (h *heldBack) fenced(node string, next uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.ends[node]
	return len(list) > 0 && list[len(list)-1] == lifeEnd{next - 1, true}
}

// look finds the ends of lives in what was not entered since the start: from a batch on.
func (h *heldBack) look(ctx context.Context, t *tail, node string, from uint64) error {
	h.mu.Lock()
	known, begun := h.known[node]
	h.mu.Unlock()
	if !begun {
		known = t.end().of(node).Batch
	}
	for n := max(1, from); n < known; n++ {
		b, err := t.batch(ctx, node, n)
		if err != nil && !errors.Is(err, errTrimmed) && !errors.Is(err, errDamaged) {
			return err
		}
		if err != nil {
			continue
		}
		if e, ends := endOf(b); ends {
			h.mu.Lock()
			h.addEnd(node, e)
			h.mu.Unlock()
		}
	}
	h.mu.Lock()
	if now := h.known[node]; from < now || now == 0 {
		h.known[node] = from
	}
	h.mu.Unlock()
	return nil
}
