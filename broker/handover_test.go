package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"
)

// TestClaimRank: a claim is above what this node has read of the session, above that of the node which gave it away, whose
// log may not have been read so far, and above what others have heard of.
func TestClaimRank(t *testing.T) {
	b := &Broker{cfg: Config{Node: NodeConfig{Name: "n1"}, Cluster: &ClusterConfig{}}}
	b.state = newState("n1", nil, false, slog.New(slog.DiscardHandler))
	b.state.apply(&Batch{Header: Header{Node: "n2", Number: 1, Lamport: 9}, Records: []Record{{Kind: KindPut, Topic: sessionKey + "x", Rank: 4}}})
	b.peers = &peers{b: b}
	// One of a node that does not answer may have made one more claim that nobody has read: it must not win.
	gone := map[string]bool{"n2": true}
	for _, k := range []struct {
		id        string
		had, want uint64
		got       fetched
	}{
		{"x", 0, 5, fetched{}}, {"x", 4, 6, fetched{}}, {"x", 7, 8, fetched{}}, {"new", 0, 1, fetched{}}, {"new", 3, 4, fetched{}},
		{"x", 4, 10, fetched{silent: gone}}, {"x", 4, 22, fetched{silent: gone, rank: 20}}, {"x", 0, 23, fetched{}},
	} {
		k.got.rank = max(k.got.rank, b.rankOf(k.id)) // as it is fetched
		if got, err := b.claim(t.Context(), k.id, k.had, &k.got); got != k.want || err != nil {
			t.Errorf("the next claim of %s after %d is %d, and not %d (%v)", k.id, k.had, got, k.want, err)
		}
	}
	if got, err := b.claim(t.Context(), "x", 4, &fetched{rank: 22}); !errors.Is(err, errElsewhere) {
		t.Errorf("claim %d of what was claimed since, %v", got, err)
	}
}

// TestRanksAreBounded: where too many ranks wait to be read, the highest counts for all.
func TestRanksAreBounded(t *testing.T) {
	var r ranks
	r.note("high", 7)
	for n := range maxRanks + 10 {
		r.note(fmt.Sprint(n), 8)
	}
	if len(r.m) > maxRanks || r.of("high") != 8 || r.of("another") != 8 || r.note("high", 9) != 8 || r.of("high") != 9 {
		t.Errorf("%d ranks, %d at least", len(r.m), r.floor)
	}
	r.settled("high", 8)
	if r.of("high") != 9 {
		t.Error("what nobody can read yet is forgotten")
	}
	r.settled("high", 9)
	if r.of("high") != 8 {
		t.Error("it is not forgotten")
	}
}

