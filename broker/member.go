package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	beatEvery   = 500 * time.Millisecond
	deadAfter   = 2500 * time.Millisecond // without a beat for so long, a node counts as dead
	freshFor    = 1250 * time.Millisecond // for so long a beat is worth telling others
	pausedAfter = deadAfter - beatEvery   // of its own silence, a node counts itself as one that others may have given up
	stuckAfter  = 30 * time.Second        // without a beat for so long, a node cannot say one, though it runs
	beatSubject = "hf.beat"
)

// beat is what each node says to all others.
type beat struct {
	Node         string   `json:"node"`
	ID           string   `json:"id"`          // of its store
	Incarnation  uint64   `json:"incarnation"` // of this life of its messages log, 0 before it began
	StateLife    uint64   `json:"state_life"`  // the same of its state log
	Version      string   `json:"version"`
	Format       int      `json:"format,omitempty"`        // the newest that its program knows
	FormatOldest int      `json:"format_oldest,omitempty"` // and the oldest
	Starting     bool     `json:"starting,omitempty"`      // its logs are not open yet: it is there, and takes no part
	Founded      bool     `json:"founded,omitempty"`       // it belongs to a cluster that has data, or may have
	Founders     []string `json:"founders,omitempty"`      // the stores with which that was founded
	Growing      bool     `json:"growing,omitempty"`       // it ran alone, and brings its logs into the cluster
	Healing      bool     `json:"healing,omitempty"`       // its copy of the logs was damaged, and is not complete again
	Empty        bool     `json:"empty,omitempty"`         // its store was empty when it came, and is not complete yet
	Listens      bool     `json:"listens,omitempty"`       // its store is not used: it only listens
	Chosen       bool     `json:"chosen,omitempty"`        // an administrator has said that its copy is the one to go on with

	Clock int64     `json:"clock,omitempty"` // µs since 1970, as the clock that things expire by has it
	Disk  *diskBeat `json:"disk,omitempty"`  // what it has on its disk

	On     map[string][]string `json:"on,omitempty"`     // the nodes that store its logs, by kind
	Copies map[string]copied   `json:"copies,omitempty"` // which node lacks how much of the logs that this one leads or grows

	Messages uint64            `json:"messages"` // last batch of its own logs that a quorum has
	State    uint64            `json:"state"`
	Read     map[string]uint64 `json:"read"`       // last batch that it has read, of each node's messages log
	ReadSt   map[string]uint64 `json:"read_state"` // and state log

	Seq     uint64        `json:"seq"`     // counts the beats of this life
	Follows bool          `json:"follows"` // it reads what others write, as it comes: they wait for it before they promise anything
	Counts  []countedNode `json:"counts"`  // the nodes that it waits for

	Idle bool `json:"idle"` // it has not been ready in this life, and promised nothing to anybody

	Ready    bool     `json:"ready"`
	Why      string   `json:"why,omitempty"` // it is not
	Draining bool     `json:"draining,omitempty"`
	Hears    []string `json:"hears"`     // the nodes whose beats it has heard within deadAfter
	Fresh    []string `json:"fresh"`     // and within freshFor
	Addrs    []string `json:"addresses"` // where it listens for clients
	Reach    []string `json:"reach"`     // "listener=host:port", for a Server Reference
	Cluster  string   `json:"cluster"`   // where the other nodes reach it
	Clients  int      `json:"clients"`
}

// countedNode is a node that another waits for, as that one heard it last.
type countedNode struct {
	Node string `json:"node"`
	Life uint64 `json:"life"` // of its state log
	Seq  uint64 `json:"seq"`
}

// member is a node as its last beat showed it.
type member struct {
	beat
	Alive bool          // heard within deadAfter, and its logs are open
	Heard bool          // heard within deadAfter
	Age   time.Duration // of the last beat, by the monotonic clock
}

// members is the table of all nodes that have been heard since the start.
type members struct {
	bus  bus
	self string
	mono func() time.Duration
	log  *slog.Logger
	fill func(*beat) // completes this node's own beat
	note func(beat)  // sees every other node's; nil: nobody

	mu      sync.Mutex
	m       map[string]heard
	sent    time.Duration     // when this node's last beat left
	seq     uint64            // of that beat
	since   uint64            // the first beat since this node last said nothing for so long that others may have given it up
	silent  map[string]uint64 // node → the last beat of one of which nothing is there any more
	changed chan struct{}     // closed and replaced with every beat
}

type heard struct {
	beat beat
	at   time.Duration
}

func newMembers(b bus, self string, mono func() time.Duration, fill func(*beat), log *slog.Logger) *members {
	return &members{bus: b, self: self, mono: mono, fill: fill, log: log, m: map[string]heard{}, changed: make(chan struct{}), sent: mono()}
}

