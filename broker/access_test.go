package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"holdfast/broker/auth"
	"holdfast/broker/mqtt"
)

// testUsers is a source that a test changes. A user's password is its name.
type testUsers struct {
	mu     sync.Mutex
	m      map[string]auth.Answer
	silent bool // it fails
	asked  int
	env    auth.Env
}

func newTestUsers() *testUsers { return &testUsers{m: map[string]auth.Answer{}} }

func (u *testUsers) links() []auth.Link {
	return []auth.Link{{Label: "test", Timeout: patience, Open: func(env auth.Env) auth.Source { u.env = env; return u }}}
}

func (u *testUsers) Check(_ context.Context, c *auth.Client) (auth.Answer, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	if u.silent {
		return auth.Answer{}, errors.New("the users are away")
	}
	return u.m[c.Username], nil
}

func (u *testUsers) Refresh(ctx context.Context, c *auth.Client) (auth.Answer, error) {
	return u.Check(ctx, c)
}

func (u *testUsers) Close() error { return nil }

// may gives a user rules: "publish a/#", "deny subscribe a/b", "subscribe a/# qos 1", "publish a noretain".
func (u *testUsers) may(user string, rules ...string) {
	u.change(user, func(a *auth.Answer) {
		a.Decision = auth.Allow
		a.Password = &auth.Password{Stored: user, Fast: true, Verify: func(p []byte) bool { return string(p) == user }}
		a.Rules = nil
		for i, text := range rules {
			r := auth.Rule{Allow: true, MaxQoS: 2, From: fmt.Sprint("rule ", i+1)}
			words := strings.Fields(text)
			if words[0] == "deny" {
				r.Allow, words = false, words[1:]
			}
			r.Access = map[string]auth.Access{"publish": auth.Publish, "subscribe": auth.Subscribe, "both": auth.Both}[words[0]]
			r.Filter = words[1]
			if len(words) == 4 {
				r.MaxQoS = words[3][0] - '0'
			}
			r.NoRetain = len(words) == 3
			a.Rules = append(a.Rules, r)
		}
	})
}

func (u *testUsers) change(user string, fn func(*auth.Answer)) {
	u.mu.Lock()
	a := u.m[user]
	fn(&a)
	u.m[user] = a
	changed := u.env.Changed
	u.mu.Unlock()
	if changed != nil {
		changed()
	}
}

func (u *testUsers) fail(yes bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = yes
}

func as(user string, o opts) opts {
	o.user, o.secret = user, user
	if o.version == 0 {
		o.version = mqtt.V5
	}
	return o
}

// withUsers is a broker with these users.
func withUsers(t *testing.T, u *testUsers, change func(*Config)) *running {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.Auth, cfg.Access.RefusedDelay = u.links(), time.Millisecond
	if change != nil {
		change(&cfg)
	}
	return start(t, cfg)
}

// TestAccessConnect: who gets in, and what the others are told.
func TestAccessConnect(t *testing.T) {
	u := newTestUsers()
	u.may("ann", "both #")
	u.may("off")
	u.change("off", func(a *auth.Answer) { a.Decision, a.Forbidden = auth.Deny, true })
	b := withUsers(t, u, nil)
	will := func(topic string) func([]byte) ([]byte, byte) {
		return func(body []byte) ([]byte, byte) {
			return mqtt.AppendText(mqtt.AppendText(body, topic), "gone"), 4
		}
	}
	u.may("low", "publish w/ok")
	for _, c := range []struct {
		what         string
		o            opts
		five, threes byte
	}{
		{"a right password", as("ann", opts{}), 0, 0},
		{"a wrong one", opts{user: "ann", secret: "x"}, mqtt.BadUserOrPassword, 4},
		{"nobody knows it", as("bob", opts{}), mqtt.BadUserOrPassword, 4},
		{"no user", opts{}, mqtt.BadUserOrPassword, 4},
		{"forbidden", as("off", opts{}), mqtt.NotAuthorized, 5},
		{"a will that it may not", as("low", opts{will: will("w/no")}), mqtt.NotAuthorized, 5},
	} {
		for version, want := range map[byte]byte{mqtt.V5: c.five, mqtt.V311: c.threes} {
			o := c.o
			o.version, o.clean = version, true
			if version == mqtt.V5 && o.will != nil {
				o.will = func([]byte) ([]byte, byte) { return c.o.will([]byte{0}) } // no properties
			}
			client, ack, err := tryDial(t, b.addr, "c", o)
			if err != nil || ack.body[1] != want {
				t.Errorf("%s, version %d: %x, %v; want %#x", c.what, version, ack.body, err, want)
			} else if want == 0 {
				client.disconnect()
			}
		}
	}
	u.fail(true)
	if _, ack, err := tryDial(t, b.addr, "c", as("ann", opts{})); err != nil || ack.body[1] != mqtt.ServerUnavailable {
		t.Errorf("a source that fails: %x, %v", ack.body, err)
	}
	if n := b.access.counts.Wills.Load(); n != 2 {
		t.Errorf("%d wills refused", n)
	}
}