// claimsLate makes a client's CONNECT at a node stand still when the node has told the others which rank it claims the
// session with, and before the claim is on its way to the disk.
func (c *nodes) claimsLate(i int, id string, o opts, told int) net.Conn {
	c.t.Helper()
	w := c.up[i].state.w
	w.hold()
	var nc net.Conn
	eventually(c.t, "the claim was told", func() bool {
		if nc == nil {
			var err error
			if nc, err = net.Dial("tcp", c.up[i].addr); err == nil {
				_, err = nc.Write(connectPacket(id, o))
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		var waits net.Error
		if _, err := nc.Read(make([]byte, 64)); !errors.As(err, &waits) || !waits.Timeout() {
			nc.Close() // refused, because the node has just heard that another is gone
			nc = nil
			return false
		}
		return c.up[told].ranks.told(id)
	})
	c.pauses[i].stop()
	w.letGo()
	return nc
}

// TestLateClaim: a node stands still while it claims a session of a node that does so as well. The client comes back to that
// one when it goes on, and gets and finishes a message there. The claim that the other stores when it goes on, too, does
// not bring back how far the session had come when it was made: nothing comes again, and nothing is lost.
func TestLateClaim(t *testing.T) {
	t.Parallel()
	c := pausing(t)
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[1].addr, "sub", kept)
	sub.subscribe(2, "q2")
	pub, _ := dialRaw(t, c.up[0].addr, "pub", v5)
	pub.exchange("q2", "1", 1, false)
	sub.hears("1")
	c.pauses[1].stop()
	c.unheard(1, 0, 2)
	sub.nc.Close()
	pub.exchange("q2", "2", 2, false)
	waits := c.claimsLate(2, "sub", kept, 0)
	c.unheard(2, 0)
	waits.Close() // it has had enough of n3
	c.pauses[1].goOn()
	sub = c.comes(1, "sub", kept)
	sub.hears("2")
	before := c.up[0].storedRank("sub")
	n3 := c.up[2].state.w.cfg.node
	c.pauses[2].goOn()
	eventually(t, "n3 has stored its claim", func() bool {
		st := c.up[0].state
		st.mu.RLock()
		defer st.mu.RUnlock()
		_, stored := st.mapOf(n3).m[sessionKey+"sub"]
		return stored
	})
	if now := c.up[0].storedRank("sub"); now != before {
		t.Errorf("the claim of n3 counts: %d, it was %d", now, before)
	}
	eventually(t, "n3 has let the session go", func() bool { return c.up[2].sessions.get("sub") == nil && c.up[2].Ready() == nil })
	pub.exchange("q2", "3", 3, false)
	sub.hears("3")
	sub.quiet()
	sub = c.comes(2, "sub", kept)
	pub.exchange("q2", "4", 4, false)
	sub.hears("4")
	sub.quiet()
}

// TestClaimSinceFetched: a node that stood still between its look for a session and its claim does not claim what another
// has claimed meanwhile.
func TestClaimSinceFetched(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	gone := map[string]bool{"n2": true}
	ctx := t.Context()
	known := max(c.up[0].rankOf("x"), c.up[2].rankOf("x"))
	if rank, err := c.up[0].claim(ctx, "x", 3, &fetched{silent: gone, rank: known}); rank != known+2 || err != nil {
		t.Fatalf("rank %d, %v", rank, err)
	}
	if _, err := c.up[2].claim(ctx, "x", 3, &fetched{silent: gone, rank: known}); !errors.Is(err, errElsewhere) {
		t.Errorf("n3 claims from %d after n1 has: %v", known, err)
	}
	got := c.up[2].giveAway(ctx, takeRequest{Client: "x", From: "n1"})
	if got.Rank < known+2 {
		t.Errorf("n3 has heard of rank %d", got.Rank)
	}
	if rank, err := c.up[0].claim(ctx, "x", 3, &fetched{silent: gone, rank: got.Rank}); rank <= got.Rank || err != nil {
		t.Errorf("rank %d after %d, %v", rank, got.Rank, err)
	}
}

// TestRankForgotten: a node that was told of a claim and began anew since answers with a rank above that, so who asks it claims above
// a claim that nobody else knows of.
func TestRankForgotten(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	for range 2 {
		got := fetched{silent: map[string]bool{"n2": true}, rank: max(c.up[0].rankOf("x"), c.up[2].rankOf("x"))}
		late, err := c.up[2].claim(t.Context(), "x", 0, &got)
		if err != nil || !c.up[0].ranks.told("x") {
			t.Fatalf("n1 was not told of claim %d: %v", late, err)
		}
		c.stop(0)
		c.begin(0)
		if r := c.up[0].giveAway(t.Context(), takeRequest{Client: "x", From: "n2"}).Rank; r <= late {
			t.Errorf("n1 says %d after it was told of %d", r, late)
		}
	}
}

// TestSessionStaysAfterFailedClaim: a session whose claim is not stored in time stays at the node, because no other has it.
func TestSessionStaysAfterFailedClaim(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.prepare = func(b *Broker) { b.patience = 3 * time.Second }
	c.begin()
	kept := opts{version: 5, expiry: 600}
	r, _ := dialRaw(t, c.up[0].addr, "x", kept)
	r.subscribe(1, "t")
	w := c.up[1].state.w
	w.hold()
	eventually(t, "n2 has the session, which n1 gave it", func() bool {
		if _, ack, err := tryDial(t, c.up[1].addr, "x", kept); err == nil && ack.body[1] == 0 {
			t.Error("it was taken though nothing is stored")
			return true
		}
		return c.up[0].sessions.get("x") == nil && c.up[1].sessions.get("x") != nil
	})
	w.letGo()
	now := c.comes(2, "x", kept)
	now.publish("t", "m", 1)
	now.hears("m")
}

// TestMovedBeyondTheOwnTail: a session comes from a node that has read more of this node's log than this node, where it waits
// behind a barrier. Its place and what it has not finished are kept; only beyond the log's end there is nothing.
func TestMovedBeyondTheOwnTail(t *testing.T) {
	b := &Broker{cfg: Config{Node: NodeConfig{Name: "n1"}}, messages: &writer{}, mono: func() time.Duration { return 0 }, steady: newClock(time.Now, func() time.Duration { return 0 })}
	b.tail = newTail(newTailLog("n1", nil, 5, 1), nil)
	b.messages.made.Store(9)
	for at, want := range map[uint64]uint64{4: 4, 8: 8, 10: 10, 20: 10} {
		place := vector{{Node: "n1", Batch: at}, {Node: "n2", Batch: 30}}
		sent := []*sent{{ID: 1, At: cursor{Node: "n1", Batch: 9, Index: 2}, QoS: 2, Released: true}, {ID: 2, At: cursor{Node: "n1", Batch: 10}, QoS: 2}}
		progress, err := json.Marshal(cursorRecord{Epoch: 3, At: place, RecvAt: place, Sent: sent})
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.sessionOf("x", []byte(`{"epoch":3}`), progress, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := (vector{{Node: "n1", Batch: want}, {Node: "n2", Batch: 30}}); s.at.String() != got.String() || s.recvAt.String() != got.String() {
			t.Errorf("the place is %v and %v, and not %v", s.at, s.recvAt, got)
		}
		if s.inflight[1] == nil || len(s.inflight) != 1 {
			t.Errorf("not finished: %v", s.inflight)
		}
	}
}
