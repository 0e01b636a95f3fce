package broker

import (
	"context"
	"sync"

	"holdfast/broker/mqtt"
)

const retainedKey = "retained/"

// retained is the newest retained message of each topic. It follows from the log; what the log
// no longer has is in the state store.
type retained struct {
	mu sync.RWMutex
	m  map[string]item
}

func newRetained() *retained { return &retained{m: map[string]item{}} }

func (rs *retained) get(topic string) (item, bool) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	it, ok := rs.m[topic]
	return it, ok
}

// matching returns the retained messages of a filter.
func (rs *retained) matching(filter string) []item {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	if it, ok := rs.m[filter]; ok {
		return []item{it}
	}
	var its []item
	for topic, it := range rs.m {
		if mqtt.Match(filter, topic) {
			its = append(its, it)
		}
	}
	return its
}

// restoreRetained reads what the state store has.
func (b *Broker) restoreRetained() error {
	return b.state.Each(retainedKey, func(key string, value []byte) error {
		batch, err := DecodeBatch(value)
		if err != nil || len(batch.Records) != 1 {
			b.log.Error("a retained message cannot be read", "topic", key[len(retainedKey):], "err", err)
			return nil
		}
		at := cursor{batch.Number, uint32(batch.Lamport)}
		b.retained.m[key[len(retainedKey):]] = item{rec: &batch.Records[0], at: at, stored: true, retain: true}
		return nil
	})
}

// retain enters a stored record; called in log order, and again on replay.
func (b *Broker) retain(r *Record, at cursor) {
	if !r.Retain || r.Kind != KindMessage {
		return
	}
	rs := b.retained
	rs.mu.Lock()
	old, had := rs.m[r.Topic]
	if had && at.before(old.at) {
		rs.mu.Unlock()
		return
	}
	if len(r.Payload) == 0 { // [MQTT-3.3.1-6]
		delete(rs.m, r.Topic)
		rs.mu.Unlock()
		if had {
			b.keepRetained(entry{rec: &Record{Kind: KindDelete, Topic: retainedKey + r.Topic}}, r.Topic)
		}
		return
	}
	own := *r // its own memory: the batch's would be kept for one message
	own.Payload = append([]byte(nil), r.Payload...)
	own.Properties = append([]byte(nil), r.Properties...)
	rs.m[r.Topic] = item{rec: &own, at: at, stored: true, retain: true}
	rs.mu.Unlock()
	b.keepRetained(entry{rec: b.retainedRecord(&own, at)}, r.Topic)
}

func (b *Broker) retainedRecord(r *Record, at cursor) *Record {
	// The index stands in the header's Lamport field: a batch of one needs no clock.
	h := Header{Number: at.Batch, Lamport: uint64(at.Index), Time: r.Arrival, Node: b.cfg.Node.Name}
	return &Record{Kind: KindPut, Topic: retainedKey + r.Topic, Payload: AppendBatch(nil, h, []Record{*r})}
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
		if it, ok := b.retained.get(topic); ok {
			err = b.state.w.put(ctx, b.retainedRecord(it.rec, it.at))
		} else {
			err = b.state.Delete(ctx, retainedKey+topic)
		}
		if err != nil {
			b.unsaved.Store(topic, struct{}{})
		}
		return err == nil
	})
	return err
}
