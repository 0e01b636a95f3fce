package broker

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// discardReason says why something did not reach somebody who should have had it. Whatever the
// broker drops, it drops with one of these.
type discardReason uint8

const (
	discardTrimmed    discardReason = iota // retention removed it from the log before it was read
	discardDamaged                         // the disk gave it back damaged, or not at all
	discardExpired                         // its message expiry had passed
	discardTooLarge                        // longer than the client's Maximum Packet Size
	discardNoRoom                          // QoS 0, and the subscriber's queue was full
	discardAway                            // for a QoS 0 subscription, while the client was away
	discardRefused                         // the publisher may not: signature, $SYS
	discardNotStored                       // the store did not take it; with QoS 1 and 2 the publisher knows
	discardEnded                           // its kept session ended: expiry, a clean start, an administrator
	discardNotAllowed                      // its subscription has lost the right to it
	discardReasons
)

// discardNames are the reasons as metrics, $SYS and the API spell them.
var discardNames = [discardReasons]string{"trimmed", "damaged", "expired", "too_large", "no_room", "qos0_away", "refused", "not_stored", "session_ended", "not_allowed"}

// DiscardHelp says what a reason means, for people.
var DiscardHelp = map[string]string{
	"trimmed":       "retention removed it before it was read",
	"damaged":       "it could not be read from the disk",
	"expired":       "its message expiry had passed",
	"too_large":     "longer than the client's Maximum Packet Size",
	"no_room":       "QoS 0, and the client took too little",
	"qos0_away":     "QoS 0, and the client was away",
	"refused":       "the publisher may not publish it",
	"not_stored":    "the store did not take it",
	"session_ended": "the session ended before it was read",
	"not_allowed":   "the subscription has lost the right to it",
}

func (r discardReason) String() string { return discardNames[r] }

// Bounds of what is remembered. The sums per reason know everything.
const (
	discardClients = 1024 // clients with details; beyond, the one that is quiet for longest is forgotten
	discardDetails = 32   // of one client, the newest
	discardTopic   = 256  // bytes of a topic
)

// discard is one drop as whoever drops it reports it.
type discard struct {
	reason   discardReason
	client   string   // who does not get it; for refused and not_stored the publisher; a shared group's name
	topic    string   // "": what was in the range is not known
	from, to Position // where in the log; the zero Position: it never was in it
	messages uint64   // 0: unknown, batches counts instead
	batches  uint64   // that held nobody knows what
	note     string   // the door's reason
}

