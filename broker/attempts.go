package broker

import (
	"context"
	"sync"
)

// attempts is the CONNECTs at this node that are being answered. Of two CONNECTs of one client at two nodes, that at
// the node with the higher name goes on.
type attempts struct {
	mu   sync.Mutex
	last attemptID
	m    map[string]*attempt
}

type attempt struct {
	id     attemptID
	cancel context.CancelCauseFunc // nil: it has asked, and is given up no more
}

// attemptID counts a node's attempts. One that was given up is void: a question of it may still be on its way, and
// must not end the connection for which it was given up.
type attemptID struct {
	Life uint64 `json:"life,omitempty"` // of the node
	N    uint64 `json:"n,omitempty"`
}

// voids says whether an attempt is this one or an earlier one of the same node.
func (id attemptID) voids(other attemptID) bool {
	return id.N > 0 && id.Life == other.Life && other.N <= id.N
}

// begin notes an attempt that asks the other nodes now.
func (a *attempts) begin(client string, life uint64, cancel context.CancelCauseFunc) attemptID {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[string]*attempt{}
	}
	a.last = attemptID{life, a.last.N + 1}
	a.m[client] = &attempt{a.last, cancel}
	return a.last
}

// asked: the attempt has its answers, and goes on to its end.
func (a *attempts) asked(client string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.m[client]; at != nil {
		at.cancel = nil
	}
}

func (a *attempts) end(client string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.m, client)
}

// yield decides between a CONNECT here and one of the same client on another node. It says whether the other may
// go on, and which attempt here is given up for it.
func (a *attempts) yield(client, own, other string) (yes bool, void attemptID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.m[client]
	switch {
	case at == nil:
		return true, void
	case other < own:
		return false, void
	case at.cancel == nil: // it will be taken over when it is done
		return true, void
	}
	at.cancel(errElsewhere)
	return true, at.id
}