// TestAccessPublish: what may be published, what the publisher is told, and that it stays connected.
func TestAccessPublish(t *testing.T) {
	u := newTestUsers()
	u.may("all", "both #", "subscribe $SYS/#")
	u.may("ann", "deny publish a/no/#", "publish a/low qos 1", "publish a/flat noretain", "publish a/%c/#")
	b := withUsers(t, u, nil)
	sub, _ := dialRaw(t, b.addr, "sub", as("all", opts{}))
	sub.subscribe(1, "a/#")
	five, _ := dialRaw(t, b.addr, "five", as("ann", opts{}))
	five.publish("a/five/1", "yes", 1)
	for topic, retain := range map[string]byte{"a/no/x": 0, "a/other/x": 0, "b": 0, "a/flat": 1, "$SYS/x": 0} {
		five.write(five.publishPacket(topic, "no", 2|retain, 2, nil))
		p := five.expect(mqtt.PUBACK)
		if p.code() != mqtt.NotAuthorized || !strings.Contains(string(p.body), "not authorized") {
			t.Errorf("%s: %q", topic, p.body)
		}
		five.write(five.publishPacket(topic, "no", retain, 0, nil)) // QoS 0: dropped
	}
	five.write(five.publishPacket("a/low", "no", 4, 3, nil))
	if p := five.expect(mqtt.PUBREC); p.code() != mqtt.NotAuthorized {
		t.Errorf("QoS 2 where 1 is allowed: %x", p.body)
	}
	five.write(five.publishPacket("a/five/2", "yes", 4, 3, nil)) // the packet id is free
	five.expect(mqtt.PUBREC)
	five.ack(mqtt.PUBREL, 3)
	five.expect(mqtt.PUBCOMP)
	three, _ := dialRaw(t, b.addr, "three", as("ann", opts{version: mqtt.V311, clean: true}))
	three.publish("a/no/x", "no", 1) // acknowledged: 3.1.1 section 3.3.5
	three.publish("a/three/1", "yes", 2)
	for _, want := range []string{"a/five/1", "a/five/2", "a/three/1"} {
		m := sub.message()
		if m.topic != want || m.payload != "yes" {
			t.Errorf("%s %q, want %s", m.topic, m.payload, want)
		}
		sub.ack(mqtt.PUBACK, m.id)
	}
	sub.quiet()
	if n := b.access.counts.Publishes.Load(); n != 12 {
		t.Errorf("%d refused", n)
	}
	if messages, _ := b.discards.sums(); messages[discardRefused] != 12 {
		t.Errorf("%d discarded", messages[discardRefused])
	}
	e, err := b.explain(t.Context(), "five", "a/no/x")
	if err != nil || e.Publish.Answer != ExplainNo || !strings.Contains(strings.Join(e.Publish.Why, " "), `rule 1: deny publish "a/no/#"`) {
		t.Errorf("%+v, %v", e.Publish, err)
	}
	if e, err := b.explain(t.Context(), "five", "a/low"); err != nil || e.Publish.Answer != ExplainYes || !strings.Contains(strings.Join(e.Publish.Why, " "), "QoS 1 at most") {
		t.Errorf("%+v, %v", e.Publish, err)
	}
	if e, err := b.explain(t.Context(), "away", "a/low"); err != nil || e.Publish.Answer != ExplainUnknown {
		t.Errorf("%+v, %v", e.Publish, err)
	}
}

