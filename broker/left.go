package broker

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The node that fences a dead node's log ends that log's holds with the fence: the records stand in the
// fence's batch, so either nobody has delivered what was held, or everybody knows.
const (
	leftAtOnce = 4096             // deliver records in one fence
	leftWait   = 15 * time.Second // for the ends of the logs that they wait for; then they wait no longer
)

// errNotRead: the log has more than this node has read.
var errNotRead = errors.New("the log has not been read to its end here")

// left is what ends the holds in a dead node's log, whose last batch is given.
func (g *guard) left(ctx context.Context, node string, last uint64) (out leftover, err error) {
	b := g.b
	if at := b.peers.get(node); at != nil && at.messages.end() <= last {
		at.messages.upTo(last)
		return out, fmt.Errorf("%w: batch %d of %d", errNotRead, at.messages.end(), last)
	}
	runs := b.held.list(node)
	if len(runs) == 0 {
		delete(g.waits, node)
		return out, nil
	}
	since, waits := g.waits[node]
	if !waits {
		since = b.mono()
		g.waits[node] = since
	}
	patient := b.mono()-since < leftWait
	reader := lateReader{t: b.tail}
	late := map[string]*lateRecords{}
	for _, run := range runs {
		if out.more = len(out.recs) > leftAtOnce; out.more {
			break
		}
		if late[run.client] == nil {
			late[run.client] = &lateRecords{}
		}
		var one []Record
		if one, out.more, err = g.leftOf(ctx, node, run, late[run.client], &reader, patient); err != nil {
			return leftover{}, err
		}
		if out.recs = append(out.recs, one...); out.more {
			break
		}
	}
	out.clock = b.clock() // the ends that they waited for have been read
	return out, nil
}

// leftOf is what ends one run. Late is what the runs of the client before it have left.
func (g *guard) leftOf(ctx context.Context, node string, run heldRun, late *lateRecords, reader *lateReader, patient bool) (out []Record, more bool, err error) {
	b := g.b
	for _, w := range run.origins {
		end, err := g.originEnd(ctx, node, run, w.From)
		switch {
		case err != nil && patient:
			return nil, false, err
		case err != nil || end == 0:
			continue
		}
		o := origin{node: w.From.Node, from: w.From.Batch, ids: w.IDs, end: end}
		if err := reader.enter(ctx, late, run.client, o, b.held.later(o.node, run)); err != nil {
			return nil, false, err
		}
		if o.node != node {
			out = append(out, Record{Kind: KindBarrier, Client: run.client, At: b.held.behind(o.node, end)})
		}
	}
	if more = len(run.items) > leftAtOnce; more {
		run.items = run.items[:leftAtOnce]
	}
	delivers, err := b.delivers(ctx, run.client, run.items, late)
	for _, r := range delivers {
		out = append(out, *r)
	}
	return out, more, err
}

// originEnd is where a log ends that a run in a dead node's log waits for; 0 if there is nothing to wait for. An error
// says that it is not known, or not read here.
func (g *guard) originEnd(ctx context.Context, node string, run heldRun, from cursor) (end uint64, err error) {
	b := g.b
	switch {
	case from.Node == node: // what the client had in this log before
		return run.at.Batch, nil
	case from.Node != b.cfg.Node.Name && b.peers.get(from.Node) == nil:
		return 0, nil
	}
	end = b.held.endBehind(from.Node, from.Batch) + 1
	if end == 1 && from.Node == b.cfg.Node.Name {
		end, err = b.endFor(ctx, endRequest{run.client, node, run.at.Batch})
	} else if end == 1 {
		end, err = b.peers.askEnd(ctx, from.Node, endRequest{run.client, node, run.at.Batch})
	}
	if err == nil && b.tail.end().of(from.Node).Batch < end {
		err = errNotRead
	}
	if err == nil && b.held.waits(from.Node, end, run) {
		err = errHeld
	}
	if err != nil {
		return 0, fmt.Errorf("messages of %q wait for the end of the log of %s: %w", run.client, from.Node, err)
	}
	return end, nil
}
