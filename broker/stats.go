package broker

import (
	"errors"
	"sync/atomic"

	"holdfast/broker/limits"
	"holdfast/broker/listen"
)

// Stats counts since the start. Nothing is dropped, refused or lost without being counted in one
// of them.
type Stats struct {
	Connects        atomic.Uint64 // CONNECTs that were accepted
	Refused         atomic.Uint64 // CONNECTs that were refused
	Received        atomic.Uint64 // PUBLISHes from clients
	Rejected        atomic.Uint64 // … refused by the door
	SilentlyRefused atomic.Uint64 // … of them acknowledged to MQTT 3.1.1 clients, which can be told nothing
	StoreRefused    atomic.Uint64 // … refused because they could not be stored
	Duplicates      atomic.Uint64 // verified messages that the log had already
	Conflicts       atomic.Uint64 // verified messages whose number was used for other bytes
	Sent            atomic.Uint64 // PUBLISHes to clients
	Expired         atomic.Uint64 // not sent: message expiry
	TooLarge        atomic.Uint64 // not sent: longer than the client's Maximum Packet Size
	TrimmedBatches  atomic.Uint64 // batches that retention removed
	TrimmedSessions atomic.Uint64 // sessions that had not read what was trimmed, once per trim
	LostUnread      atomic.Uint64 // unfinished messages that were trimmed or damaged before they were sent again
	DamagedBatches  atomic.Uint64 // batches that could not be read, once per reader
	SessionsExpired atomic.Uint64 // sessions whose expiry had passed
	SharedAgain     atomic.Uint64 // messages of shared subscriptions that a node had in hand which is gone
	Panics          atomic.Uint64 // bugs that ended a connection
	Front           listen.Counts // connections that never spoke MQTT
	Limits          limits.Counts // how often each was reached
	LoginsFailed    atomic.Uint64 // user name or password was wrong

	ByCode    [256]atomic.Uint64              // CONNECTs that were refused, by reason code
	NotStored [notStoredReasons]atomic.Uint64 // StoreRefused, by reason
	Moved     atomic.Uint64                   // sessions that came from another node
}

// Why a PUBLISH was not stored: indices of Stats.NotStored.
const (
	notStoredFull = iota
	notStoredQuorum
	notStoredOther
	notStoredReasons
)

// notStoredNames are their names in the metrics.
var notStoredNames = [notStoredReasons]string{"store_full", "no_quorum", "failed"}

// storeRefused counts a PUBLISH that could not be stored.
func (s *Stats) storeRefused(err error) {
	why := notStoredOther
	switch {
	case errors.Is(err, errStoreFull):
		why = notStoredFull
	case errors.Is(err, errNoQuorum):
		why = notStoredQuorum
	}
	s.StoreRefused.Add(1)
	s.NotStored[why].Add(1)
}

// Stats is the broker's counters.
func (b *Broker) Stats() *Stats { return &b.stats }

// Gauges is the broker's present state in numbers.
type Gauges struct {
	Connections   int // clients whose CONNECT was accepted
	Peak          int // most connections there were at once
	Sessions      int
	Subscriptions int
	Groups        int    // shared subscriptions that this node owns
	GroupsOpen    int    // messages that they have dealt out, or have back, and that are not finished
	GroupsBehind  uint64 // batches that the slowest of them has not read
	Unfinished    int    // sent with QoS 1 or 2 and not acknowledged
	Retained      int
	LastBatch     uint64 // stored
	FirstBatch    uint64 // that can still be read
	QueuedBytes   int    // publishes that wait for the disk
	DroppedQoS0   uint64 // unlogged QoS 0 messages that had no room, since the start
	BehindLogged  int    // sessions that are connected and read from the log
	In, Out       Traffic
}

// Gauges returns the present state.
func (b *Broker) Gauges() Gauges {
	g := Gauges{Connections: b.conns.clients(), LastBatch: b.messages.stored.Load(), FirstBatch: b.tail.oldest(b.cfg.Node.Name), DroppedQoS0: b.tail.drops.Load()}
	g.Retained = b.retained.len()
	g.In, g.Out = b.conns.traffic()
	g.Peak = b.conns.most()
	b.groupsMu.Lock()
	g.Groups = len(b.groups)
	b.groupsMu.Unlock()
	g.GroupsOpen, g.GroupsBehind = b.shareSums()
	b.messages.mu.Lock()
	g.QueuedBytes = b.messages.bytes
	b.messages.mu.Unlock()
	for _, s := range b.sessions.all() {
		s.mu.Lock()
		g.Sessions++
		g.Subscriptions += len(s.subs) + len(s.shares)
		g.Unfinished += len(s.inflight)
		if s.conn != nil && !s.live {
			g.BehindLogged++
		}
		s.mu.Unlock()
	}
	return g
}
