package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"holdfast/broker/mqtt"
)

const retainedKey = "retained/"

// retained is the newest retained message of each topic: of all that the logs have or had, the one
// with the highest (Lamport clock, node). It follows from the logs; what they no longer have is in
// the state store.
type retained struct {
	mu sync.RWMutex
	m  map[string]retainedItem

	live int // topics that have one
}

// retainedItem is a topic's newest message. One without a record says that it was deleted, and
// stays until nothing older can come.
type retainedItem struct {
	item
	clock uint64
}

// newer says whether a record at a place, of a batch with that clock, comes after this one.
func (it *retainedItem) newer(at cursor, clock uint64) bool {
	if clock != it.clock {
		return clock > it.clock
	}
	return at.compare(it.at) >= 0
}

func newRetained() *retained { return &retained{m: map[string]retainedItem{}} }

func (rs *retained) get(topic string) (item, bool) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	it := rs.m[topic]
	return it.item, it.rec != nil
}

// matching returns the retained messages of a filter.
func (rs *retained) matching(filter string) []item {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	if it := rs.m[filter]; it.rec != nil {
		return []item{it.item}
	}
	var its []item
	for topic, it := range rs.m {
		if it.rec != nil && mqtt.Match(filter, topic) {
			its = append(its, it.item)
		}
	}
	return its
}

// len is how many topics have one.
func (rs *retained) len() int {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.live
}

// put enters a topic's newest message; rs.mu is held, or nobody else is there yet.
func (rs *retained) put(topic string, it retainedItem) {
	if old := rs.m[topic]; old.rec != nil {
		rs.live--
	}
	if it.rec != nil {
		rs.live++
	}
	rs.m[topic] = it
}

// forget lets go of deletions that nothing older can follow.
func (rs *retained) forget(clock uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for topic, it := range rs.m {
		if it.rec == nil && it.clock < clock {
			delete(rs.m, topic)
		}
	}
}

// restoreRetained reads what the nodes' state logs have. Each says what was in its own messages log.
func (b *Broker) restoreRetained() error {
	for _, v := range b.state.versions(retainedKey, true) {
		topic := v.key[len(retainedKey):]
		it := retainedItem{item: item{at: cursor{Node: v.node}}, clock: v.rank}
		if !v.gone {
			var err error
			if it, err = b.parseRetained(v.value); err != nil {
				b.log.Error("a retained message cannot be read", "topic", topic, "err", err)
				continue
			}
		}
		if old, had := b.retained.m[topic]; !had || old.newer(it.at, it.clock) {
			b.retained.put(topic, it)
		}
	}
	return nil
}

func (b *Broker) parseRetained(value []byte) (retainedItem, error) {
	batch, err := DecodeBatch(value)
	if err != nil {
		return retainedItem{}, err
	}
	if len(batch.Records) != 1 {
		return retainedItem{}, fmt.Errorf("%d messages where one is kept", len(batch.Records))
	}
	r := &batch.Records[0]
	it := retainedItem{item: item{rec: r, at: cursor(r.At), stored: true, retain: true}, clock: batch.Lamport}
	if r.At == (Position{}) { // written before there were other nodes: the index stood in the clock's field
		it.at, it.clock = cursor{b.cfg.Node.Name, batch.Number, uint32(batch.Lamport)}, 0
	}
	r.At = Position{}
	return it, nil
}

// retain enters a stored record; called in log order, and again on replay.
func (b *Broker) retain(r *Record, at cursor, clock uint64) {
	if !r.Retain {
		return
	}
	rs := b.retained
	next := retainedItem{item: item{at: at}, clock: clock}
	if len(r.Payload) > 0 { // else it deletes [MQTT-3.3.1-6]
		own := *r // its own memory: the batch's would be kept for one message
		own.Payload, own.Properties = slices.Clone(r.Payload), slices.Clone(r.Properties)
		next.item = item{rec: &own, at: at, stored: true, retain: true}
	}
	rs.mu.Lock()
	old, had := rs.m[r.Topic]
	if had && !old.newer(at, clock) {
		rs.mu.Unlock()
		return
	}
	if rs.put(r.Topic, next); next.rec == nil && b.alone() {
		delete(rs.m, r.Topic)
	}
	rs.mu.Unlock()
	if at.Node != b.cfg.Node.Name {
		return // its writer keeps it
	}
	if next.rec != nil || had || !b.alone() {
		b.keepRetained(retainedEntry(r.Topic, next), r.Topic)
	}
}

// retainedEntry is a topic's newest message, or that there is none, for the state store. What
// ranks it there is its clock, and not when it came to be written.
func retainedEntry(topic string, it retainedItem) entry {
	if it.rec == nil {
		return entry{rec: &Record{Kind: KindDelete, Topic: retainedKey + topic, Rank: it.clock, Clock: 1}}
	}
	own := *it.rec
	own.At = Position(it.at)
	h := Header{Number: it.at.Batch, Lamport: it.clock, Time: own.Arrival, Node: it.at.Node}
	return entry{rec: &Record{Kind: KindPut, Topic: retainedKey + topic, Rank: it.clock, Clock: 1, Payload: AppendBatch(nil, h, []Record{own})}}
}

// keepRetained writes a change to the state store. What that refuses is tried again with the next
// checkpoint, which is not made before.
func (b *Broker) keepRetained(e entry, topic string) {
	e.done = func(_ Position, err error) {
		if err != nil {
			b.unsaved.Store(topic, struct{}{})
		}
	}
	if err := b.state.w.submit(e); err != nil {
		b.unsaved.Store(topic, struct{}{})
	}
}

// saveRetained writes what the state store refused before.
func (b *Broker) saveRetained(ctx context.Context) (err error) {
	b.unsaved.Range(func(key, _ any) bool {
		topic := key.(string)
		b.unsaved.Delete(topic)
		b.retained.mu.RLock()
		it := b.retained.m[topic]
		b.retained.mu.RUnlock()
		if err = b.state.w.put(ctx, retainedEntry(topic, it).rec); err != nil {
			b.unsaved.Store(topic, struct{}{})
		}
		return err == nil
	})
	return err
}
