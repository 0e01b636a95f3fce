package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// This file is about a cluster in which most nodes have lost their copies of the logs: two empty disks of three. What is
// left has no quorum, and what was stored last may have been on the disks that are gone; so nobody goes on by itself.
// Every node says which of them still have copies. When an administrator has said on one of those (asItIs) that there
// will be no others, the nodes without a copy step aside: they only listen (awaitOthers). When all of them do, the chosen
// one leads the engines with the votes of the copies that are left, and takes the lost stores out, so that these votes are
// a quorum again. Then the others join it with new stores. Were they there before, the engines would count them, and the
// one with the copy would agree on things by itself that another leader does not have.

// lastCopyEvery is between two looks for the administrator's word.
const lastCopyEvery = time.Second

// hasCopy says that what a node has counts: it belongs to the cluster, and its store is neither new nor damaged.
func (m beat) hasCopy() bool { return m.Founded && !m.Empty && !m.Healing }

// copies are the nodes of a table that have copies of the logs, and all that were heard.
func copies(table []member) (whole, heard []string) {
	for _, m := range table {
		if !m.Heard {
			continue
		}
		heard = append(heard, m.Node)
		if m.hasCopy() {
			whole = append(whole, m.Node)
		}
	}
	return whole, heard
}

// errCopiesLost is why a cluster whose nodes are all there stores nothing.
var errCopiesLost = errors.New("too few nodes have copies of the logs")

// copiesLost says that the nodes which are there cannot go on, because too few of them have copies; nil if that is not so.
func (b *Broker) copiesLost() error {
	if b.peers == nil || !b.founded.Load() {
		return nil
	}
	size := len(b.cfg.Cluster.Peers) + 1
	whole, heard := copies(b.peers.members.list())
	if 2*len(whole) > size || 2*len(heard) <= size {
		return nil
	}
	if v, err := b.engine.view(); err != nil || v.leader != "" {
		return nil // new nodes beside a quorum
	}
	return fmt.Errorf("%w: of %d nodes %s, the others have begun with an empty or a damaged store. Put back the disks of those others if you have them. "+
		"If not: with all %d nodes running make an empty file jetstream/%s in the data_dir of one that has a copy; it then goes on with that, and what only the lost ones had is lost",
		errCopiesLost, size, orNone(whole), size, asItIs)
}

func orNone(names []string) string {
	switch len(names) {
	case 0:
		return "none has one"
	case 1:
		return "only " + names[0] + " has one"
	}
	return "only " + strings.Join(names, ", ") + " have one"
}

// chosen says that an administrator has said that this node's copy is the one to go on with.
func (b *Broker) chosen() bool {
	_, err := os.Stat(filepath.Join(b.cfg.Node.DataDir, "jetstream", asItIs))
	return !errors.Is(err, fs.ErrNotExist)
}

// lastCopy goes on with this node's copy when an administrator says so, until ctx ends.
func (b *Broker) lastCopy(ctx context.Context) {
	said := ""
	for pause(ctx, lastCopyEvery) {
		b.disk.chosen.Store(b.chosen())
		if err := b.useLastCopy(ctx); err != nil && err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			b.log.Warn("the cluster cannot go on with the copy that was chosen yet", "err", err)
		}
	}
}

// useLastCopy is this node's next step on the way. It does nothing where no copy was chosen, or there are enough.
func (b *Broker) useLastCopy(ctx context.Context) error {
	own, table := b.cfg.Node.Name, b.peers.members.list()
	at := slices.IndexFunc(table, func(m member) bool { return m.Heard && m.Chosen && (m.hasCopy() || m.Node == own) })
	if at < 0 {
		return nil
	}
	if b.disk.empty.Load() {
		if b.disk.healed.Load() && b.copiesLost() != nil { // else it has, and joins now
			b.spoil(fmt.Errorf("%w: it began empty, and the cluster goes on with the copy of node %s", errStoreDamaged, table[at].Node))
		}
		return nil
	}
	v, err := b.engine.view()
	if err != nil || v.leader != "" && !v.self {
		return err
	}
	votes, err := lastVotes(own, table, len(b.cfg.Cluster.Peers)+1)
	switch {
	case err != nil || votes == 0:
		return err
	case v.leader == "" && table[at].Node == own:
		b.log.Error("an administrator has said that this node's copy of the logs is to be used, and most others have none: the cluster goes on with it", "votes", votes)
		return b.engine.rescue(votes)
	case v.leader == "":
		return nil
	}
	return b.engine.dropLost(ctx, table)
}

// lastVotes is how many nodes have copies when that is too few for a quorum and everybody is there to say so; 0: there are
// enough.
func lastVotes(self string, table []member, size int) (int, error) {
	whole, heard := copies(table)
	switch {
	case len(heard) < size:
		return 0, fmt.Errorf("of %d nodes only these are there: %s; start the others as well, those that have lost their disks with empty ones", size, strings.Join(heard, ", "))
	case 2*len(whole) > size:
		return 0, nil
	case !slices.Contains(whole, self):
		return 0, errors.New("this node has no copy of the logs to go on with: use one that has")
	}
	for _, m := range table {
		if m.Heard && !m.hasCopy() && !m.Listens {
			return 0, fmt.Errorf("node %s has no copy, and still to step aside", m.Node)
		}
	}
	return len(whole), nil
}

// rescue lets the engines elect a leader with so few votes, for some minutes. An engine whose store is empty refuses.
func (e *engine) rescue(votes int) error {
	e.mu.RLock()
	sys := e.sys
	e.mu.RUnlock()
	if sys == nil {
		return errEngine
	}
	req, err := json.Marshal(server.JSApiMetaRescueRequest{QuorumNeeded: votes})
	if err == nil {
		err = sys.Publish(server.JSApiMetaRescue, req) // every engine hears it and says in its log what it does
	}
	if err != nil {
		return fmt.Errorf("go on with %d votes: %w", votes, err)
	}
	return nil
}

// dropLost takes the stores that are gone out of the engines' cluster: all that no node uses now. With the last one the votes
// that are left are a quorum, and the engine ends the rescue.
func (e *engine) dropLost(ctx context.Context, table []member) error {
	v, err := e.view()
	if err != nil || !v.self {
		return err
	}
	used := map[string]bool{e.cfg.id: true}
	for _, m := range table {
		if m.Heard && !m.Listens {
			used[m.ID] = true
		}
	}
	for _, p := range v.peers {
		if used[p.id] || !p.offline {
			continue
		}
		if err := e.removeServer(ctx, map[string]string{"peer_id": p.peer}); err != nil {
			return err
		}
		e.log.Warn("a lost store was taken out of the cluster", "peer", p.peer, "node", p.node, "id", p.id)
	}
	return nil
}