// Discard is one detail of what a client lost: neighbours of one topic and reason stand in one.
type Discard struct {
	Reason   string    `json:"reason"`
	Note     string    `json:"note,omitempty"`
	Topic    string    `json:"topic,omitempty"` // absent: what was in the range is not known
	From     string    `json:"from,omitempty"`  // position in the log, node/batch/index
	To       string    `json:"to,omitempty"`
	Messages uint64    `json:"messages,omitempty"`
	Batches  uint64    `json:"batches,omitempty"` // of the log, where messages cannot be counted any more
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// DiscardSums counts messages by reason, and batches where messages could not be counted.
type DiscardSums struct {
	Messages map[string]uint64 `json:"messages"`
	Batches  map[string]uint64 `json:"batches,omitempty"`
}

// ClientDiscards is what one client lost since the broker started.
type ClientDiscards struct {
	DiscardSums
	Newest  []Discard `json:"newest"`            // newest first
	Omitted uint64    `json:"omitted,omitempty"` // details that are only in the sums
}

// discards counts everything that the broker drops.
type discards struct {
	wall     func() time.Time
	messages [discardReasons]atomic.Uint64
	batches  [discardReasons]atomic.Uint64

	mu        sync.Mutex
	clients   map[string]*clientDiscards
	forgotten uint64 // clients whose details had to go
	clock     uint64
}

// clientDiscards is one client's part.
type clientDiscards struct {
	messages, batches [discardReasons]uint64
	newest            []detail // oldest first
	omitted           uint64
	used              uint64 // clock of its newest
}

type detail struct {
	discard
	first, last time.Time
}

func newDiscards(wall func() time.Time) *discards {
	return &discards{wall: wall, clients: map[string]*clientDiscards{}}
}

// add counts one drop. It is cheap enough for the path of QoS 0.
func (d *discards) add(x discard) {
	if x.messages == 0 && x.batches == 0 {
		return
	}
	d.messages[x.reason].Add(x.messages)
	d.batches[x.reason].Add(x.batches)
	if len(x.topic) > discardTopic {
		x.topic = strings.ToValidUTF8(x.topic[:discardTopic], "") + "…"
	}
	now := d.wall()
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.clients[x.client]
	if c == nil {
		c = d.admit(x.client)
	}
	d.clock++
	c.used = d.clock
	c.messages[x.reason] += x.messages
	c.batches[x.reason] += x.batches
	c.note(x, now)
}

// one is add for a single message.
func (d *discards) one(reason discardReason, client, topic string, at Position) {
	d.add(discard{reason: reason, client: client, topic: topic, from: at, to: at, messages: 1})
}

// admit makes room for a client. d.mu is held.
func (d *discards) admit(client string) *clientDiscards {
	if len(d.clients) >= discardClients {
		quiet, oldest := "", ^uint64(0)
		for id, c := range d.clients {
			if c.used < oldest {
				quiet, oldest = id, c.used
			}
		}
		delete(d.clients, quiet)
		d.forgotten++
	}
	c := &clientDiscards{}
	d.clients[strings.Clone(client)] = c
	return c
}

// note remembers a detail: as part of the newest one of its kind, or as a new one.
func (c *clientDiscards) note(x discard, now time.Time) {
	for i := len(c.newest) - 1; i >= 0; i-- {
		old := &c.newest[i]
		if !old.continues(&x) {
			continue
		}
		if old.from == (Position{}) || x.from.Before(old.from) {
			old.from = x.from
		}
		if old.to.Before(x.to) {
			old.to = x.to
		}
		old.messages, old.batches, old.last = old.messages+x.messages, old.batches+x.batches, now
		return
	}
	if len(c.newest) >= discardDetails {
		c.newest = slices.Delete(c.newest, 0, 1)
		c.omitted++
	}
	x.topic, x.note = strings.Clone(x.topic), strings.Clone(x.note) // not the memory of a packet
	c.newest = append(c.newest, detail{x, now, now})
}

// continues says whether x can be told in one line with d: same reason and topic, and in the
// same node's log.
func (d *detail) continues(x *discard) bool {
	return d.reason == x.reason && d.topic == x.topic && d.note == x.note && d.from.Node == x.from.Node
}

// of is what one client lost; false: nothing that is remembered.
func (d *discards) of(client string) (ClientDiscards, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.clients[client]
	if c == nil {
		return ClientDiscards{DiscardSums: DiscardSums{Messages: map[string]uint64{}}, Newest: []Discard{}}, false
	}
	out := ClientDiscards{DiscardSums: sumsOf(c.messages, c.batches), Omitted: c.omitted, Newest: []Discard{}}
	for _, x := range slices.Backward(c.newest) {
		out.Newest = append(out.Newest, x.public())
	}
	slices.SortStableFunc(out.Newest, func(a, b Discard) int { return b.Last.Compare(a.Last) })
	return out, true
}

func (d *detail) public() Discard {
	out := Discard{Reason: d.reason.String(), Note: d.note, Topic: d.topic, Messages: d.messages, Batches: d.batches,
		First: d.first.UTC(), Last: d.last.UTC()}
	if d.from != (Position{}) {
		out.From, out.To = d.from.String(), d.to.String()
	}
	return out
}

// sumsOf names the reasons for which anything was counted.
func sumsOf(messages, batches [discardReasons]uint64) DiscardSums {
	out := DiscardSums{Messages: map[string]uint64{}}
	for r, n := range messages {
		if n > 0 {
			out.Messages[discardNames[r]] = n
		}
	}
	for r, n := range batches {
		if n > 0 {
			if out.Batches == nil {
				out.Batches = map[string]uint64{}
			}
			out.Batches[discardNames[r]] = n
		}
	}
	return out
}

// sums is everything since the start, every reason named.
func (d *discards) sums() (messages, batches [discardReasons]uint64) {
	for r := range discardReasons {
		messages[r], batches[r] = d.messages[r].Load(), d.batches[r].Load()
	}
	return messages, batches
}
