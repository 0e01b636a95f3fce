package broker

import (
	"testing"
	"time"
)

// TestHoldsWaitForNoReader: a session that is being saved asks, under its lock, what its client's messages wait for. Who
// reads a log holds the follower's lock and the tail's when he asks for sessions' locks, so while either is held that
// question has its answer, and who looks for the ends of holds waits for neither with what the question needs in his hand.
// Otherwise three wait for each other in a ring, and the node stands still.
func TestHoldsWaitForNoReader(t *testing.T) {
	c := startNodes(t, 3)
	c.begin()
	b := c.up[0]
	at := b.peers.get("n2")
	const client = "mover"
	end := b.tail.end().of("n2").Batch
	b.holds.begin(client, 1, []*origin{{node: "n2", from: end, end: end + 1}})

	looked := make(chan struct{})
	at.messages.mu.Lock()
	go func() { defer close(looked); b.holds.round(t.Context()) }()
	select {
	case <-looked:
	case <-time.After(time.Minute):
		t.Error("the look for the ends of holds waits for who reads a log")
	}
	at.messages.mu.Unlock()
	<-looked

	b.tail.mu.Lock()
	told := make(chan int)
	go func() {
		n := 0
		for ; n < 5; n++ { // each with the next round's begin between
			if _, waits := b.holds.waitsOf(client); len(waits) != 1 {
				break
			}
			<-time.After(holdEvery)
		}
		told <- n
	}()
	select {
	case n := <-told:
		b.tail.mu.Unlock()
		if n != 5 {
			t.Errorf("the hold was there %d times", n)
		}
	case <-time.After(time.Minute):
		b.tail.mu.Unlock()
		t.Errorf("a session is not saved while the tail is held: %d", <-told)
	}
}

// TestStuck: a node that cannot say a beat says that it is stuck, while any lock is held that its messages need.
func TestStuck(t *testing.T) {
	c := startNodes(t, 3)
	c.begin()
	b := c.up[0]
	if why := b.Stuck(); why != nil {
		t.Errorf("stuck from the start: %v", why)
	}
	at := b.peers.get("n2")
	at.state.mu.Lock()
	eventually(t, "it is stuck", func() bool { // a beat may just have been on its way
		b.peers.members.mu.Lock()
		b.peers.members.sent -= 2 * stuckAfter // as if the lock had been held for so long
		b.peers.members.mu.Unlock()
		return len(b.Stuck()) == 1
	})
	at.state.mu.Unlock()
	eventually(t, "it goes on", func() bool { return b.Stuck() == nil })
}
