package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
)

// cluster3 is three nodes with three clients each, and a console on every node.
func cluster3(t *testing.T) (c *nodes, con []*Console, clients map[string]*rawClient) {
	c = startNodes(t, 3)
	c.begin()
	clients = map[string]*rawClient{}
	for i, b := range c.up {
		con = append(con, NewConsole(b.Broker, "v1"))
		for k := range 3 {
			id := fmt.Sprintf("c%d-%d", k, i+1)
			clients[id], _ = dialRaw(t, b.addr, id, opts{expiry: 3600})
			clients[id].subscribe(1, "t/#")
		}
	}
	return c, con, clients
}

// listOf is a list in which nobody is missing: of a node that did not answer in time the list says so, and is asked for again.
func listOf(t *testing.T, c *Console, q admin.SessionQuery) (l SessionList) {
	t.Helper()
	eventually(t, "all nodes answer", func() bool {
		v, err := c.ListSessions(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		l = v.(SessionList)
		return len(l.Missing) == 0
	})
	return l
}

// TestAnyNodeAnswersForAll: lists, details, explanations, kicks and traces through a node that has
// none of it.
func TestAnyNodeAnswersForAll(t *testing.T) {
	t.Parallel()
	c, con, clients := cluster3(t)
	ctx := t.Context()
	var e *admin.Error
	for i := range con {
		var got []string
		for q := (admin.SessionQuery{Limit: 2, Prefix: "c"}); ; {
			l := listOf(t, con[i], q)
			for _, s := range l.Sessions {
				got = append(got, s.Client+"@"+s.Node)
			}
			if l.Total != 9 || len(l.Sessions) > 2 {
				t.Fatalf("n%d: %+v", i+1, l)
			}
			if q.After = l.Next; q.After == "" {
				break
			}
		}
		if want := "[c0-1@n1 c0-2@n2 c0-3@n3 c1-1@n1 c1-2@n2 c1-3@n3 c2-1@n1 c2-2@n2 c2-3@n3]"; fmt.Sprint(got) != want {
			t.Errorf("n%d lists %v", i+1, got)
		}
		v, err := con[i].ShowSession(ctx, "c1-2")
		if d, ok := v.(SessionDetail); err != nil || !ok || d.Node != "n2" || !d.Connected || len(d.Subs) != 1 || len(d.Cursor) != 3 {
			t.Errorf("n%d shows %+v, %v", i+1, v, err)
		}
		v, err = con[i].Explain(ctx, "c1-2", "t/x")
		if e, ok := v.(Explanation); err != nil || !ok || e.Node != "n2" || e.Receive.Answer != ExplainYes {
			t.Errorf("n%d explains %+v, %v", i+1, v, err)
		}
		if _, err := con[i].ShowSession(ctx, "nobody"); !errors.As(err, &e) || e.Status != 404 {
			t.Errorf("n%d: %v", i+1, err)
		}
		if _, err := con[i].KickSession(ctx, "nobody", true); !errors.As(err, &e) || e.Status != 404 {
			t.Errorf("n%d: %v", i+1, err)
		}
	}

	lines := make(chan any, 1000)
	begun, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- con[0].TraceClient(ctx, "c1-2", func(l any) error {
			if l == nil {
				close(begun)
			} else {
				lines <- l
			}
			return nil
		})
	}()
	defer func() { c.end(); <-done }()
	<-begun
	clients["c1-2"].quiet()
	for _, want := range []string{"PINGREQ n2", "PINGRESP n2"} {
		if l := (<-lines).(TraceLine); l.Type+" "+l.Node != want {
			t.Errorf("%+v instead of %s", l, want)
		}
	}
	v, err := con[2].KickSession(ctx, "c1-2", true)
	if k, ok := v.(SessionKicked); err != nil || !ok || !k.Disconnected || !k.Forgotten || k.Node != "n2" {
		t.Errorf("%+v, %v", v, err)
	}
	if p := clients["c1-2"].closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.AdministrativeAction {
		t.Errorf("%+v", p)
	}
	moved, present := dialRaw(t, c.up[2].addr, "c1-2", opts{expiry: 3600})
	if present {
		t.Error("it was forgotten, and came back")
	}
	moved.quiet()
	for { // the trace is where the client is
		if l := (<-lines).(TraceLine); l.Node == "n3" && l.Type == "PINGRESP" {
			break
		}
	}
}

