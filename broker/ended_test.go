package broker

import (
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
)

// TestEndedSessionStaysEnded: a session that has ended at one node does not come back at another, nor there, though that it
// ended is still on its way to the disk.
func TestEndedSessionStaysEnded(t *testing.T) {
	t.Parallel()
	for _, next := range []int{0, 2} {
		c := startNodes(t, 3)
		c.prepare = func(b *Broker) { b.patience = 3 * time.Second }
		c.begin()
		kept := opts{version: 5, expiry: 600}
		r, _ := dialRaw(t, c.up[0].addr, "x", kept)
		r.subscribe(1, "t")
		eventually(t, "n3 knows the session", func() bool { return c.up[2].storedRank("x") > 0 })
		w := c.up[0].state.w
		w.hold()
		r.write([]byte{mqtt.DISCONNECT << 4, 7, 0, 5, 0x11, 0, 0, 0, 0}) // it expires at once
		eventually(t, "the session has ended", func() bool { return c.up[0].sessions.get("x") == nil })
		if _, ack, err := tryDial(t, c.up[next].addr, "x", kept); err == nil && ack.body[1] == 0 && ack.body[0] == 1 {
			t.Errorf("n%d has it, and it ended at n1", next+1)
		}
		w.letGo()
		if _, present := c.comesBack(next, "x"); present {
			t.Errorf("n%d still has it, and it ended at n1", next+1)
		}
		c.end()
	}
}

// TestExpiryLosesAgainstAClaim: a session that expires with its node is not taken from the node to which its client has just come.
func TestExpiryLosesAgainstAClaim(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	b := c.up[0]
	put := func(node string, rank uint64, record string) {
		b.state.apply(&Batch{Header: Header{Node: node, Number: 1, Lamport: 3}, Records: []Record{
			{Kind: KindPut, Topic: sessionKey + "x", Rank: rank, Payload: []byte(record)}, {Kind: KindPut, Topic: cursorKey + "x", Rank: rank}}})
	}
	put("gone", 4, `{"epoch":1,"expiry":5,"gone":1}`)
	b.expireOrphans("gone", 0)
	eventually(t, "it has expired", func() bool {
		v, _ := b.state.version(sessionKey + "x")
		w, _ := b.state.version(cursorKey + "x")
		return v.gone && w.gone
	})
	put("next", 5, `{"epoch":1,"expiry":5}`) // was on its way
	for _, key := range []string{sessionKey, cursorKey} {
		if v, _ := b.state.version(key + "x"); v.gone || v.node != "next" {
			t.Errorf("%s counts as gone: %+v", key, v)
		}
	}
}

// TestForgetWhileItMoves: a session of a node that is down is not forgotten while another node claims it for its client.
func TestForgetWhileItMoves(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	kept := opts{version: 5, expiry: 600}
	r, _ := dialRaw(t, c.up[1].addr, "x", kept)
	r.subscribe(1, "t")
	c.stop(1)
	c.unheard(1, 0, 2)
	eventually(t, "the others take clients", func() bool { return c.up[0].Ready() == nil && c.up[2].Ready() == nil })
	w := c.up[2].state.w
	var nc net.Conn
	eventually(t, "n3 has told which rank it claims", func() bool {
		if nc != nil {
			nc.Close()
		}
		w.hold()
		var err error
		if nc, err = net.Dial("tcp", c.up[2].addr); err == nil {
			_, err = nc.Write(connectPacket("x", kept))
		}
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			if c.up[0].ranks.told("x") {
				return true
			}
			pause(t.Context(), time.Millisecond)
		}
		w.letGo() // it was refused
		return false
	})
	con := NewConsole(c.up[0].Broker, "")
	var e *admin.Error
	if v, err := con.KickSession(t.Context(), "x", true); !errors.As(err, &e) || e.Status < http.StatusConflict {
		t.Errorf("it was forgotten while n3 took it: %+v, %v", v, err)
	}
	w.letGo()
	nc.Close()
	eventually(t, "it is forgotten", func() bool {
		v, err := con.KickSession(t.Context(), "x", true)
		k, ok := v.(SessionKicked)
		return err == nil && ok && k.Forgotten
	})
	if _, present := c.comesBack(0, "x"); present {
		t.Error("it was forgotten, and is there")
	}
}
