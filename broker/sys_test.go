package broker

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// TestSysTopics: all at once for a new subscriber, then what changes; nobody else may write them,
// and # does not match them.
func TestSysTopics(t *testing.T) {
	b, err := New(testConfig(t.TempDir()), Options{Log: slog.New(slog.DiscardHandler), Version: "v7", hurry: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r := serveBroker(t, b)
	all, _ := dialRaw(t, r.addr, "all", v5)
	all.subscribe(1, "#", "+/broker/version")
	pub, _ := dialRaw(t, r.addr, "pub", v5)
	if p := pub.publish("$SYS/broker/version", "mine", 1); p.code() != mqtt.TopicNameInvalid {
		t.Errorf("0x%02X", p.code())
	}
	sub, _ := dialRaw(t, r.addr, "sub", opts{expiry: 3600})
	sub.write(frame(mqtt.SUBSCRIBE<<4|2, append(mqtt.AppendText([]byte{0, 1, 0}, "$SYS/#"), 1)))
	got, live := map[string]string{}, map[string]int{}
	read := func() message { // a round may come before the SUBACK (3.8.4)
		for {
			p, err := sub.next()
			if err != nil {
				t.Fatal(err)
			}
			if p.kind != mqtt.PUBLISH {
				continue
			}
			m := p.message(mqtt.V5)
			if m.retain {
				got[m.topic] = m.payload
			} else {
				live[m.topic]++
			}
			return m
		}
	}
	for len(got) < len(r.sysValues()) {
		read()
	}
	for topic, want := range map[string]string{"$SYS/broker/version": "holdfast-broker v7", "$SYS/broker/clients/connected": "3", "$SYS/broker/subscriptions/count": "3",
		"$SYS/holdfast/discards/refused/messages": "1", "$SYS/holdfast/node": "n1", "$SYS/holdfast/ready": "true", "$SYS/broker/retained messages/count": "0"} {
		if got[topic] != want {
			t.Errorf("%s is %q, want %q", topic, got[topic], want)
		}
	}
	if !strings.HasSuffix(got["$SYS/broker/uptime"], " seconds") {
		t.Errorf("uptime %q", got["$SYS/broker/uptime"])
	}
	pub.publish("$SYS/x", "", 2)
	for m := (message{}); m.topic != "$SYS/holdfast/discards/refused/messages" || m.payload != "2"; {
		m = read()
	}
	if n := live["$SYS/broker/version"]; n > 1 { // once in the first round, and then only what changed
		t.Errorf("what did not change came %d times", n)
	}
	one, _ := dialRaw(t, r.addr, "one", v5)
	one.subscribe(0, "$SYS/holdfast/node")
	if m := one.message(); m.topic != "$SYS/holdfast/node" || !m.retain {
		t.Errorf("%+v", m)
	}
	all.quiet()
}
