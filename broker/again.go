package broker

import (
	"errors"
	"fmt"
)

// This file is about a node of a cluster that has to begin anew, because its engine does not recover from what
// happened to its store while it runs.

// ErrAgain is why Run ends when a new Broker on the same data_dir mends what is wrong with this one. Nothing that
// was acknowledged is lost.
var ErrAgain = errors.New("the node has to begin anew")

// beginAgain ends Run with ErrAgain. What waits in the logs' queues cannot be stored any more and is not waited for.
func (b *Broker) beginAgain(why error) {
	err := fmt.Errorf("%w: %w", ErrAgain, why)
	b.unready(err)
	select {
	case b.again <- err:
	default: // it is on its way
	}
}

// cramped looks at the disk, whether or not this node writes: the others' logs fill it as well. At a full disk the engine
// gives up its store and does not take it back.
func (g *guard) cramped() {
	b := g.b
	room := b.engine.room()
	was := b.full.Load()
	switch {
	case room != nil && was == nil:
		b.log.Error("the disk is full: this node is not ready", "err", room)
	case room == nil && was != nil:
		b.log.Info("there is room on the disk again")
	}
	if room == nil {
		b.full.Store(nil)
	} else {
		b.full.Store(&room)
	}
	failed := b.engine.failed()
	if failed != nil && room == nil {
		b.log.Warn("the storage engine has given up its store, and there is room: the node begins anew")
		b.beginAgain(failed)
	}
}

// failed says that the engine of a cluster's node has given up its store.
func (e *engine) failed() error {
	srv := e.server()
	if !e.clustered() || srv == nil || srv.JetStreamEnabled() {
		return nil
	}
	return fmt.Errorf("%w: it has given up its store, as its own log lines say", errEngine)
}
