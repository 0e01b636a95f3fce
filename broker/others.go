package broker

import (
	"context"
	"errors"
	"fmt"
)

// The logs of other nodes in the store of a node that runs alone: it was made from a backup of a cluster. Nobody
// writes them any more; they are read like its own until retention lets them go.

// otherLogs are the nodes that have logs here besides this one.
func (b *Broker) otherLogs() (out []string, err error) {
	nodes, err := b.engine.nodes(b.ctx)
	return without(nodes, []string{b.cfg.Node.Name}), err
}

// readOthersState reads the state logs of other nodes.
func (b *Broker) readOthersState(nodes []string) error {
	for _, node := range nodes {
		s := b.engine.logOf(kindState, node)
		switch _, err := b.state.load(b.ctx, s); {
		case errors.Is(err, errNoStream):
		case err != nil:
			return fmt.Errorf("read the state of node %q: %w", node, err)
		}
	}
	return nil
}

// addOthersLogs brings the messages of other nodes into the tail.
func (b *Broker) addOthersLogs(nodes []string) error {
	for _, node := range nodes {
		r := &logReader{s: b.engine.logOf(kindMessages, node)}
		first, next, _, err := slotOf(b.ctx, r.s)
		if err != nil {
			return fmt.Errorf("open the messages of node %q: %w", node, err)
		}
		b.tail.addLog(newTailLog(node, r, next, first))
		for _, kind := range []string{kindMessages, kindState} {
			end, err := findEnd(b.ctx, b.engine.logOf(kind, node), node, b.log)
			if err != nil && !errors.Is(err, errNoStream) {
				return err
			}
			b.seen(end.Lamport)
		}
	}
	return nil
}

// trimOthers lets go what is older than the oldest message of this node's own log, in the logs of nodes that write
// no more: by the Lamport clock, because their own time stands still. Their ends stay, so that nobody ever writes
// the same numbers again.
func (b *Broker) trimOthers(ctx context.Context) error {
	var nodes []string
	switch {
	case b.peers != nil && b.peers.acts():
		nodes = b.peers.left()
	case b.alone():
		nodes = without(b.tail.nodes(), []string{b.cfg.Node.Name})
	}
	if len(nodes) == 0 {
		return nil
	}
	first, last, _, err := b.stream.bounds(ctx)
	if err != nil || last < first || last == 0 {
		return err
	}
	oldest, err := b.headerOf(ctx, first)
	if err != nil {
		return err
	}
	newest, err := b.headerOf(ctx, last)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		s := b.engine.logOf(kindMessages, node)
		lo, end, _, err := s.bounds(ctx)
		if err != nil || end <= lo {
			continue
		}
		if h, err := clockAt(ctx, s, end); err == nil && h > newest.Lamport { // this node has written nothing since: from now on its age counts
			return b.messages.put(ctx, &Record{Kind: KindTrim, Through: first - b.messages.offset, Arrival: b.steady.now()})
		}
		through := lo
		for bottom, top := lo, end; bottom < top; { // the first that is not older
			middle := bottom + (top-bottom)/2
			if h, err := clockAt(ctx, s, middle); err != nil {
				return err
			} else if h < oldest.Lamport {
				bottom = middle + 1
			} else {
				top = middle
			}
			through = bottom
		}
		if through = min(through, end); through <= lo {
			continue
		}
		if err := s.purge(ctx, through); err != nil {
			return err
		}
		_, _, offset, err := slotOf(ctx, s)
		if err != nil {
			return err
		}
		b.trimmedElsewhere(node, through-offset)
		b.stats.TrimmedBatches.Add(through - lo)
		b.log.Info("the log of a node that is gone was trimmed", "of", node, "batches", through-lo)
	}
	return nil
}

// clockAt is the Lamport clock in a slot; a damaged batch counts as the oldest.
func clockAt(ctx context.Context, s *logStream, slot uint64) (uint64, error) {
	data, err := s.read(ctx, slot)
	if errors.Is(err, errNoSlot) || errors.Is(err, errTrimmed) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	h, err := DecodeHeader(data)
	if err != nil {
		return 0, nil
	}
	return h.Lamport, nil
}
