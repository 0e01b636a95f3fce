package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	for i, run := range runs {
		if out.more = len(out.recs) > leftAtOnce; out.more {
			break
		}
		if !slices.ContainsFunc(runs[:i], func(r heldRun) bool { return r.client == run.client }) {
			var one []Record
			if one, out.more, err = g.leftOf(ctx, node, run.client, runs[i:], &reader, patient); err != nil {
				return leftover{}, err
			}
			if out.recs = append(out.recs, one...); out.more {
				break
			}
		}
	}
	out.clock = b.clock() // the ends that they waited for have been read
	return out, nil
}

// leftOf is what ends the holds of one client.
func (g *guard) leftOf(ctx context.Context, node, client string, runs []heldRun, reader *lateReader, patient bool) (out []Record, more bool, err error) {
	b, late := g.b, &lateRecords{}
	var items []cursor
	for _, run := range runs {
		if run.client != client {
			continue
		}
		items = append(items, run.items...)
		for _, from := range run.origins {
			end, err := g.originEnd(ctx, node, client, run.at.Batch, from)
			switch {
			case err != nil && patient:
				return nil, false, err
			case err != nil || end == 0:
				continue
			}
			if err := reader.enter(ctx, late, client, origin{node: from.Node, from: from.Batch, end: end}); err != nil {
				return nil, false, err
			}
			out = append(out, Record{Kind: KindBarrier, Client: client, At: b.held.behind(from.Node, end)})
		}
	}
	if more = len(items) > leftAtOnce; more {
		items = items[:leftAtOnce]
	}
	delivers, err := b.delivers(ctx, client, items, late)
	for _, r := range delivers {
		out = append(out, *r)
	}
	return out, more, err
}

// originEnd is where a log ends that messages of a client wait for, which are held in a dead node's log since a
// batch; 0 if there is nothing to wait for. An error says that it is not known, or not read here.
func (g *guard) originEnd(ctx context.Context, node, client string, since uint64, from cursor) (end uint64, err error) {
	b := g.b
	if from.Node == node || from.Node != b.cfg.Node.Name && b.peers.get(from.Node) == nil {
		return 0, nil
	}
	end = b.held.endBehind(from.Node, from.Batch) + 1
	if end == 1 && from.Node == b.cfg.Node.Name {
		end, err = b.endFor(ctx, endRequest{client, node, since})
	} else if end == 1 {
		end, err = b.peers.askEnd(ctx, from.Node, endRequest{client, node, since})
	}
	if err == nil && b.tail.end().of(from.Node).Batch < end {
		err = errNotRead
	}
	if err == nil && b.held.waits(from.Node, client, end, node) {
		err = errHeld
	}
	if err != nil {
		return 0, fmt.Errorf("messages of %q wait for the end of the log of %s: %w", client, from.Node, err)
	}
	return end, nil
}