// TestAccessPublishDisconnects: if that is what is configured.
func TestAccessPublishDisconnects(t *testing.T) {
	u := newTestUsers()
	u.may("ann")
	b := withUsers(t, u, func(c *Config) { c.Access.OnRefusedPublish = refusedDisconnect })
	for _, version := range []byte{mqtt.V5, mqtt.V311} {
		for qos := range byte(3) {
			c, _ := dialRaw(t, b.addr, "c", as("ann", opts{version: version, clean: true}))
			c.write(c.publishPacket("a", "no", qos<<1, 1, nil))
			last := c.closed()
			if version == mqtt.V5 && (last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.NotAuthorized) {
				t.Errorf("QoS %d: %d %x", qos, last.kind, last.body)
			}
		}
	}
}

// TestAccessSubscribe: what may be subscribed to, with what QoS, and what comes with it.
func TestAccessSubscribe(t *testing.T) {
	u := newTestUsers()
	u.may("all", "both #")
	u.may("ann", "deny subscribe a/secret/#", "subscribe a/# qos 1", "subscribe b/+/c", "subscribe q/%u")
	b := withUsers(t, u, nil)
	pub, _ := dialRaw(t, b.addr, "pub", as("all", opts{}))
	pub.write(pub.publishPacket("a/secret/x", "retained", 3, 1, nil))
	pub.expect(mqtt.PUBACK)
	filters := []string{"a/x", "a/secret/x", "a/#", "#", "b/+/c", "b/x/+", "$share/g/a/secret/x", "$share/g/a/x", "$SYS/#", "q/ann", "q/+"}
	for version, no := range map[byte]byte{mqtt.V5: mqtt.NotAuthorized, mqtt.V311: 0x80} {
		c, _ := dialRaw(t, b.addr, fmt.Sprint("c", version), as("ann", opts{version: version, clean: true}))
		want := []byte{1, no, no, no, 2, no, no, 1, no, 2, no}
		if got := c.subscribe(2, filters...); !slices.Equal(got, want) {
			t.Errorf("version %d: %x, want %x", version, got, want)
		}
		c.quiet()
		c.disconnect()
	}
	if n := b.access.counts.Subscriptions.Load(); n != 14 {
		t.Errorf("%d refused", n)
	}
}

