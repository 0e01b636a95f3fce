package mqtt

import (
	"reflect"
	"testing"
)

func inspect(t *testing.T, packet []byte, version byte) Seen {
	t.Helper()
	first, at, end, err := Frame(packet, 1<<20)
	if err != nil || end != len(packet) {
		t.Fatalf("frame %x: %d, %v", packet, end, err)
	}
	return Inspect(first, packet[at:end], version)
}

func TestInspect(t *testing.T) {
	publish := Outgoing{Version: V5, QoS: 1, Dup: true, Retain: true, Topic: "a/b", ID: 7, HasExpiry: true, Expiry: 5,
		SubIDs: []uint32{200}, Properties: AppendUserProperty(nil, "k", "v"), Payload: []byte("hello")}
	for _, c := range []struct {
		name    string
		packet  []byte
		version byte
		want    Seen
	}{
		{"publish", publish.Append(nil), V5, Seen{Type: "PUBLISH", Topic: "a/b", Payload: 5, QoS: 1, Dup: true, Retain: true, HasID: true, ID: 7}},
		{"publish with alias", []byte{PUBLISH << 4, 8, 0, 0, 3, pTopicAlias, 0, 9, 'x', 'y'}, V5, Seen{Type: "PUBLISH", Alias: 9, Payload: 2}},
		{"puback of 3.1.1", AppendAck(nil, PUBACK, V311, 7, 0, ""), V311, Seen{Type: "PUBACK", HasID: true, ID: 7, HasCode: true}},
		{"puback", AppendAck(nil, PUBACK, V5, 7, 0x87, "no"), V5, Seen{Type: "PUBACK", HasID: true, ID: 7, HasCode: true, Code: 0x87, Reason: "no"}},
		{"suback", AppendSuback(nil, V5, 2, []byte{1, 0x87}, "no"), V5, Seen{Type: "SUBACK", HasID: true, ID: 2, Reason: "no", Codes: []byte{1, 0x87}}},
		{"connack", Connack{Version: V5, SessionPresent: true, ReceiveMax: 9, AssignedID: "auto"}.Append(nil), V5,
			Seen{Type: "CONNACK", HasCode: true, Present: true, ClientID: "auto"}},
		{"connack elsewhere", Connack{Version: V5, Code: UseAnotherServer, Server: "b2:1883"}.Append(nil), V5,
			Seen{Type: "CONNACK", HasCode: true, Code: UseAnotherServer, Server: "b2:1883"}},
		{"disconnect", AppendRedirect(nil, V5, ServerMoved, "go", "b2:1883"), V5,
			Seen{Type: "DISCONNECT", HasCode: true, Code: ServerMoved, Reason: "go", Server: "b2:1883"}},
		{"disconnect of 3.1.1", []byte{DISCONNECT << 4, 0}, V311, Seen{Type: "DISCONNECT", HasCode: true}},
		{"ping", AppendPingresp(nil), V5, Seen{Type: "PINGRESP"}},
		{"connect", []byte{CONNECT << 4, 15, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0, 2, 'c', '1'}, V5,
			Seen{Type: "CONNECT", ClientID: "c1", Version: V5, Clean: true, Keep: 60}},
		{"subscribe", []byte{SUBSCRIBE<<4 | 2, 11, 0, 3, 2, pSubscriptionID, 1, 0, 3, 'a', '/', '#', 1}, V5,
			Seen{Type: "SUBSCRIBE", HasID: true, ID: 3, Filters: []SeenFilter{{"a/#", 1}}}},
		{"unsubscribe of 3.1.1", []byte{UNSUBSCRIBE<<4 | 2, 5, 0, 3, 0, 1, 'a'}, V311, Seen{Type: "UNSUBSCRIBE", HasID: true, ID: 3, Filters: []SeenFilter{{"a", 0}}}},
		{"the packet that kills mochi", []byte{SUBSCRIBE<<4 | 2, 6, 0, 1, 0, 0, 1, 'a'}, V5,
			Seen{Type: "SUBSCRIBE", HasID: true, ID: 1, Filters: []SeenFilter{{"a", 0}}, Cut: true}},
	} {
		if got := inspect(t, c.packet, c.version); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

// FuzzInspect: whatever a packet is, it can be looked at, and nothing of it is invented.
func FuzzInspect(f *testing.F) {
	f.Add(byte(PUBLISH<<4|2), []byte{0, 1, 'a', 0, 1, 3, pTopicAlias, 0, 1, 'x'}, byte(V5))
	f.Add(byte(CONNECT<<4), []byte{0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0, 2, 'c', '1'}, byte(V5))
	f.Add(byte(SUBSCRIBE<<4|2), []byte{0, 3, 0, 0, 1, 'a'}, byte(V5))
	f.Fuzz(func(t *testing.T, first byte, body []byte, version byte) {
		s := Inspect(first, body, version)
		if len(s.Topic)+len(s.ClientID)+len(s.Reason)+len(s.Codes)+s.Payload > 2*len(body) || len(s.Filters) > len(body) {
			t.Errorf("%+v of %x", s, body)
		}
	})
}
