package broker

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// stuckLog is a log that cannot be read until it is let go.
type stuckLog struct {
	asked, free chan struct{}
}

func (l *stuckLog) batch(ctx context.Context, number uint64) (*Batch, error) {
	close(l.asked)
	select {
	case <-l.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &Batch{Header: Header{Node: "n2", Number: number}, Records: []Record{{Kind: KindMessage, Topic: "t", Held: true}}, Size: 1}, nil
}

// TestFollowerLockIsFree: while a batch waits for a message that it delivers and that has to be read, this node says how far
// it has read the log: its beats need that, and without beats the others give it up.
func TestFollowerLockIsFree(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	b := &Broker{cfg: Config{Node: NodeConfig{Name: "n1"}}, log: log, ctx: t.Context(), messages: &writer{}, mono: func() time.Duration { return 0 }}
	b.state = newState("n1", nil, false, log)
	b.state.w = &writer{}
	b.tail = newTail(newTailLog("n1", nil, 1, 1), nil)
	p := &peers{b: b, m: map[string]*peer{}, confirms: newConfirms()}
	b.peers = p
	src := &stuckLog{make(chan struct{}), make(chan struct{})}
	l := newTailLog("n2", src, 2, 1)
	b.tail.addLog(l)
	at := &peer{node: "n2", entered: 1}
	at.messages = b.follow(l, func(batch *Batch) bool { return p.takeMessages(at, l, batch) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	go func() {
		at.messages.run(ctx)
		ended <- struct{}{}
	}()
	go func() {
		at.messages.offer(&Batch{Header: Header{Node: "n2", Number: 2}, Size: 1, Records: []Record{
			{Kind: KindDeliver, Client: "c", At: Position{Node: "n2", Batch: 1}}}})
		ended <- struct{}{}
	}()
	<-src.asked
	ends := make(chan uint64, 1)
	go func() { ends <- at.messages.end() }()
	select {
	case end := <-ends:
		if end != 2 {
			t.Errorf("it is read to %d", end)
		}
	case <-time.After(patience):
		t.Error("it does not say how far it has read while it reads")
	}
	close(src.free)
	eventually(t, "the batch is taken", func() bool { return at.messages.end() == 3 })
	if got, err := b.tail.batch(t.Context(), "n2", 2); err != nil || got.Records[0].held == nil || got.Records[0].held.Topic != "t" {
		t.Errorf("what it delivers is not there: %v", err)
	}
	cancel()
	<-ended
	<-ended
}
