package broker

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
)

// inboundIDs is the QoS 2 packet ids that clients of other nodes began and ended since those nodes'
// last checkpoints: what is older is in the sessions' cursors. When a node dies, who takes over one of
// its sessions enters what the cursor does not know.
type inboundIDs struct {
	mu sync.Mutex
	m  map[string][]inboundID // by node, in the order of its log
}

type inboundID struct {
	client  string
	epoch   uint64
	id      uint16
	release bool
	at      cursor
}

// add notes a record of another node's log.
func (i *inboundIDs) add(r *Record, at cursor) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.m == nil {
		i.m = map[string][]inboundID{}
	}
	i.m[at.Node] = append(i.m[at.Node], inboundID{strings.Clone(r.Client), r.Epoch, r.PacketID, r.Kind == KindRelease, at})
}

// settled forgets what a node's checkpoint covers; it watches the state for them.
func (i *inboundIDs) settled(st *stateStore) func(key string) {
	return func(key string) {
		v, known := st.version(key)
		var c checkpointRecord
		if !known || v.gone || json.Unmarshal(v.value, &c) != nil {
			return
		}
		upTo := c.UpTo.of(v.node)
		i.mu.Lock()
		defer i.mu.Unlock()
		ids := i.m[v.node]
		n := 0
		for n < len(ids) && ids[n].at.before(upTo) {
			n++
		}
		if n > 0 {
			i.m[v.node] = slices.Clone(ids[n:])
		}
	}
}

// enter brings a session that a node has left up to the end of that node's log.
func (i *inboundIDs) enter(s *session, node string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range i.m[node] {
		if x.client != s.id || x.epoch != s.epoch || s.recvAt.past(x.at) {
			continue
		}
		if x.release {
			delete(s.recv, x.id)
		} else {
			s.received(x.id, true)
		}
	}
}
