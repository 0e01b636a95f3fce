package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// errNewLife: the node whose log was to be fenced has begun anew. Its incarnation record ends the old
// life as a fence would.
var errNewLife = errors.New("the node has begun a new life")

// fence ends a life of another node's log: behind the fence nothing of that life can be stored, because
// the writer sends each batch for a certain slot, and the slot is taken. It returns where the fence stands,
// also if another node was first; a log without any batch needs none, and the position is then zero.
//
// Left, if any, says what is to stand in the fence's batch, given the number of the log's last batch: what ends
// the log's holds. What there is more of it goes into another fence behind the first.
//
// Life is the incarnation to end, 0 for the present one. Stamp gives the fence's Incarnation (random),
// Lamport (fence goes above it and above the log's) and Time. It tries until ctx ends: while the log has no
// leader, nothing can be stored in it.
func (e *engine) fence(ctx context.Context, kind, node string, life uint64, stamp Header, left leftFunc) (Position, error) {
	s := e.logOf(kind, node)
	for {
		at, life2, err := s.tryFence(ctx, life, stamp, left)
		if errors.Is(err, errMoreLeft) {
			continue
		}
		if err == nil || errors.Is(err, errNewLife) || errors.Is(err, errNoStream) {
			return at, err
		}
		life = life2
		e.log.Debug("a log is not fenced yet", "log", kind, "of", node, "err", err)
		if !pause(ctx, retryPause) {
			return Position{}, fmt.Errorf("fence the %s log of %s: %w", kind, node, err)
		}
	}
}

type leftFunc func(ctx context.Context, last uint64) (leftover, error)

// leftover is what is to stand in a fence's batch.
type leftover struct {
	recs  []Record
	clock uint64 // the highest of what they are to be read behind
	more  bool   // there is more of it
}

// errMoreLeft: a fence is there, and not yet all that belongs to it.
var errMoreLeft = errors.New("there is more to write behind the fence")

// tryFence is one attempt; it returns the life that is to be ended, too.
func (s *logStream) tryFence(ctx context.Context, life uint64, stamp Header, left leftFunc) (Position, uint64, error) {
	end, err := findEnd(ctx, s, s.node, s.e.log)
	if err != nil {
		return Position{}, life, err
	}
	var over leftover
	if left != nil && end.Number > 0 && (end.fenced || life == 0 || end.Incarnation == life) {
		if over, err = left(ctx, end.Number); err != nil {
			return Position{}, life, err
		}
	}
	switch at := (Position{Node: s.node, Batch: end.Number}); {
	case end.Number == 0 || end.fenced && len(over.recs) == 0:
		return at, life, nil
	case end.fenced:
	case life == 0:
		life = end.Incarnation
	case end.Incarnation != life:
		return at, life, errNewLife
	}
	h := Header{Incarnation: stamp.Incarnation, Number: end.Number + 1, Lamport: max(end.Lamport, stamp.Lamport, over.clock) + 1, Time: stamp.Time, Age: end.Age, Node: s.node}
	data := AppendBatch(nil, h, append([]Record{{Kind: KindFence, Arrival: stamp.Time, At: Position{Node: s.e.cfg.node}}}, over.recs...))
	id := "fence-" + strconv.FormatUint(stamp.Incarnation, 16) + "-" + strconv.FormatUint(h.Number, 16)
	answer, err := s.send(end.slot+1, id, data)
	if err != nil {
		return Position{}, life, err
	}
	t := time.NewTimer(s.e.patience())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return Position{}, life, ctx.Err()
	case <-t.C:
		return Position{}, life, fmt.Errorf("%w: the fence is in doubt", errEngine)
	case r := <-answer:
		if r.err != nil || r.seq != end.slot+1 {
			return Position{}, life, fmt.Errorf("the fence is in doubt (slot %d): %w", r.seq, errors.Join(r.err, errEngine))
		}
	}
	s.e.log.Info("the log of a node that is gone is closed", "log", s.kind, "of", s.node, "batch", h.Number)
	if s.e.clustered() {
		if err := s.e.publish(logSubject(s.kind, s.node), data); err != nil {
			s.e.log.Debug("a fence was not announced", "err", err)
		}
	}
	if over.more {
		return Position{}, life, errMoreLeft
	}
	return Position{Node: s.node, Batch: h.Number}, life, nil
}
