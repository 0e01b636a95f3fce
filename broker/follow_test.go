package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
)

// moodyLog is a log as it looks while its leader changes.
type moodyLog struct {
	mu   sync.Mutex
	end  uint64             // as its leader has it
	errs func(uint64) error // why a batch is not given; nil: it is
	asks int
}

func (l *moodyLog) batch(_ context.Context, number uint64) (*Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asks++
	if err := l.errs(number); err != nil {
		return nil, err
	}
	return &Batch{Header: Header{Node: "n2", Number: number}, Size: 1}, nil
}

func (l *moodyLog) newest(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end == 0 {
		return 0, errEngine
	}
	return l.end, nil
}

// TestFollowerSkipsNothing: however long a log has no leader, and whatever one says that has just begun to lead
// and does not have all yet, nothing is jumped over. Only what the leader lacks though it has what stands behind
// it is lost, and that is said.
func TestFollowerSkipsNothing(t *testing.T) {
	silence := fmt.Errorf("read: %w", errEngine)
	nothing := fmt.Errorf("read: %w: %w", errDamaged, errNoSlot)
	for _, c := range []struct {
		name  string
		errs  []error // of batch 2, the last one for ever until the leader has all
		end   uint64  // of the log until then
		lost  bool
		forAt int // asks after which the leader has all
	}{
		{"no leader for long, then one that is behind", append(slices.Repeat([]error{silence}, 3*followLimit), nothing), 1, false, 5 * followLimit},
		{"a leader that does not say where the log ends", []error{nothing}, 0, false, 3 * followLimit},
		{"a number that was announced wrongly", []error{nothing}, 1, false, 3 * followLimit},
		{"it is lost", []error{nothing}, 3, true, 1 << 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &moodyLog{end: c.end}
			tries := 0
			l.errs = func(number uint64) error {
				if number != 2 || l.asks > c.forAt {
					return nil
				}
				err := c.errs[min(tries, len(c.errs)-1)]
				tries++
				return err
			}
			var mu sync.Mutex
			var got, lost []uint64
			f := newFollower("n2", l, 1, func(b *Batch) bool {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, b.Number)
				return true
			}, slog.New(slog.DiscardHandler))
			f.wait = time.Microsecond
			f.lost = func(from, _ uint64, err error) {
				if !errors.Is(err, errDamaged) {
					t.Error(err)
				}
				lost = append(lost, from)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { f.run(ctx) })
			f.upTo(3)
			eventually(t, "all is read", func() bool { return f.end() == 4 })
			cancel()
			running.Wait()
			if want := []uint64{1, 2, 3}; !c.lost && (!slices.Equal(got, want) || lost != nil) {
				t.Errorf("took %v, lost %v", got, lost)
			}
			if c.lost && (!slices.Equal(got, []uint64{1, 3}) || !slices.Equal(lost, []uint64{2})) {
				t.Errorf("took %v, lost %v", got, lost)
			}
		})
	}
}
