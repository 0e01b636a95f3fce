package broker

import (
	"encoding/json"
	"strings"
	"sync"
)

// inboundIDs is the QoS 2 packet ids that clients of other nodes began and ended since those nodes'
// last checkpoints: what is older is in the sessions' cursors. When a node dies, who takes over one of
// its sessions enters what the cursor does not know. Of each id only the last record counts, so there
// are never more of them than the clients have ids in use between two checkpoints.
type inboundIDs struct {
	mu   sync.Mutex
	m    map[string]map[string]map[inboundKey]inboundID // by node and client
	last map[string]cursor                              // by node: everything up to this record has been noted
}

// inboundKey is a QoS 2 packet id of a session.
type inboundKey struct {
	epoch uint64
	id    uint16
}

type inboundID struct {
	release bool
	at      cursor
}

// add notes a record of another node's log.
func (i *inboundIDs) add(r *Record, at cursor) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.m == nil {
		i.m, i.last = map[string]map[string]map[inboundKey]inboundID{}, map[string]cursor{}
	}
	at.Node = strings.Clone(at.Node)
	if i.last[at.Node].before(at) {
		i.last[at.Node] = at
	}
	clients := i.m[at.Node]
	if clients == nil {
		clients = map[string]map[inboundKey]inboundID{}
		i.m[at.Node] = clients
	}
	ids := clients[r.Client]
	if ids == nil {
		ids = map[inboundKey]inboundID{}
		clients[strings.Clone(r.Client)] = ids
	}
	ids[inboundKey{r.Epoch, r.PacketID}] = inboundID{r.Kind == KindRelease, at}
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
		for client, ids := range i.m[v.node] {
			for k, x := range ids {
				if x.at.before(upTo) {
					delete(ids, k)
				}
			}
			if len(ids) == 0 {
				delete(i.m[v.node], client)
			}
		}
	}
}

// enter brings a session that a node has left up to where that node's log has been read, and says where
// that is: the last record that counts.
func (i *inboundIDs) enter(s *session, node string) cursor {
	i.mu.Lock()
	defer i.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, x := range i.m[node][s.id] {
		if k.epoch != s.epoch || s.recvAt.past(x.at) {
			continue
		}
		delete(s.late, k.id)
		if x.release {
			delete(s.recv, k.id)
		} else {
			s.received(k.id, true)
		}
	}
	return i.last[node]
}