// TestClusterShowAndDrain: every node tells the same, and empties another.
func TestClusterShowAndDrain(t *testing.T) {
	t.Parallel()
	c, con, clients := cluster3(t)
	ctx := t.Context()
	var e *admin.Error
	show := func(i int) ClusterBody {
		v, err := con[i].ShowCluster(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return v.(ClusterBody)
	}
	for i := range con {
		eventually(t, fmt.Sprintf("n%d knows the clients of all", i+1), func() bool {
			n := 0
			for _, m := range show(i).Members {
				n += m.Clients
			}
			return n == len(clients)
		})
		complaint := func() string { // there is none once all have heard of each other's beats, and a leader is elected
			body, leaders := show(i), 0
			if len(body.Members) != 3 || !body.Quorum || body.Cluster != "test" || body.Node != fmt.Sprint("n", i+1) {
				return fmt.Sprintf("%+v", body)
			}
			for k, m := range body.Members {
				if m.Name != fmt.Sprint("n", k+1) || !m.Ready || len(m.NotReady) != 0 || m.This != (k == i) || len(m.Logs) != 2 || len(m.Logs[0].Lag) != 2 || len(m.Listen) != 1 {
					return fmt.Sprintf("%+v", m)
				}
				if m.Role == RoleLeader {
					leaders++
				}
			}
			if leaders != 1 {
				return fmt.Sprintf("%d leaders", leaders)
			}
			return ""
		}
		if _, err := within(patience, func() (err error) {
			if c := complaint(); c != "" {
				err = errors.New(c)
			}
			return err
		}); err != nil {
			t.Fatalf("n%d shows %v", i+1, err)
		}
	}

	d, err := con[0].DrainNode(ctx, "n3", admin.DrainNode{Wait: period(0)})
	if err != nil || d.(Drain).Node != "n3" || d.(Drain).Server == "" {
		t.Fatalf("%+v, %v", d, err)
	}
	eventually(t, "n3 is empty, says n2", func() bool {
		d, err := con[1].ShowDrain(ctx, "n3")
		return err == nil && d.(Drain).State == DrainDone
	})
	eventually(t, "n1 says that n3 is not ready", func() bool { return !show(0).Members[2].Ready })
	if _, err := con[1].UndrainNode(ctx, "n3"); err != nil {
		t.Error(err)
	}
	eventually(t, "n3 takes clients again", func() bool { return c.up[2].Ready() == nil })

	if _, err := con[0].LeaveCluster(ctx, "n2", admin.LeaveCluster{Force: true}); !errors.As(err, &e) || e.Status != 409 {
		t.Errorf("leave by force of a node that is alive: %v", err)
	}
	if _, err := con[0].JoinCluster(ctx, admin.JoinCluster{Address: "h:1"}); !errors.As(err, &e) || e.Status != 409 {
		t.Errorf("join: %v", err)
	}
	if _, err := con[0].DrainNode(ctx, "n9", admin.DrainNode{}); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("drain of no node: %v", err)
	}

	c.stop(2)
	eventually(t, "n3 is not heard any more by n2, which is asked", func() bool { return !c.up[1].peers.members.alive("n3") })
	if m := show(1).Members[2]; m.Ready || len(m.NotReady) == 0 {
		t.Errorf("%+v", m)
	}
}