// TestAccessChanges: a subscription that lost its right gets nothing, and goes on when it gets it again; a user that is
// gone, or has another password, is disconnected.
func TestAccessChanges(t *testing.T) {
	u := newTestUsers()
	u.may("all", "both #")
	u.may("ann", "subscribe a/#", "subscribe b/#")
	b := withUsers(t, u, nil)
	pub, _ := dialRaw(t, b.addr, "pub", as("all", opts{}))
	ann, _ := dialRaw(t, b.addr, "ann", as("ann", opts{receive: 1}))
	ann.subscribe(1, "a/#", "b/#", "$share/g/a/#")
	id := uint16(0)
	publish := func(topic, payload string) {
		t.Helper()
		id++
		if p := pub.publish(topic, payload, id); p.code() != 0 {
			t.Fatalf("%x", p.body)
		}
	}
	publish("b/1", "in the window") // its only place: what follows waits
	first := ann.message()
	publish("a/1", "queued")
	u.may("ann", "subscribe b/#")
	eventually(t, "two subscriptions are suspended", func() bool { return b.access.counts.Suspended.Load() == 2 })
	ann.ack(mqtt.PUBACK, first.id)
	publish("a/2", "not for it")
	publish("b/2", "for it")
	if m := ann.take(); m.topic != "b/2" {
		t.Errorf("%s %q", m.topic, m.payload)
	}
	ann.quiet()
	e, err := b.explain(t.Context(), "ann", "a/x")
	if err != nil || e.Receive.Answer != ExplainNo || !strings.Contains(strings.Join(e.Receive.Why, " "), "has lost its right") {
		t.Errorf("%+v, %v", e.Receive, err)
	}
	u.may("ann", "subscribe #")
	eventually(t, "they have it again", func() bool { return b.access.counts.Resumed.Load() == 2 })
	publish("a/3", "for it again")
	topics := []string{ann.take().topic, ann.take().topic} // the plain one, and the group's, which kept what nobody could have
	for len(topics) < 4 {
		topics = append(topics, ann.take().topic)
	}
	slices.Sort(topics)
	if want := []string{"a/1", "a/2", "a/3", "a/3"}; !slices.Equal(topics, want) {
		t.Errorf("%v, want %v", topics, want)
	}
	ann.quiet()
	if messages, _ := b.discards.sums(); messages[discardNotAllowed] != 2 {
		t.Errorf("%d discarded, want a/1 and a/2", messages[discardNotAllowed])
	}
	u.change("ann", func(a *auth.Answer) { a.Password = &auth.Password{Stored: "another"} })
	if last := ann.closed(); last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.NotAuthorized {
		t.Errorf("another password: %d %x", last.kind, last.body)
	}
	u.change("all", func(a *auth.Answer) { *a = auth.Answer{} })
	if last := pub.closed(); last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.NotAuthorized {
		t.Errorf("a user that is gone: %d %x", last.kind, last.body)
	}
}

// TestAccessOfSessionsAway: what waits for a client that is away is judged when it comes back, also what it has been sent
// and has not acknowledged.
func TestAccessOfSessionsAway(t *testing.T) {
	u := newTestUsers()
	u.may("all", "both #")
	u.may("ann", "subscribe #")
	b := withUsers(t, u, nil)
	pub, _ := dialRaw(t, b.addr, "pub", as("all", opts{}))
	ann, _ := dialRaw(t, b.addr, "ann", as("ann", opts{expiry: 3600}))
	ann.subscribe(2, "a/#", "b/#")
	pub.publish("a/1", "sent and not acknowledged", 1)
	pub.publish("b/1", "likewise", 2)
	ann.message()
	ann.message()
	ann.nc.Close()
	eventually(t, "it is away", func() bool { return !b.connected("ann") })
	pub.publish("a/2", "waits", 3)
	pub.publish("b/2", "waits", 4)
	u.may("ann", "subscribe b/#")
	ann, present := dialRaw(t, b.addr, "ann", as("ann", opts{expiry: 3600}))
	if !present {
		t.Fatal("the session is gone")
	}
	for _, want := range []string{"b/1", "b/2"} {
		if m := ann.take(); m.topic != want {
			t.Errorf("%s, want %s", m.topic, want)
		}
	}
	ann.quiet()
	if messages, _ := b.discards.sums(); messages[discardNotAllowed] != 2 {
		t.Errorf("%d discarded, want a/1 and a/2", messages[discardNotAllowed])
	}
}

// TestAccessEnds: a connection ends when what it came with does.
func TestAccessEnds(t *testing.T) {
	u := newTestUsers()
	u.may("ann")
	b := withUsers(t, u, nil)
	u.change("ann", func(a *auth.Answer) { a.Until = time.Now().Add(time.Hour) })
	c, _ := dialRaw(t, b.addr, "c", as("ann", opts{}))
	u.change("ann", func(a *auth.Answer) { a.Until = time.Now().Add(50 * time.Millisecond) }) // a new one, for less long
	if last := c.closed(); last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.NotAuthorized {
		t.Errorf("%d %x", last.kind, last.body)
	}
}

