package uplink

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// checkPublish packs m and compares it with what paho's decoder and encoder make of it.
func checkPublish(t *testing.T, m Message, id uint16, dup bool) {
	t.Helper()
	prefix := []byte("what stood there")
	all, p := pack(prefix, nil, func([]byte) (Message, error) { return m, nil })
	if p.bad != "" {
		t.Fatalf("%q: %s", m, p.bad)
	}
	p.number(id, dup)
	if !bytes.HasPrefix(all, prefix) || !bytes.Equal(all[len(prefix):], p.b) {
		t.Fatal("the packet is not what was appended")
	}
	want := &packets.Publish{
		Topic: m.Topic, Payload: m.Payload, PacketID: id, QoS: 1, Duplicate: dup, Properties: &packets.Properties{ContentType: m.ContentType},
	}
	for _, kv := range m.UserProperties {
		want.Properties.User = append(want.Properties.User, packets.User{Key: kv[0], Value: kv[1]})
	}
	var theirs wire
	if _, err := want.WriteTo(&theirs); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(theirs, p.b) {
		t.Fatalf("ours   %.200x\npaho's %.200x", p.b, []byte(theirs))
	}
	cp, err := packets.ReadPacket(bytes.NewReader(p.b))
	if err != nil {
		t.Fatal(err)
	}
	got := cp.Content.(*packets.Publish)
	if got.Topic != m.Topic || !bytes.Equal(got.Payload, m.Payload) || got.PacketID != id || got.QoS != 1 || got.Duplicate != dup ||
		got.Retain || got.Properties.ContentType != m.ContentType || len(got.Properties.User) != len(m.UserProperties) {
		t.Fatalf("sent %+v, decoded %+v", m, got)
	}
	for i, kv := range m.UserProperties {
		if u := got.Properties.User[i]; u.Key != kv[0] || u.Value != kv[1] {
			t.Fatalf("user property %d: sent %q, decoded %q", i, kv, u)
		}
	}
}

// TestPublish: at every length at which a Variable Byte Integer grows (§1.5.5), and at
// random.
func TestPublish(t *testing.T) {
	for _, n := range []int{0, 1, 50, 90, 100, 110, 120, 127, 128, 16000, 16383, 16384, 1<<21 - 100, 1 << 21} {
		for d := -20; d <= 20; d++ {
			checkPublish(t, Message{Topic: "t", Payload: make([]byte, max(0, n+d))}, 1, false)
			props := min(max(0, n+d), 65535)
			checkPublish(t, Message{Topic: "t", UserProperties: [][2]string{{strings.Repeat("k", props), ""}}}, 65535, true)
		}
	}
	r := rand.New(rand.NewPCG(4, 2))
	text := func(most int) string {
		return string([]rune(strings.Repeat("aé水🜁", most))[:r.IntN(most+1)])
	}
	for range 2000 {
		m := Message{Topic: "t" + text(40), ContentType: text(30), Payload: []byte(text(300))}
		for range r.IntN(4) {
			m.UserProperties = append(m.UserProperties, [2]string{text(10), text(200)})
		}
		checkPublish(t, m, uint16(1+r.IntN(65535)), r.IntN(2) == 0)
	}
}

// TestPackBad: what cannot be sent leaves nothing behind in the arena.
func TestPackBad(t *testing.T) {
	for name, m := range map[string]Message{
		"no topic": {}, "wildcard": {Topic: "a/#"}, "NUL": {Topic: "a\x00"}, "not UTF-8": {Topic: "a\xff"},
		"long topic":    {Topic: strings.Repeat("t", 65536)},
		"content type":  {Topic: "a", ContentType: "\xff"},
		"key":           {Topic: "a", UserProperties: [][2]string{{"\x00", ""}}},
		"value":         {Topic: "a", UserProperties: [][2]string{{"", strings.Repeat("v", 65536)}}},
		"second's  key": {Topic: "a", UserProperties: [][2]string{{"", ""}, {"\xc0", ""}}},
	} {
		all, p := pack([]byte("x"), nil, func([]byte) (Message, error) { return m, nil })
		if p.bad == "" || len(p.b) != 0 || string(all) != "x" {
			t.Errorf("%s: %+v, %q", name, p, all)
		}
	}
	all, p := pack([]byte("x"), nil, func([]byte) (Message, error) { return Message{}, errors.New("torn") })
	if p.bad != "unreadable: torn" || len(p.b) != 0 || string(all) != "x" {
		t.Errorf("%+v, %q", p, all)
	}
}

// FuzzPublish: whatever the message, it is refused or it is the packet that paho would
// have sent.
func FuzzPublish(f *testing.F) {
	f.Add("gw/t/dev", "application/senml+json", "jws", "e30..c2ln", []byte("[]"), uint16(1), false)
	f.Add("t", "", "", "", []byte{}, uint16(65535), true)
	f.Add("a/+", "\x00", "\xff", "", []byte{}, uint16(2), false)
	f.Fuzz(func(t *testing.T, topic, contentType, key, value string, payload []byte, id uint16, dup bool) {
		m := Message{Topic: topic, ContentType: contentType, Payload: payload, UserProperties: [][2]string{{key, value}, {value, key}}}
		if id == 0 || unpublishable(m) != "" {
			return
		}
		checkPublish(t, m, id, dup)
	})
}

// TestPackAllocates nothing: a drain is this and little else.
func TestPackAllocates(t *testing.T) {
	m, err := openBlob(blobOf("gw/t/dev", 1, 256))
	if err != nil {
		t.Fatal(err)
	}
	arena := make([]byte, 0, 4096)
	open := func([]byte) (Message, error) { return m, nil }
	c, _ := cannedConn(bytes.NewReader(nil), nil)
	c.cork()
	if n := testing.AllocsPerRun(1000, func() {
		var p packet
		arena, p = pack(arena[:0], nil, open)
		p.number(7, true)
		_ = c.publish(p)
		c.w.Reset(&bytes.Buffer{})
	}); n > 1 { // the Buffer
		t.Errorf("%v allocations for each message", n)
	}
}
