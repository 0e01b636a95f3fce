package broker

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
)

func drainState(b *running) string { return b.drainer.state().State }

func begin(t *testing.T, c *Console, r admin.DrainNode) Drain {
	t.Helper()
	v, err := c.DrainNode(t.Context(), "", r)
	if err != nil {
		t.Fatal(err)
	}
	return v.(Drain)
}

func period(d time.Duration) *admin.Period { p := admin.Period(d); return &p }

// TestDrain: first /readyz, then the clients, and nobody new; sessions stay.
func TestDrain(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	con := NewConsole(b.Broker, "v1")
	keep := opts{expiry: 3600}
	five, _ := dialRaw(t, b.addr, "five", keep)
	five.subscribe(1, "t")
	three, _ := dialRaw(t, b.addr, "three", opts{version: mqtt.V311})
	d := begin(t, con, admin.DrainNode{Wait: period(time.Hour), Server: "b2.example:1883"})
	if d.State != DrainWaiting || d.Connected != 2 || d.Node != "n1" || d.Rate != drainRate {
		t.Errorf("%+v", d)
	}
	if why := con.Ready(); len(why) != 1 || !strings.Contains(why[0], "being emptied") || b.Ready() == nil {
		t.Errorf("/readyz: %v", why)
	}
	late, _ := dialRaw(t, b.addr, "late", v5) // whom the balancer still sends here
	late.quiet()
	five.quiet()
	d = begin(t, con, admin.DrainNode{Wait: period(0), Server: "b2.example:1883"}) // no more waiting
	for _, c := range []*rawClient{five, late} {
		p := c.closed()
		if p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.UseAnotherServer || !strings.Contains(string(p.body), "b2.example:1883") {
			t.Errorf("%+v", p)
		}
	}
	if p := three.closed(); p.kind != 0 {
		t.Errorf("3.1.1 got %+v", p)
	}
	eventually(t, "the node is empty", func() bool { return drainState(b) == DrainDone })
	_, ack, err := tryDial(t, b.addr, "new", v5)
	if err != nil || ack.body[1] != mqtt.UseAnotherServer || !strings.Contains(string(ack.body), "b2.example:1883") {
		t.Errorf("%+v, %v", ack, err)
	}
	_, ack, err = tryDial(t, b.addr, "new", opts{version: mqtt.V311})
	if err != nil || ack.body[1] != 3 { // 3.1.1: server unavailable
		t.Errorf("%+v, %v", ack, err)
	}
	v, err := con.ShowDrain(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if d := v.(Drain); d.Sent != 3 || d.Turned != 2 || d.Connected != 0 || d.Code != "0x9C" {
		t.Errorf("%+v", d)
	}
	if v, err := con.UndrainNode(t.Context(), ""); err != nil || v.(Drain).State != DrainOff {
		t.Errorf("%+v, %v", v, err)
	}
	if why := con.Ready(); len(why) != 0 {
		t.Errorf("after undo: %v", why)
	}
	if _, present := dialRaw(t, b.addr, "five", keep); !present {
		t.Error("a drain ended a session")
	}
}

// TestDrainRate: as many as the rate says, by the node's clock, one at once; and an undo in the middle keeps the rest.
func TestDrainRate(t *testing.T) {
	var now atomic.Int64
	broker, err := New(testConfig(t.TempDir()), Options{Now: func() time.Duration { return time.Duration(now.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	b := serveBroker(t, broker)
	con := NewConsole(b.Broker, "v1")
	const n, rate = 40, 4
	for i := range n {
		dialRaw(t, b.addr, fmt.Sprint("c", i), v5)
	}
	begin(t, con, admin.DrainNode{Wait: period(0), Rate: rate, Moved: true})
	for second := range 6 {
		want := 1 + rate*second
		eventually(t, fmt.Sprint(want, " are sent away"), func() bool { return b.drainer.state().Sent >= want })
		if sent := b.drainer.state().Sent; sent != want {
			t.Fatalf("after %d s %d were sent away, not %d", second, sent, want)
		}
		now.Add(int64(time.Second))
	}
	if d := b.drainer.state(); d.Code != "0x9D" || d.State != DrainDraining {
		t.Errorf("%+v", d)
	}
	if _, err := con.UndrainNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	left := b.conns.clients()
	c, _ := dialRaw(t, b.addr, "another", v5)
	c.quiet()
	if left == 0 {
		t.Error("nobody is left")
	}
	begin(t, con, admin.DrainNode{Wait: period(0), Rate: drainRateMax})
	eventually(t, "the node is empty", func() bool {
		now.Add(int64(time.Second))
		return drainState(b) == DrainDone
	})
}

// TestDrainAndStop: a broker that is being emptied stops all the same.
func TestDrainAndStop(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	con := NewConsole(b.Broker, "v1")
	dialRaw(t, b.addr, "c", v5)
	begin(t, con, admin.DrainNode{Wait: period(time.Hour)})
	b.stop()
	if _, err := con.DrainNode(t.Context(), "", admin.DrainNode{}); err == nil {
		t.Error("a stopped broker is emptied")
	}
}

// TestClusterOfOne tells the truth about one node.
func TestClusterOfOne(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	con := NewConsole(b.Broker, "v1")
	v, err := con.ShowCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := v.(ClusterBody)
	if len(c.Members) != 1 || !c.Quorum || c.Cluster != "" {
		t.Fatalf("%+v", c)
	}
	if m := c.Members[0]; m.Name != "n1" || !m.This || !m.Ready || m.Role != RoleAlone || len(m.Listen) != 1 || len(m.Logs) != 2 || m.Logs[0].Last == 0 {
		t.Errorf("%+v", m)
	}
	for what, do := range map[string]struct {
		status int
		err    func() error
	}{
		"join":          {409, func() error { _, err := con.JoinCluster(t.Context(), admin.JoinCluster{Address: "h:1"}); return err }},
		"leave":         {409, func() error { _, err := con.LeaveCluster(t.Context(), "", admin.LeaveCluster{}); return err }},
		"drain other":   {404, func() error { _, err := con.DrainNode(t.Context(), "n2", admin.DrainNode{}); return err }},
		"show other":    {404, func() error { _, err := con.ShowDrain(t.Context(), "n2"); return err }},
		"undrain other": {404, func() error { _, err := con.UndrainNode(t.Context(), "n2"); return err }},
		"rate":          {400, func() error { _, err := con.DrainNode(t.Context(), "", admin.DrainNode{Rate: -1}); return err }},
		"much rate":     {400, func() error { _, err := con.DrainNode(t.Context(), "", admin.DrainNode{Rate: 1 << 30}); return err }},
		"wait":          {400, func() error { _, err := con.DrainNode(t.Context(), "", admin.DrainNode{Wait: period(-1)}); return err }},
		"server": {400, func() error {
			_, err := con.DrainNode(t.Context(), "", admin.DrainNode{Server: strings.Repeat("x", 2000)})
			return err
		}},
	} {
		var e *admin.Error
		if err := do.err(); !errors.As(err, &e) || e.Status != do.status || e.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b.Ready() != nil {
		t.Error("a mistake began a drain")
	}
}