// TestAccessWithoutItsSource: a source that is away disturbs nobody who is connected, whatever they do.
func TestAccessWithoutItsSource(t *testing.T) {
	u := newTestUsers()
	u.may("ann", "both a/#")
	b := withUsers(t, u, nil)
	c, _ := dialRaw(t, b.addr, "c", as("ann", opts{}))
	u.fail(true)
	u.env.Changed()
	eventually(t, "it was asked", func() bool { return b.access.counts.Unrefreshed.Load() > 0 })
	u.mu.Lock()
	asked := u.asked
	u.mu.Unlock()
	for i := range uint16(100) {
		if p := c.publish("a/b", "x", i+1); p.code() != 0 {
			t.Fatalf("%x", p.body)
		}
	}
	if codes := c.subscribe(1, "a/#", "b"); codes[0] != 1 || codes[1] != mqtt.NotAuthorized {
		t.Errorf("%x", codes)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.asked != asked {
		t.Errorf("its users were asked %d times for 100 messages", u.asked-asked)
	}
}

// TestAccessWhileEverythingMoves: rules change while clients connect, subscribe and are published to. When it is quiet,
// every subscription is as the last rules say, and what is published then reaches those who may have it.
func TestAccessWhileEverythingMoves(t *testing.T) {
	u := newTestUsers()
	u.may("all", "both #")
	b := withUsers(t, u, nil)
	const users = 8
	name := func(i int) string { return fmt.Sprint("u", i) }
	for i := range users {
		u.may(name(i), "subscribe #")
	}
	var moving sync.WaitGroup
	stop := make(chan struct{})
	moving.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				u.may(name(n%users), map[bool]string{true: "subscribe #", false: "subscribe b/#"}[n/users%2 == 0])
			}
		}
	})
	pub, _ := dialRaw(t, b.addr, "pub", as("all", opts{}))
	var clients sync.WaitGroup
	last := make([]*rawClient, users)
	for i := range users {
		clients.Go(func() {
			for range 10 {
				c, _ := dialRaw(t, b.addr, name(i), as(name(i), opts{expiry: 3600, receive: 1}))
				c.write(subscribePacket(c, 0, "a/#", "b/#"))
				for { // messages may come first
					if p, err := c.next(); err != nil {
						t.Error(err)
						return
					} else if p.kind == mqtt.SUBACK {
						break
					}
				}
				last[i] = c
			}
		})
	}
	for i := range uint16(200) {
		pub.publish("a/x", "moving", i+1)
	}
	clients.Wait()
	close(stop)
	moving.Wait()
	for i := range users {
		u.may(name(i), map[bool]string{true: "subscribe #", false: "subscribe b/#"}[i%2 == 0])
	}
	eventually(t, "every subscription is as the rules say", func() bool {
		for i := range users {
			s := b.sessions.get(name(i))
			if s == nil {
				return false
			}
			s.mu.Lock()
			ok := s.conn != nil
			for _, sub := range slices.Collect(maps.Values(s.subs)) {
				ok = ok && sub.barred == (i%2 == 1 && sub.Filter == "a/#")
			}
			s.mu.Unlock()
			if !ok {
				return false
			}
		}
		return true
	})
	pub.publish("a/end", "1", 1)
	pub.publish("b/end", "2", 2)
	for i, c := range last {
		saw := false
		for {
			m := c.message()
			saw = saw || m.topic == "a/end"
			if m.topic == "b/end" {
				break
			}
		}
		if allowed := i%2 == 0; saw != allowed && len(b.sessions.get(name(i)).subs) == 2 {
			t.Errorf("%s: a/end came: %v", name(i), saw)
		}
	}
}

func subscribePacket(c *rawClient, options byte, filters ...string) []byte {
	body := c.props([]byte{0, 1}, nil)
	for _, f := range filters {
		body = append(mqtt.AppendText(body, f), options)
	}
	return frame(mqtt.SUBSCRIBE<<4|2, body)
}

