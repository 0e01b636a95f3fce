package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// The log copy: growth from one node, backup and restore, and the way back to one node are all the same.
// Batches are copied byte for byte under the numbers that they have, so every position that a session, the
// ledger or an administrator has noted stays what it was. A copy that was interrupted goes on where it ended.

// logSource is a log that is copied: slots, of which the first ones may go while it is read.
type logSource interface {
	bounds(ctx context.Context) (first, last uint64, bytes int64, err error)
	read(ctx context.Context, slot uint64) ([]byte, error)
}

// logSink is where it is copied to.
type logSink interface {
	logSource
	send(slot uint64, id string, data []byte) (<-chan sendResult, error)
	// purge forgets what is before a slot; behind the end it makes that slot the next one.
	purge(ctx context.Context, slot uint64) error
}

const (
	copyWindow   = 16      // batches on their way
	copyBytes    = 4 << 20 // and bytes
	copyPatience = 10 * time.Second
)

// placeholder stands in the copy where the source has lost a batch: readers count it as damaged, as before.
var placeholder = []byte("a batch that was lost before the log was copied")

// logCopy copies one log.
type logCopy struct {
	from logSource
	to   logSink
	name string // for messages
	log  *slog.Logger

	have, of atomic.Uint64 // batches
}

// progress is how far it is.
func (c *logCopy) progress() copied { return copied{Have: c.have.Load(), Of: c.of.Load()} }

// run copies until the sink has everything that the source had at some time since the call. It tries again
// and again what fails, until ctx ends.
func (c *logCopy) run(ctx context.Context) error {
	for said := (time.Time{}); ; {
		err := c.once(ctx)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if errors.Is(err, errOtherLog) {
			return err
		}
		if time.Since(said) > 10*time.Second { // for people, not for order
			c.log.Warn("the copy of a log does not go on", "log", c.name, "err", err)
			said = time.Now()
		}
		if !pause(ctx, retryPause) {
			return fmt.Errorf("copy the log %s: %w: %w", c.name, ctx.Err(), err)
		}
	}
}

// errOtherLog: what is there is no copy of this log.
var errOtherLog = errors.New("there is another log in its place")

// once copies what is missing, from behind what is there.
func (c *logCopy) once(ctx context.Context) error {
	first, last, _, err := c.from.bounds(ctx)
	if err != nil {
		return err
	}
	first = max(first, 1)
	have, next, err := c.resume(ctx, first, last)
	if err != nil {
		return err
	}
	total := last + 1 - min(first, last+1)
	c.of.Store(total)
	c.have.Store(have)
	var way []<-chan sendResult // in order
	var sizes []int
	bytes := 0
	landed := func() error {
		select {
		case r := <-way[0]:
			if want := next - uint64(len(way)); r.err != nil || r.seq != want {
				return fmt.Errorf("batch in slot %d: stored in %d: %w", want, r.seq, errors.Join(r.err, errEngine))
			}
		case <-time.After(copyPatience):
			return fmt.Errorf("%w: no answer for slot %d", errEngine, next-uint64(len(way)))
		case <-ctx.Done():
			return ctx.Err()
		}
		bytes -= sizes[0]
		way, sizes = way[1:], sizes[1:]
		c.have.Add(1)
		return nil
	}
	for next <= last {
		data, err := c.from.read(ctx, next)
		switch {
		case errors.Is(err, errTrimmed): // while it was copied: the next attempt begins behind it
			return fmt.Errorf("slot %d: %w", next, err)
		case errors.Is(err, errNoSlot):
			data = placeholder
		case err != nil:
			return err
		}
		id := fmt.Sprintf("copy-%d", next)
		answer, err := c.to.send(next, id, data)
		if err != nil {
			return err
		}
		way, sizes, bytes, next = append(way, answer), append(sizes, len(data)), bytes+len(data), next+1
		for len(way) >= copyWindow || bytes > copyBytes && len(way) > 0 {
			if err := landed(); err != nil {
				return err
			}
		}
	}
	for len(way) > 0 {
		if err := landed(); err != nil {
			return err
		}
	}
	return nil
}

// resume finds where the copy goes on, and gives it the source's numbers where it has nothing of them.
func (c *logCopy) resume(ctx context.Context, first, last uint64) (have, next uint64, err error) {
	toFirst, toLast, _, err := c.to.bounds(ctx)
	if err != nil {
		return 0, 0, err
	}
	if toLast > last {
		return 0, 0, fmt.Errorf("%w: the copy of %s has %d slots, the log %d", errOtherLog, c.name, toLast, last)
	}
	if toLast+1 < first || toLast < toFirst && toLast+1 != first {
		if err := c.to.purge(ctx, first); err != nil {
			return 0, 0, err
		}
		if _, toLast, _, err = c.to.bounds(ctx); err != nil {
			return 0, 0, err
		}
		if toLast+1 != first {
			return 0, 0, fmt.Errorf("%w: the copy of %s goes on at slot %d instead of %d", errEngine, c.name, toLast+1, first)
		}
		return 0, first, nil
	}
	return toLast + 1 - max(min(toFirst, toLast+1), first), toLast + 1, c.same(ctx, toFirst, toLast, first)
}

// same compares the last batch that both have.
func (c *logCopy) same(ctx context.Context, toFirst, toLast, first uint64) error {
	if toLast < toFirst || toLast < first || toLast == 0 {
		return nil
	}
	a, err := c.from.read(ctx, toLast)
	if errors.Is(err, errNoSlot) || errors.Is(err, errTrimmed) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := c.to.read(ctx, toLast)
	if err != nil {
		return err
	}
	if string(a) != string(b) {
		return fmt.Errorf("%w: slot %d of %s differs", errOtherLog, toLast, c.name)
	}
	return nil
}
