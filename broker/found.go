package broker

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A cluster is founded once, by all its nodes: before that no node of it makes a log or takes a client. One of
// them may have run alone until then, and have sessions and messages that the others would deny for as long as
// they have not heard of it. A node that comes later, or has lost its store, hears of one that is founded.

// found begins to hear the other nodes, and returns when there is a cluster that this node may take part in.
func (b *Broker) found() error {
	b.peers = newPeers(b)
	b.founded.Store(b.id.Founded)
	b.background(func(ctx context.Context) {
		if err := b.peers.members.run(ctx); err != nil {
			b.log.Error("the other nodes cannot be heard", "err", err)
		}
	})
	b.disk.empty.Store(b.id.Empty)
	b.background(b.lastCopy)
	if b.id.Founded {
		return nil
	}
	b.starting.begin("waiting for the cluster")
	var table []member
	if err := b.peers.members.await(b.ctx, b.log, func(now []member) error {
		table = now
		err := foundable(table, len(b.cfg.Cluster.Peers)+1)
		b.starting.waits(err)
		return err
	}); err != nil {
		return fmt.Errorf("found the cluster: %w", err)
	}
	founders, empty := founding(table, b.id.ID)
	b.id.Founded, b.id.Empty = true, empty
	b.founders.Store(&founders)
	b.disk.empty.Store(empty)
	if err := writeNodeID(filepath.Join(b.cfg.Node.DataDir, "node.id"), b.id); err != nil {
		return err
	}
	b.founded.Store(true)
	return nil
}

// founding says with which stores the cluster begins, as far as this node knows, and whether it may have data that this node's
// own store lacks. A node that hears of the founding a moment later than the others is one of those with whom it was founded:
// nothing was stored before they had heard it.
func founding(table []member, own string) (founders []string, empty bool) {
	for _, m := range table {
		switch {
		case !m.Heard:
		case !m.Founded:
			founders = append(founders, m.ID)
		case slices.Contains(m.Founders, own):
			return m.Founders, false
		default:
			empty = true
		}
	}
	if empty {
		return nil, true
	}
	return founders, false
}

// await returns when a condition on the table holds, or ctx ends. Now and then it says what is waited for.
func (m *members) await(ctx context.Context, log interface{ Info(string, ...any) }, ok func([]member) error) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for said := time.Duration(-1); ; {
		news := m.news()
		err := ok(m.list())
		if err == nil {
			return nil
		}
		if now := m.mono(); said < 0 || now-said > 10*time.Second {
			log.Info("waiting for the cluster", "err", err)
			said = now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-news:
		case <-tick.C:
		}
	}
}

// foundable says why a node that has never been in a cluster of size nodes has to wait, or nil.
func foundable(table []member, size int) error {
	var here []string
	for _, m := range table {
		switch {
		case !m.Heard:
			continue
		case m.Founded:
			return nil
		}
		here = append(here, m.Node)
	}
	if len(here) < size {
		return fmt.Errorf("a new cluster begins when all its nodes have been heard, and of %d these are there: %s", size, strings.Join(here, ", "))
	}
	for _, m := range table {
		if m.Growing {
			return fmt.Errorf("node %s ran alone and brings its logs into the cluster: %s", m.Node, m.Why)
		}
	}
	return nil
}