// run says this node's beat and hears the others' until ctx ends.
func (m *members) run(ctx context.Context) error {
	sub, err := m.bus.subscribe(beatSubject, 1024, m.hear)
	if err != nil {
		return err
	}
	defer sub.stop()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		m.say()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// say sends a beat now, for instance because something in it has just changed that others wait for.
func (m *members) say() {
	b := beat{Node: m.self}
	m.mu.Lock()
	m.seq++
	b.Seq = m.seq
	if m.mono()-m.sent > pausedAfter {
		m.since = m.seq
	}
	m.mu.Unlock()
	b.Hears, b.Fresh = m.hears(deadAfter), m.hears(freshFor)
	m.fill(&b)
	data, err := json.Marshal(b)
	if err == nil {
		err = m.bus.publish(beatSubject, data)
	}
	if err != nil {
		m.log.Debug("no beat", "err", err)
		return
	}
	m.mu.Lock()
	m.sent = m.mono()
	m.mu.Unlock()
}

// paused says for how long this node has said nothing: it was stopped, or is too busy. The others may
// hold it for dead.
func (m *members) paused() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mono() - m.sent
}

func (m *members) hear(msg busMessage) {
	var b beat
	if err := json.Unmarshal(msg.Data, &b); err != nil || b.Node == "" {
		m.log.Warn("a beat that cannot be read", "err", err)
		return
	}
	if m.note != nil && b.Node != m.self {
		m.note(b)
	}
	m.mu.Lock()
	if b.Starting { // what it has begun to end is still the life of before
		old := m.m[b.Node].beat
		b.Incarnation, b.StateLife, b.Messages, b.State = old.Incarnation, old.StateLife, old.Messages, old.State
	}
	m.m[b.Node] = heard{b, m.mono()}
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
}

// resumed is the first beat that others have to have heard to count on this node.
func (m *members) resumed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.since
}

// silence notes that nothing is there any more of a node, though its last beat is young.
func (m *members) silence(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent == nil {
		m.silent = map[string]uint64{}
	}
	m.silent[node] = m.m[node].beat.Seq
}

// waitedFor are the nodes that have to have read what this one promises.
func (m *members) waitedFor() (out []member) {
	list := m.list()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range list {
		if at, silent := m.silent[b.Node]; silent && at == b.Seq {
			continue
		}
		if b.Alive && (b.Ready || b.Follows) && b.Node != m.self {
			out = append(out, b)
		}
	}
	return out
}

// news is closed with the next beat of any node.
func (m *members) news() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// list is the table, sorted by name; this node is in it once it has heard itself.
func (m *members) list() []member {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.mono()
	out := make([]member, 0, len(m.m))
	for _, h := range m.m {
		out = append(out, h.member(now))
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// get is one node of the table.
func (m *members) get(node string) (member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.m[node]
	if !ok {
		return member{}, false
	}
	return h.member(m.mono()), true
}

func (h heard) member(now time.Duration) member {
	age := now - h.at
	return member{h.beat, age < deadAfter && !h.beat.Starting, age < deadAfter, age}
}

// alive says whether a node was heard lately; this node lives.
func (m *members) alive(node string) bool {
	b, _ := m.get(node)
	return b.Alive || node == m.self
}

// hears are the others that were heard within a time.
func (m *members) hears(within time.Duration) []string {
	out := []string{}
	for _, b := range m.list() {
		if b.Age < within && b.Node != m.self {
			out = append(out, b.Node)
		}
	}
	return out
}

// forget removes a node that has left.
func (m *members) forget(node string) {
	m.mu.Lock()
	delete(m.m, node)
	m.mu.Unlock()
}

// unreached compares what this node reaches with what the majority of size nodes reaches: nil if nobody
// is missing. A node that is missing something would promise what it cannot keep: others publish where it
// does not listen. What others say counts only while it is fresh: a node that dies is not missed by all in
// the same moment.
func unreached(self string, table []member, size int) error {
	hears, fresh := map[string][]string{}, map[string][]string{}
	for _, b := range table {
		if b.Heard {
			hears[b.Node], fresh[b.Node] = b.Hears, b.Fresh
		}
	}
	mine := map[string]bool{self: true}
	for node, others := range hears {
		if node != self && slices.Contains(others, self) { // both ways
			mine[node] = true
		}
	}
	if 2*len(mine) <= size {
		return fmt.Errorf("%w: reaches %d of %d nodes, itself included", errNoQuorum, len(mine), size)
	}
	votes := map[string]int{} // without its own for itself, which every node has that anybody hears
	for node, others := range fresh {
		if node == self {
			continue
		}
		for _, o := range others {
			votes[o]++
		}
	}
	missing := []string{}
	for node, n := range votes {
		if !mine[node] && 2*(n+1) > size {
			missing = append(missing, node)
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		return fmt.Errorf("does not reach %s, and the majority does", strings.Join(missing, ", "))
	}
	return nil
}