// TestClusterShowIsTheSame: what the nodes say of each other and of themselves differs in nothing but who says it.
func TestClusterShowIsTheSame(t *testing.T) {
	t.Parallel()
	_, con, _ := cluster3(t)
	said := func(i int) string {
		v, err := con[i].ShowCluster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		body := v.(ClusterBody)
		for k := range body.Members {
			body.Members[k].This, body.Members[k].Seen = false, nil
		}
		data, err := json.Marshal(body.Members)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	eventually(t, "all say the same", func() bool { return said(0) == said(1) && said(1) == said(2) })
	if s := said(1); strings.Contains(s, `"address":""`) || strings.Count(s, `"address":`) != 3 || strings.Count(s, `"lag":`) != 6 {
		t.Errorf("something is missing: %s", s)
	}
}

// TestSessionsOfANodeThatIsDown: any node lists, shows, explains and ends what a node that is down has kept, and a
// trace says that this node is not seen.
func TestSessionsOfANodeThatIsDown(t *testing.T) {
	t.Parallel()
	c, con, clients := cluster3(t)
	ctx := t.Context()
	var e *admin.Error
	clients["c1-3"].disconnect()
	eventually(t, "n3 knows that c1-3 is away", func() bool { s := c.up[2].sessions.get("c1-3"); return s != nil && !c.up[2].connected("c1-3") })
	c.stop(2)
	pub, _ := dialRaw(t, c.up[0].addr, "pub", v5)
	for i := range 3 {
		pub.publish("t/x", "x", uint16(i+1))
	}
	eventually(t, "n3 is not heard any more", func() bool { return !c.up[0].peers.members.alive("n3") && !c.up[1].peers.members.alive("n3") })
	for i := range con[:2] {
		var got []string
		for q := (admin.SessionQuery{Limit: 2, Prefix: "c"}); ; {
			l := listOf(t, con[i], q)
			if l.Total != 9 || len(l.Sessions) > 2 {
				t.Fatalf("n%d: %+v", i+1, l)
			}
			for _, s := range l.Sessions {
				got = append(got, s.Client)
				if (s.Node == "n3") != (s.NodeDown != nil) || s.Node == "n3" && (s.Connected || !s.Kept || s.Subscriptions != 1 || s.Behind == 0) {
					t.Errorf("n%d: %+v", i+1, s)
				}
			}
			if q.After = l.Next; q.After == "" {
				break
			}
		}
		if want := "[c0-1 c0-2 c0-3 c1-1 c1-2 c1-3 c2-1 c2-2 c2-3]"; fmt.Sprint(got) != want {
			t.Errorf("n%d lists %v", i+1, got)
		}
		yes := true
		if l := listOf(t, con[i], admin.SessionQuery{Limit: 100, Prefix: "c", Connected: &yes}); l.Total != 6 {
			t.Errorf("n%d: %d are connected", i+1, l.Total)
		}
		v, err := con[i].ShowSession(ctx, "c0-3")
		if d, ok := v.(SessionDetail); err != nil || !ok || d.Node != "n3" || d.NodeDown == nil || len(d.Subs) != 1 || d.Backlog.Messages != 3 || len(d.Cursor) != 3 {
			t.Errorf("n%d shows %+v, %v", i+1, v, err)
		}
		v, err = con[i].Explain(ctx, "c0-3", "t/x")
		if x, ok := v.(Explanation); err != nil || !ok || x.Receive.Answer != ExplainLater || !strings.Contains(fmt.Sprint(x.Receive.Why), "its node n3 is down since") {
			t.Errorf("n%d explains %+v, %v", i+1, v, err)
		}
		if _, err := con[i].ShowSession(ctx, "nobody"); !errors.As(err, &e) || e.Status != 404 || !strings.Contains(e.Message, "n3 since") {
			t.Errorf("n%d: %v", i+1, err)
		}
		if _, err := con[i].KickSession(ctx, "c0-3", false); !errors.As(err, &e) || e.Status != 409 || !strings.Contains(e.Message, "n3 is down") {
			t.Errorf("n%d: %v", i+1, err)
		}
	}

	lines, ended := make(chan TraceLine, 100), make(chan error, 1)
	go func() {
		ended <- con[0].TraceClient(ctx, "c0-3", func(l any) error {
			if l != nil {
				lines <- l.(TraceLine)
			}
			return nil
		})
	}()
	defer func() { c.end(); <-ended }()
	if l := <-lines; l.Type != "NODE" || l.Node != "n3" || !strings.HasPrefix(l.Note, "down since") {
		t.Errorf("%+v", l)
	}
	if _, err := con[1].KickSession(ctx, "c0-3", true); err != nil {
		t.Error(err)
	}
	if _, present := dialRaw(t, c.up[0].addr, "c0-3", opts{expiry: 3600}); present {
		t.Error("it was ended, and is there")
	}
	if _, present := dialRaw(t, c.up[0].addr, "c1-3", opts{expiry: 3600}); !present {
		t.Error("a session of the node that is down is lost")
	}
	eventually(t, "it is n1's now", func() bool {
		v, err := con[1].ShowSession(ctx, "c1-3")
		d, ok := v.(SessionDetail)
		return err == nil && ok && d.Node == "n1" && d.NodeDown == nil
	})
	c.begin(2)
	for l := range lines {
		if l.Type == "NODE" && l.Note == "heard again" {
			break
		}
	}
}
