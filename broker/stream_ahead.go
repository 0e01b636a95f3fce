package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
)

// Who reads a log slot by slot, after a restart for instance, gets many with one question: a question costs more than
// the slot. The more are read in order the more are asked for, so that little is read in vain.
const (
	aheadRows  = 4         // readers at different places of one log that are remembered
	aheadSlots = 256       // that are asked for at once, at most
	aheadBytes = 256 << 10 // and bytes, but for the last slot
)

// ahead is what was read of a log before it was its turn.
type ahead struct {
	mu   sync.Mutex
	rows []*aheadRow // the one that was used last is the last
}

// aheadRow is one reader.
type aheadRow struct {
	next  uint64            // the slot that it reads next if it goes on in order
	run   int               // how many it has read in order
	slots map[uint64][]byte // from next on
}

// take returns a slot that was read ahead, or the reader and how many slots to read now, 1 if it reads here and there.
func (a *ahead) take(seq uint64) (data []byte, row *aheadRow, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := len(a.rows) - 1
	for at >= 0 && a.rows[at].next != seq {
		at--
	}
	switch {
	case at >= 0:
		row = a.rows[at]
		a.rows = append(a.rows[:at], a.rows[at+1:]...)
	case len(a.rows) == aheadRows:
		row = &aheadRow{}
		a.rows = a.rows[1:]
	default:
		row = &aheadRow{}
	}
	a.rows = append(a.rows, row)
	row.next = seq + 1
	row.run++
	data = row.slots[seq]
	delete(row.slots, seq)
	return data, row, min(row.run, aheadSlots)
}

// put keeps for a reader what was read behind a slot.
func (a *ahead) put(row *aheadRow, slots map[uint64][]byte) {
	a.mu.Lock()
	row.slots = slots
	a.mu.Unlock()
}

// many asks any replica for n slots from seq on. It returns those that are there.
func (s *logStream) many(ctx context.Context, seq uint64, n int) (map[uint64][]byte, error) {
	nc, _, err := s.e.conn()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.e.call())
	defer cancel()
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("read slots from %d of %s: %w: %w", seq, s.name, errEngine, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection has ended
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+s.name, inbox, fmt.Appendf(nil, `{"seq":%d,"batch":%d,"max_bytes":%d}`, seq, n, aheadBytes)); err != nil {
		return nil, fmt.Errorf("read slots from %d of %s: %w: %w", seq, s.name, errEngine, err)
	}
	slots := make(map[uint64][]byte, n)
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
			err = errors.Join(errEngine, err)
		}
		if err != nil {
			return slots, fmt.Errorf("read slots from %d of %s: %w", seq, s.name, err)
		}
		if m.Header.Get("Status") != "" { // 204: these were all; 404: there is none
			return slots, nil
		}
		at, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return slots, nil //nolint:nilerr // what its header had is damaged: who reads it by itself finds that out
		}
		slots[at] = m.Data
	}
}
