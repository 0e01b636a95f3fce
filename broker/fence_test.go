package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestFence: two nodes fence the log of a third while that one writes. There is one fence; nothing behind it
// is of the old life, everything that was acknowledged stands before it, and the old writer stops for good.
// The node then begins a new life, which is not fenced in the name of the old one.
func TestFence(t *testing.T) {
	t.Parallel()
	nodes := startEngines(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n1 := nodes[0]
	n1.begin(t, 7)
	acked, ended := 0, make(chan error, 1)
	first, fenced := make(chan struct{}), make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			if i == 200 { // a writer that never rests is always first at the next slot
				<-fenced
			}
			if err := n1.put(ctx, fmt.Sprint(i)); err != nil {
				ended <- err
				return
			}
			if acked = i + 1; acked == 10 {
				close(first)
			}
		}
	}()
	<-first
	var fencing sync.WaitGroup
	at := make([]Position, 3)
	for i, n := range nodes[1:] {
		fencing.Go(func() {
			var err error
			if at[i], err = n.fence(ctx, kindMessages, "n1", 7, Header{Incarnation: uint64(100 + i), Lamport: 5000, Time: 1}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	fencing.Wait()
	close(fenced)
	if err := <-ended; !errors.Is(err, errForeign) {
		t.Fatalf("the old life ended with %v", err)
	}
	var err error
	if at[2], err = nodes[1].fence(ctx, kindMessages, "n1", 7, Header{Incarnation: 102, Time: 1}, nil); err != nil || at[0] != at[1] || at[1] != at[2] {
		t.Fatalf("fences at %v, %v", at, err)
	}
	got, err := topics(ctx, nodes[2].engine, "n1")
	if err != nil || len(got) < acked || len(got) > acked+1 { // one may have been stored and not been told
		t.Fatalf("%d of %d acknowledged are there, %v", len(got), acked, err)
	}
	if data, err := n1.s.read(ctx, at[0].Batch); err != nil {
		t.Error(err)
	} else if b, err := DecodeBatch(data); err != nil || !b.isFence() || b.Lamport < 5001 || b.Records[0].At.Node == "n1" {
		t.Errorf("at %s stands %+v, %v", at[0], b, err)
	}
	n1.stopWriter()
	n1.begin(t, 8)
	if err := n1.put(ctx, "new"); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[1].fence(ctx, kindMessages, "n1", 7, Header{Incarnation: 103, Time: 1}, nil); !errors.Is(err, errNewLife) {
		t.Errorf("the new life is fenced: %v", err)
	}
	if _, err := nodes[1].fence(ctx, kindMessages, "n9", 0, Header{}, nil); !errors.Is(err, errNoStream) {
		t.Errorf("a node that there is not: %v", err)
	}
	again, err := topics(ctx, nodes[1].engine, "n1")
	if want := strings.Join(append(got, "new"), " "); err != nil || strings.Join(again, " ") != want {
		t.Errorf("%q, %v", again, err)
	}
}
