package broker

import (
	"context"
	"errors"
	"strings"
	"sync"
)

// batchCache keeps the batches that were read last: sessions that resume together read the same. Who wants one that another
// is reading waits for it: hundreds that come back at once would otherwise ask for the same megabytes hundreds of times.
type batchCache struct {
	mu      sync.RWMutex
	m       map[cursor]*Batch
	order   []cursor
	size    int
	reading map[cursor]*batchRead
}

// batchRead is one that is being read; done is closed when b and err are there.
type batchRead struct {
	done chan struct{}
	b    *Batch
	err  error
}

// errReader is what those get who waited for a reader that panicked.
var errReader = errors.New("reading it failed")

func (c *batchCache) get(node string, number uint64) *Batch {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.m[cursor{Node: node, Batch: number}]
}

func (c *batchCache) put(node string, b *Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(cursor{Node: strings.Clone(node), Batch: b.Number}, b)
}

// keep is put for who holds c.mu.
func (c *batchCache) keep(at cursor, b *Batch) {
	if c.m[at] != nil {
		return
	}
	if c.m == nil {
		c.m = map[cursor]*Batch{}
	}
	c.m[at] = b
	c.order, c.size = append(c.order, at), c.size+b.Size
	for c.size > cacheBytes && len(c.order) > 1 {
		c.size -= c.m[c.order[0]].Size
		delete(c.m, c.order[0])
		c.order = c.order[1:]
	}
}

// read is the batch at a place, from memory or from load, which nobody else calls for it at the same time.
func (c *batchCache) read(ctx context.Context, at cursor, load func() (*Batch, error)) (*Batch, error) {
	if b := c.get(at.Node, at.Batch); b != nil {
		return b, nil
	}
	c.mu.Lock()
	if b := c.m[at]; b != nil {
		c.mu.Unlock()
		return b, nil
	}
	if r := c.reading[at]; r != nil {
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.done:
		}
		if errors.Is(r.err, context.Canceled) { // the reader's business has ended, not ours
			return load()
		}
		return r.b, r.err
	}
	r := &batchRead{done: make(chan struct{}), err: errReader}
	at.Node = strings.Clone(at.Node)
	if c.reading == nil {
		c.reading = map[cursor]*batchRead{}
	}
	c.reading[at] = r
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.reading, at)
		if r.err == nil {
			c.keep(at, r.b)
		}
		c.mu.Unlock()
		close(r.done)
	}()
	r.b, r.err = load()
	return r.b, r.err
}