// TestAccessOverNodes: a session is judged by the sources of the node that it comes to, its place in a group too.
func TestAccessOverNodes(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	var us []*testUsers
	for i := range c.cfgs {
		u := newTestUsers()
		u.may("all", "both #")
		u.may("ann", "subscribe #")
		c.cfgs[i].Auth = u.links()
		us = append(us, u)
	}
	c.begin()
	us[1].may("ann", "subscribe b/#")
	pub, _ := dialRaw(t, c.up[0].addr, "pub", as("all", opts{}))
	ann, _ := dialRaw(t, c.up[0].addr, "ann", as("ann", opts{expiry: 3600}))
	ann.subscribe(1, "a/#", "b/#", "$share/g/a/#")
	ann.disconnect()
	eventually(t, "it is away", func() bool { return !c.up[0].connected("ann") })
	pub.publish("a/1", "x", 1)
	pub.publish("b/1", "x", 2)
	ann, present := dialRaw(t, c.up[1].addr, "ann", as("ann", opts{expiry: 3600}))
	if !present {
		t.Fatal("the session is gone")
	}
	if m := ann.take(); m.topic != "b/1" {
		t.Errorf("%s", m.topic)
	}
	other, _ := dialRaw(t, c.up[2].addr, "other", as("ann", opts{}))
	other.subscribe(1, "$share/g/a/#")
	pub.publish("a/2", "x", 3)
	for _, want := range []string{"a/1", "a/2"} { // all of the group's: ann may have none
		if m := other.take(); m.topic != want {
			t.Errorf("%s, want %s", m.topic, want)
		}
	}
	pub.publish("b/2", "x", 4)
	if m := ann.take(); m.topic != "b/2" {
		t.Errorf("%s", m.topic)
	}
	ann.quiet()
	us[1].may("ann", "subscribe #")
	eventually(t, "they have it again", func() bool { return c.up[1].access.counts.Resumed.Load() == 2 })
	pub.publish("a/3", "x", 5)
	if m := ann.take(); m.topic != "a/3" {
		t.Errorf("%s", m.topic)
	}
}

// TestAccessOfOtherClients: mosquitto's and Paho's clients with users of a file.
func TestAccessOfOtherClients(t *testing.T) {
	cfg := fileConfig(t, "[[user]]\nname = \"ann\"\npassword = %q\npublish = [\"a/%%c/#\", \"a/ann/#\"]\nsubscribe = [\"a/#\"]\n", "secret")
	b := start(t, cfg)
	lines, end := mosquittoSub(t, b.addr, "-u", "ann", "-P", "secret", "-V", "mqttv5", "-q", "1", "-t", "a/#")
	defer end()
	mosquittoPub(t, b.addr, "-u", "ann", "-P", "secret", "-i", "c1", "-q", "1", "-t", "a/c1/x", "-m", "hello")
	select {
	case l := <-lines:
		if l != "hello" {
			t.Errorf("%q", l)
		}
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := paho.NewClient(paho.ClientConfig{Conn: mustDial(t, b.addr)})
	connect := func(c *paho.Client, password string) (*paho.Connack, error) {
		return c.Connect(ctx, &paho.Connect{ClientID: "p", KeepAlive: 30, CleanStart: true, Username: "ann", UsernameFlag: true, Password: []byte(password), PasswordFlag: true})
	}
	if _, err := connect(p, "secret"); err != nil {
		t.Fatal(err)
	}
	ack, err := p.Publish(ctx, &paho.Publish{QoS: 1, Topic: "b", Payload: []byte("x")})
	if err == nil || ack == nil || ack.ReasonCode != mqtt.NotAuthorized {
		t.Errorf("%+v, %v", ack, err)
	}
	sub, err := p.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "#", QoS: 1}}})
	if err == nil || sub == nil || sub.Reasons[0] != mqtt.NotAuthorized || !strings.Contains(sub.Properties.ReasonString, "not authorized") {
		t.Errorf("%+v, %v", sub, err)
	}
	_ = p.Disconnect(&paho.Disconnect{})
	if ack, err := connect(paho.NewClient(paho.ClientConfig{Conn: mustDial(t, b.addr)}), "wrong"); err == nil || ack == nil || ack.ReasonCode != mqtt.BadUserOrPassword {
		t.Errorf("%+v, %v", ack, err)
	}
}
