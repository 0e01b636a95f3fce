package broker

import (
	"log/slog"
	"testing"
	"time"
)

// TestNextClaim: a claim is above what this node has read of the session, and above that of the node
// which gave it away, whose log may not have been read so far.
func TestNextClaim(t *testing.T) {
	b := &Broker{cfg: Config{Node: NodeConfig{Name: "n1"}, Cluster: &ClusterConfig{}}}
	b.state = newState("n1", nil, false, slog.New(slog.DiscardHandler))
	b.state.apply(&Batch{Header: Header{Node: "n2", Number: 1, Lamport: 9}, Records: []Record{{Kind: KindPut, Topic: sessionKey + "x", Rank: 4}}})
	for _, k := range []struct {
		id        string
		had, want uint64
	}{{"x", 0, 5}, {"x", 4, 5}, {"x", 7, 8}, {"new", 0, 1}, {"new", 3, 4}} {
		if got := b.nextClaim(k.id, k.had); got != k.want {
			t.Errorf("the next claim of %s after %d is %d, and not %d", k.id, k.had, got, k.want)
		}
	}
	// n2 is gone, and may have made one more claim that nobody has read: it must not win.
	b.peers = &peers{b: b, m: map[string]*peer{"n2": {node: "n2"}}, members: newMembers(nil, "n1", func() time.Duration { return 0 }, nil, b.log)}
	if got := b.nextClaim("x", 4); got != 6 {
		t.Errorf("the next claim while a node is gone is %d", got)
	}
}
