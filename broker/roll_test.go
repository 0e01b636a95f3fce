package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/broker/admin"
	"holdfast/broker/door"
	"holdfast/broker/mqtt"
)

// await polls until a client's session is connected, or is not.
func await(t testing.TB, b *running, client string, connected bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s connected: %v", client, connected), func() bool {
		s := b.sessions.get(client)
		if s == nil {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return (s.conn != nil) == connected
	})
}

func TestSessionList(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c := NewConsole(b.Broker, "v1")
	ids := []string{"a/b", "..", "gw-1", "gw-2", "gw-3", "ünï"}
	for _, id := range ids {
		d, _ := dialRaw(t, b.addr, id, opts{expiry: 3600})
		d.subscribe(1, "t")
		if id == "gw-2" {
			continue
		}
		d.disconnect()
		await(t, b, id, false)
	}
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	for i := range 5 {
		pub.publish("t", fmt.Sprint(i), uint16(i+1))
	}
	list := func(q admin.SessionQuery) ([]string, SessionList) {
		if q.Limit == 0 {
			q.Limit = 100
		}
		v, err := c.ListSessions(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		l := v.(SessionList)
		for _, s := range l.Sessions {
			names = append(names, s.Client)
		}
		return names, l
	}
	yes, no := true, false
	for _, c := range []struct {
		q    admin.SessionQuery
		want string
	}{
		{admin.SessionQuery{}, "[.. a/b gw-1 gw-2 gw-3 pub ünï]"},
		{admin.SessionQuery{Prefix: "gw-"}, "[gw-1 gw-2 gw-3]"},
		{admin.SessionQuery{Connected: &yes}, "[gw-2 pub]"},
		{admin.SessionQuery{Connected: &no}, "[.. a/b gw-1 gw-3 ünï]"},
		{admin.SessionQuery{Connected: &no, Behind: true, Prefix: "gw"}, "[gw-1 gw-3]"},
		{admin.SessionQuery{Prefix: "zz"}, "[]"},
	} {
		if names, l := list(c.q); fmt.Sprint(names) != c.want || l.Total != len(names) || l.Next != "" {
			t.Errorf("%+v: %v of %d, want %s", c.q, names, l.Total, c.want)
		}
	}
	var all []string
	for q := (admin.SessionQuery{Limit: 2}); ; {
		names, l := list(q)
		all = append(all, names...)
		if q.After = l.Next; q.After == "" {
			break
		}
		if len(names) != 2 || l.Total != len(ids)+1 {
			t.Fatalf("a page: %v of %d", names, l.Total)
		}
	}
	if !slices.IsSorted(all) || len(all) != len(ids)+1 {
		t.Errorf("pages: %v", all)
	}
	_, l := list(admin.SessionQuery{Prefix: "gw-1"})
	if s := l.Sessions[0]; s.Connected || !s.Kept || s.Behind == 0 || s.Subscriptions != 1 || *s.Expiry != 3600 || s.Ends == nil || s.Node != "n1" {
		t.Errorf("%+v", s)
	}
	_, l = list(admin.SessionQuery{Prefix: "gw-2"})
	if s := l.Sessions[0]; !s.Connected || s.Addr == "" || s.Protocol != "5.0" || s.Window == 0 || s.Since.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestSessionShow(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	con := NewConsole(b.Broker, "v1")
	sub, _ := dialRaw(t, b.addr, "sub", opts{expiry: 3600, receive: 2})
	sub.subscribeProps([]byte{11, 5}, 1|4, "t/#")
	sub.subscribe(2, "$share/g/s/+")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	for i := range 7 {
		pub.publish("t/x", "12345", uint16(i+1))
	}
	first := sub.message()
	sub.message()
	show := func() SessionDetail {
		v, err := con.ShowSession(t.Context(), "sub")
		if err != nil {
			t.Fatal(err)
		}
		return v.(SessionDetail)
	}
	d := show()
	if len(d.Packets) != 2 || d.Packets[0].ID != first.id || d.Packets[0].QoS != 1 || !strings.HasPrefix(d.Packets[0].At, "n1/") {
		t.Errorf("unfinished: %+v", d.Packets)
	}
	if d.Window != 2 || d.Unfinished != 2 || d.Queued+int(d.Backlog.Messages) < 5 || d.In.Packets != 3 || d.Out.Publishes != 2 || d.Out.Bytes == 0 {
		t.Errorf("%+v", d)
	}
	if s := d.Subs[0]; len(d.Subs) != 2 || s.Filter != "$share/g/s/+" || s.Members != 1 || s.QoS != 2 {
		t.Errorf("%+v", d.Subs)
	}
	if s := d.Subs[1]; s.Filter != "t/#" || !s.NoLocal || s.ID != 5 {
		t.Errorf("%+v", s)
	}
	sub.nc.Close()
	await(t, b, "sub", false)
	d = show()
	if d.Connected || d.Backlog.Messages != 5 || d.Backlog.Bytes != 25 || !d.Backlog.Complete || d.Behind == 0 || len(d.Packets) != 2 {
		t.Errorf("away: %+v", d)
	}
	data, err := json.Marshal(d)
	if err != nil || strings.Contains(string(data), "null") {
		t.Errorf("%s, %v", data, err)
	}
	var e *admin.Error
	if _, err := con.ShowSession(t.Context(), "nobody"); !errors.As(err, &e) || e.Status != 404 || e.Hint == "" {
		t.Errorf("%v", err)
	}
}

func TestKick(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	con := NewConsole(b.Broker, "v1")
	kick := func(id string, forget bool) SessionKicked {
		t.Helper()
		v, err := con.KickSession(t.Context(), id, forget)
		if err != nil {
			t.Fatal(err)
		}
		return v.(SessionKicked)
	}
	keep := opts{expiry: 3600}
	c, _ := dialRaw(t, b.addr, "c", keep)
	c.subscribe(1, "t")
	if k := kick("c", false); !k.Disconnected || k.Forgotten {
		t.Errorf("%+v", k)
	}
	if p := c.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.AdministrativeAction {
		t.Errorf("%+v", p)
	}
	var e *admin.Error
	if _, err := con.KickSession(t.Context(), "c", false); !errors.As(err, &e) || e.Status != 409 || !strings.Contains(e.Hint, "--forget") {
		t.Errorf("kick of who is away: %v", err)
	}
	if _, present := dialRaw(t, b.addr, "c", keep); !present {
		t.Error("a kick ended the session")
	}
	if k := kick("c", true); !k.Disconnected || !k.Forgotten {
		t.Errorf("%+v", k)
	}
	old, _ := dialRaw(t, b.addr, "old", opts{version: mqtt.V311})
	if k := kick("old", false); !k.Disconnected || k.Forgotten { // not clean: the session stays
		t.Errorf("%+v", k)
	}
	if p := old.closed(); p.kind != 0 {
		t.Errorf("3.1.1 got %+v", p)
	}
	if k := kick("old", true); k.Disconnected || !k.Forgotten {
		t.Errorf("forget of who is away: %+v", k)
	}
	clean, _ := dialRaw(t, b.addr, "clean", opts{clean: true, will: func(body []byte) ([]byte, byte) {
		return mqtt.AppendText(mqtt.AppendText(append(body, 0), "will"), "gone"), 4
	}})
	watch, _ := dialRaw(t, b.addr, "watch", v5)
	watch.subscribe(0, "will")
	if k := kick("clean", false); !k.Disconnected || !k.Forgotten {
		t.Errorf("%+v", k)
	}
	clean.closed()
	if m := watch.message(); m.payload != "gone" { // only a DISCONNECT of the client's takes the will back
		t.Errorf("%+v", m)
	}
	if _, err := con.KickSession(t.Context(), "nobody", true); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("%v", err)
	}
	b.stop()
	b = start(t, cfg)
	if _, present := dialRaw(t, b.addr, "c", keep); present {
		t.Error("a forgotten session came back with a restart")
	}
}

func TestExplain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}, {Filter: "m/#", Policy: door.PolicyMark}}
	b := start(t, cfg)
	con := NewConsole(b.Broker, "v1")
	explain := func(client, topic string) Explanation {
		t.Helper()
		v, err := con.Explain(t.Context(), client, topic)
		if err != nil {
			t.Fatal(err)
		}
		return v.(Explanation)
	}
	sub, _ := dialRaw(t, b.addr, "sub", opts{expiry: 3600, receive: 1})
	sub.subscribe(1, "t/+", "#", "Case/x", "$share/g/only")
	low, _ := dialRaw(t, b.addr, "low", opts{expiry: 3600})
	low.subscribe(0, "t/+")
	solo, _ := dialRaw(t, b.addr, "solo", v5)
	solo.subscribe(1, "$share/g/only", "deep")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	check := func(what, client, topic, publish, receive string, words ...string) {
		t.Helper()
		e := explain(client, topic)
		if e.Publish.Answer != publish || e.Receive.Answer != receive {
			t.Errorf("%s: publish %s, receive %s (%v, %v)", what, e.Publish.Answer, e.Receive.Answer, e.Publish.Why, e.Receive.Why)
		}
		all := fmt.Sprint(e.Publish.Why, e.Receive.Why, e.NearMiss)
		for _, w := range words {
			if !strings.Contains(all, w) {
				t.Errorf("%s: no %q in %s", what, w, all)
			}
		}
	}
	check("plain", "sub", "t/x", "yes", "yes", "subscription t/+", "no [[verify]]", "connected to 127.0.0.1")
	check("verified", "sub", "gw/x/y", "yes", "yes", "demands a signature")
	check("marked", "nobody", "m/x", "yes", "no", "no session here", "marks every message")
	check("own", "sub", "$SYS/broker/uptime", "no", "no", "does not match topics that begin with $", "0x90")
	check("case", "solo", "DEEP", "yes", "no", "upper and lower case")
	check("deep", "solo", "deep/er", "yes", "no", "stops above")
	check("slash", "solo", "deep/", "yes", "no", "slash")
	check("shared", "solo", "only", "yes", "either", "connected members: 2 at n1")
	pub.publish("t/x", "1", 1)
	pub.publish("t/x", "2", 2)
	sub.message()
	eventually(t, "the window is full", func() bool { return explain("sub", "t/x").Receive.Answer == "later" })
	check("window", "sub", "t/x", "yes", "later", "window is full")
	sub.nc.Close()
	low.disconnect()
	await(t, b, "sub", false)
	await(t, b, "low", false)
	check("away", "sub", "t/x", "yes", "later", "is away since", "expires at")
	check("away with QoS 0", "low", "t/x", "yes", "no", "do not wait")
	pub.write(pub.publishPacket("t/kept", "v", 3, 3, nil))
	pub.expect(mqtt.PUBACK)
	if e := explain("sub", "t/kept"); e.Retained == nil || e.Retained.Bytes != 1 || e.Retained.Client != "pub" {
		t.Errorf("retained: %+v", e.Retained)
	}
	var e *admin.Error
	for _, topic := range []string{"a/#", "+", "", "a\x00b", strings.Repeat("x", 70000)} {
		if _, err := con.Explain(t.Context(), "sub", topic); !errors.As(err, &e) || e.Status != 400 {
			t.Errorf("%.20q: %v", topic, err)
		}
	}
}
