package broker

import (
	"cmp"
	"context"
	"slices"
)

// letGoAlone delivers what the logs here still hold back: in the store of a node that runs alone, from a backup or of a
// cluster that is no more, nothing can come up that it waits for. The deliver records stand in this node's own log,
// because the others are written no more. It is over before the first client is served.
func (b *Broker) letGoAlone(ctx context.Context) error {
	var runs []heldRun
	for _, node := range b.tail.nodes() {
		runs = append(runs, b.held.list(node)...)
	}
	// Who holds what waits for another that holds back has said so later.
	slices.SortFunc(runs, func(a, b heldRun) int {
		return cmp.Or(cmp.Compare(a.clock, b.clock), cmp.Compare(a.at.Node, b.at.Node))
	})
	reader := lateReader{t: b.tail}
	late := map[string]*lateRecords{}
	n := 0
	for _, run := range runs {
		if late[run.client] == nil {
			late[run.client] = &lateRecords{}
		}
		if err := b.lateAlone(ctx, run, late[run.client], &reader); err != nil {
			return err
		}
		recs, err := b.delivers(ctx, run.client, run.items, late[run.client])
		if err != nil {
			return err
		}
		for _, r := range recs {
			if err := b.messages.submit(entry{rec: r}); err != nil {
				return err
			}
		}
		n += len(recs)
	}
	if len(runs) == 0 {
		return nil
	}
	if err := b.messages.sync(ctx); err != nil {
		return err
	}
	for client, l := range late {
		b.receivedLate(client, l)
	}
	b.log.Info("messages that waited for the logs of nodes that are no more are delivered", "messages", n, "clients", len(late))
	return nil
}

// lateAlone enters what a run's client has in the logs that the run waits for.
func (b *Broker) lateAlone(ctx context.Context, run heldRun, late *lateRecords, reader *lateReader) error {
	ends := b.tail.end()
	for _, w := range run.origins {
		node := w.From.Node
		if !ends.has(node) { // it left the cluster before
			continue
		}
		end := run.at.Batch
		if node != run.at.Node {
			if err := b.held.look(ctx, b.tail, node, w.From.Batch); err != nil {
				return err
			}
			if end = b.held.endBehind(node, w.From.Batch) + 1; end == 1 {
				end = ends.of(node).Batch
			}
		}
		o := origin{node: node, from: w.From.Batch, ids: w.IDs, end: end}
		if err := reader.enter(ctx, late, run.client, o, b.held.later(node, run)); err != nil {
			return err
		}
	}
	return nil
}
