package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// logEnd is where a log ends: the header of its last batch, or of an empty log only the slot.
type logEnd struct {
	Header
	slot   uint64
	fenced bool // the last batch is a fence
}

// findEnd finds the last batch of a log. Batches behind the last one that can be read count too.
func findEnd(ctx context.Context, s slots, node string, log *slog.Logger) (logEnd, error) {
	first, last, _, err := s.bounds(ctx)
	if err != nil {
		return logEnd{}, err
	}
	if last < first || last == 0 {
		return logEnd{slot: last}, nil
	}
	for slot := last; slot >= first; slot-- {
		data, err := s.read(ctx, slot)
		var b *Batch
		if err == nil {
			b, err = DecodeBatch(data)
		}
		switch {
		case errors.Is(err, errNoSlot) || errors.Is(err, ErrBatchDamaged):
			log.Error("a batch at the end of the log cannot be read", "slot", slot, "err", err)
			continue
		case err != nil:
			return logEnd{}, fmt.Errorf("read the end of the log (slot %d): %w", slot, err)
		case b.Node != node:
			return logEnd{}, fmt.Errorf("the log here was written by node %q, this is %q: give the node its old name or another data_dir", b.Node, node)
		}
		end := logEnd{Header: b.Header, slot: last, fenced: slot == last && b.isFence()}
		end.Number += last - slot
		end.Lamport += last - slot
		return end, nil
	}
	return logEnd{}, fmt.Errorf("the log has %d batches and none of them can be read: restore data_dir from a backup, or move it away to begin anew", last-first+1)
}

func (b *Batch) isFence() bool { return len(b.Records) > 0 && b.Records[0].Kind == KindFence }
