package uplink

import (
	"context"
	"fmt"
	"time"
)

// settle tells the Source, in batches, what was acknowledged and what is poison. It
// ends with ctx, after a last batch.
func (l *line) settle(ctx context.Context, src Source) {
	for {
		select {
		case <-ctx.Done():
			l.settleOnce(src)
			return
		case <-l.kick:
		}
		if !sleep(ctx, l.tune.ackDelay) { // let a batch gather
			continue
		}
		if !l.settleOnce(src) {
			sleep(ctx, l.tune.sourceRetry)
			signal(l.kick)
		}
	}
}

// settleOnce hands over what is settled. What the Source refuses stays, and is tried
// again: it is sent no more meanwhile.
func (l *line) settleOnce(src Source) (done bool) {
	l.mu.Lock()
	acks, bad := l.acks, l.bad
	l.acks, l.bad = nil, nil
	l.mu.Unlock()
	if len(acks) > 0 {
		if err := src.Ack(acks); err != nil {
			l.sourceError(fmt.Errorf("%w: acknowledge %d messages: %w", errSource, len(acks), err))
			l.keep(acks, bad)
			return false
		}
	}
	for i, b := range bad {
		if err := src.Quarantine(b.pos, b.why); err != nil {
			l.sourceError(fmt.Errorf("%w: quarantine position %d: %w", errSource, b.pos, err))
			l.release(acks, bad[:i])
			l.keep(nil, bad[i:])
			return false
		}
	}
	l.release(acks, bad)
	return true
}

// release forgets settled messages; the Source no longer yields them.
func (l *line) release(acks []uint64, bad []verdictOn) {
	l.mu.Lock()
	for _, pos := range acks {
		delete(l.held, pos)
	}
	for _, b := range bad {
		delete(l.held, b.pos)
	}
	full := len(l.acks)+len(l.bad)+len(acks)+len(bad) >= maxUnsettled
	l.mu.Unlock()
	if full {
		signal(l.wake)
	}
}

func (l *line) keep(acks []uint64, bad []verdictOn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks = append(acks, l.acks...)
	l.bad = append(bad, l.bad...)
}

// idle is called when everything that came from the server has been handled: now it
// pays to send again, and to settle. Waiting until more of the window is free was
// tried: a server with Nagle's algorithm on (mosquitto's default) then holds back its
// answers for our delayed TCP acknowledgement, 40 ms each time.
func (l *line) idle() {
	l.mu.Lock()
	settled := len(l.acks)+len(l.bad) > 0
	l.mu.Unlock()
	if settled {
		signal(l.kick)
	}
	signal(l.wake)
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
