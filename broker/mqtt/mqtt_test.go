package mqtt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// decode runs whatever decoder a packet needs, as the broker does.
func decode(packet []byte, version byte) error {
	first, at, end, err := Frame(packet, 1<<20)
	if err != nil {
		return err
	}
	if end == 0 || end > len(packet) {
		return errors.New("incomplete")
	}
	if err := CheckFlags(first); err != nil {
		return err
	}
	body := packet[at:end]
	switch first >> 4 {
	case CONNECT:
		_, err = DecodeConnect(body)
	case PUBLISH:
		var p Publish
		if p, err = DecodePublish(first, body, version); err == nil {
			_ = SignedOf(p.Properties)
			_ = WithoutUserProperty(p.Properties, "jws")
			o := Outgoing{Version: version, QoS: p.QoS, Topic: p.Topic, ID: p.ID, Properties: p.Properties, Payload: p.Payload}
			if got := o.Append(nil); len(got) != o.Size() {
				panic("Size is not the size")
			}
		}
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		_, _, err = DecodeAck(body, version)
	case SUBSCRIBE:
		_, err = DecodeSubscribe(body, version)
	case UNSUBSCRIBE:
		_, _, err = DecodeUnsubscribe(body, version)
	case DISCONNECT:
		_, err = DecodeDisconnect(body, version)
	}
	return err
}

// TestRefused: what the standards call malformed or a protocol error, with its reason code.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, packet string
		version      byte
		code         byte
	}{
		{"SUBSCRIBE without its options byte, which ended mochi's process", "82 06 00 01 00 00 01 61", V5, Malformed},
		{"SUBSCRIBE without a filter", "82 03 00 01 00", V5, ProtocolError},
		{"SUBSCRIBE with packet id 0", "82 07 00 00 00 00 01 61 00", V5, ProtocolError},
		{"SUBSCRIBE with QoS 3", "82 07 00 01 00 00 01 61 03", V5, Malformed},
		{"SUBSCRIBE with reserved option bits", "82 07 00 01 00 00 01 61 40", V5, Malformed},
		{"SUBSCRIBE 3.1.1 with No Local", "82 06 00 01 00 01 61 04", V311, Malformed},
		{"SUBSCRIBE with subscription id 0", "82 09 00 01 02 0b 00 00 01 61 00", V5, ProtocolError},
		{"SUBSCRIBE with wrong flags", "80 07 00 01 00 00 01 61 00", V5, Malformed},
		{"UNSUBSCRIBE without a filter", "a2 03 00 01 00", V5, ProtocolError},
		{"PUBLISH QoS 3", "36 05 00 01 61 00 01", V311, Malformed},
		{"PUBLISH QoS 0 with DUP", "38 03 00 01 61", V311, Malformed},
		{"PUBLISH QoS 1 with packet id 0", "32 05 00 01 61 00 00", V311, ProtocolError},
		{"PUBLISH to a wildcard", "30 03 00 01 23", V311, TopicNameInvalid},
		{"PUBLISH without a topic", "30 02 00 00", V311, ProtocolError},
		{"PUBLISH with topic alias 0", "30 07 00 01 61 03 23 00 00", V5, TopicAliasInvalid},
		{"PUBLISH with a subscription id", "30 06 00 01 61 02 0b 01", V5, ProtocolError},
		{"PUBLISH with the content type twice", "30 0c 00 01 61 08 03 00 01 61 03 00 01 62", V5, ProtocolError},
		{"PUBLISH with an unknown property", "30 06 00 01 61 02 04 01", V5, Malformed},
		{"PUBLISH whose topic is not UTF-8", "30 03 00 01 ff", V311, Malformed},
		{"PUBLISH with U+0000 in its topic", "30 03 00 01 00", V311, Malformed},
		{"PUBLISH whose topic runs past the end", "30 03 00 09 61", V311, Malformed},
		{"PUBLISH whose properties run past the end", "30 04 00 01 61 7f", V5, Malformed},
		{"PUBLISH with payload format 2", "30 06 00 01 61 02 01 02", V5, ProtocolError},
		{"PUBACK with packet id 0", "40 02 00 00", V311, ProtocolError},
		{"PUBACK that is too long", "40 03 00 01 00", V311, Malformed},
		{"PUBREL with wrong flags", "60 02 00 01", V311, Malformed},
		{"DISCONNECT with a server's property", "e0 05 00 03 1c 00 00", V5, ProtocolError},
		{"length of five bytes", "30 ff ff ff ff 01", V311, Malformed},
		{"length not in the fewest bytes", "30 83 00 00 01 61", V311, Malformed},
		{"packet beyond the limit", "30 ff ff ff 7f", V311, PacketTooLarge},
		{"CONNECT of another protocol", "10 0c 00 04 4d 51 54 58 04 02 00 00 00 00", V311, ProtocolError},
		{"CONNECT of version 6", "10 0c 00 04 4d 51 54 54 06 02 00 00 00 00", V311, UnsupportedVersion},
		{"CONNECT with the reserved flag", "10 0c 00 04 4d 51 54 54 04 03 00 00 00 00", V311, Malformed},
		{"CONNECT with will QoS but no will", "10 0c 00 04 4d 51 54 54 04 0a 00 00 00 00", V311, Malformed},
		{"CONNECT with Receive Maximum 0", "10 10 00 04 4d 51 54 54 05 02 00 00 03 21 00 00 00 00", V5, ProtocolError},
		{"CONNECT 3.1.1 with a password alone", "10 0e 00 04 4d 51 54 54 04 42 00 00 00 00 00 00", V311, ProtocolError},
		{"CONNECT with bytes behind it", "10 0d 00 04 4d 51 54 54 04 02 00 00 00 00 00", V311, Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := decode(unhex(t, c.packet), c.version)
			var e *Error
			if !errors.As(err, &e) || e.Code != c.code {
				t.Errorf("%v, expected reason code 0x%02X", err, c.code)
			}
		})
	}
}

func TestConnect(t *testing.T) {
	// v5, clean start, will QoS 1 retained with delay 5 and content type, user and password.
	body := unhex(t, "00 04 4d515454 05 ee 003c 0d 11 0000012c 21 000a 27 00001000"+
		"0002 6331 0b 18 00000005 03 0003 612f62 0003 772f74 0002 6869 0001 75 0001 70")
	c, err := DecodeConnect(body)
	if err != nil {
		t.Fatal(err)
	}
	w := c.Will
	if c.Version != V5 || !c.Clean || c.KeepAlive != 60 || c.ClientID != "c1" || c.SessionExpiry != 300 || c.ReceiveMax != 10 ||
		c.MaxPacket != 4096 || c.User != "u" || string(c.Password) != "p" {
		t.Errorf("%+v", c)
	}
	if w == nil || w.QoS != 1 || !w.Retain || w.Delay != 5 || w.Topic != "w/t" || string(w.Payload) != "hi" ||
		w.ContentType != "a/b" || !bytes.Equal(w.Properties, unhex(t, "03 0003 612f62")) {
		t.Errorf("will %+v", w)
	}
}

// TestPublishProperties: alias and expiry are taken out, everything else goes on as it came.
func TestPublishProperties(t *testing.T) {
	props := "03 0001 63" + "02 0000000a" + "26 0003 6a7773 0002 6162" + "23 0007"
	body := unhex(t, "0001 74 0009 16"+props+"70 61 79")
	body[5] = byte(len(unhex(t, props)))
	p, err := DecodePublish(PUBLISH<<4|2, body, V5)
	if err != nil {
		t.Fatal(err)
	}
	if p.Topic != "t" || p.ID != 9 || p.Alias != 7 || !p.HasExpiry || p.Expiry != 10 || p.JWS != "ab" || p.JWSCount != 1 ||
		p.ContentType != "c" || string(p.Payload) != "pay" || !bytes.Equal(p.Properties, unhex(t, "03 0001 63 26 0003 6a7773 0002 6162")) {
		t.Errorf("%+v", p)
	}
	if got := WithoutUserProperty(p.Properties, "jws"); !bytes.Equal(got, unhex(t, "03 0001 63")) {
		t.Errorf("without jws: %x", got)
	}
	o := Outgoing{Version: V5, QoS: 1, Dup: true, Retain: true, Topic: "t", ID: 9, HasExpiry: true, Expiry: 3, SubIDs: []uint32{1, 200},
		Properties: p.Properties, Payload: p.Payload}
	want := unhex(t, "3b 21 0001 74 0009 18 02 00000003 0b 01 0b c801 03 0001 63 26 0003 6a7773 0002 6162 706179")
	if got := o.Append(nil); !bytes.Equal(got, want) || o.Size() != len(want) {
		t.Errorf("encoded %x (%d), expected %x", got, o.Size(), want)
	}
}

// TestEncoded: the server's packets, byte by byte.
func TestEncoded(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"CONNACK 3.1.1", Connack{Version: V311, SessionPresent: true}.Append(nil), "20 02 01 00"},
		{"CONNACK 3.1.1 not authorised", Connack{Version: V311, Code: NotAuthorized, SessionPresent: true}.Append(nil), "20 02 00 05"},
		{"CONNACK 5", Connack{Version: V5, ReceiveMax: 10, AssignedID: "x"}.Append(nil), "20 0a 00 00 07 12 0001 78 21 000a"},
		{"PUBACK 3.1.1 says no code", AppendAck(nil, PUBACK, V311, 7, NotAuthorized, "no"), "40 02 00 07"},
		{"PUBACK 5 success", AppendAck(nil, PUBACK, V5, 7, 0, ""), "40 02 00 07"},
		{"PUBACK 5 with a code", AppendAck(nil, PUBACK, V5, 7, NotAuthorized, ""), "40 03 00 07 87"},
		{"PUBACK 5 with a reason", AppendAck(nil, PUBACK, V5, 7, NotAuthorized, "no"), "40 09 00 07 87 05 1f 0002 6e6f"},
		{"PUBREL", AppendAck(nil, PUBREL, V5, 7, 0, ""), "62 02 00 07"},
		{"SUBACK 3.1.1 failure", AppendSuback(nil, V311, 1, []byte{0, 2, 0x8f}, ""), "90 05 00 01 00 02 80"},
		{"SUBACK 5", AppendSuback(nil, V5, 1, []byte{1, 0x8f}, ""), "90 05 00 01 00 01 8f"},
		{"UNSUBACK 3.1.1", AppendUnsuback(nil, V311, 1, []byte{0x11}), "b0 02 00 01"},
		{"UNSUBACK 5", AppendUnsuback(nil, V5, 1, []byte{0x11}), "b0 04 00 01 00 11"},
		{"DISCONNECT 5", AppendDisconnect(nil, V5, SessionTakenOver, ""), "e0 02 8e 00"},
		{"DISCONNECT 3.1.1 does not exist", AppendDisconnect(nil, V311, SessionTakenOver, ""), ""},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s: %x, expected %x", c.name, c.got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		in, share, filter string
		ok                bool
	}{
		{"a/b", "", "a/b", true}, {"#", "", "#", true}, {"+/+", "", "+/+", true}, {"a/#", "", "a/#", true}, {"/", "", "/", true},
		{"", "", "", false}, {"a#", "", "", false}, {"a/#/b", "", "", false}, {"a+", "", "", false}, {"a/+b/c", "", "", false},
		{"$share/g/a/b", "g", "a/b", true}, {"$share/g/#", "g", "#", true}, {"$share/g/", "", "", false}, {"$share/g", "", "", false},
		{"$share//a", "", "", false}, {"$share/+/a", "", "", false}, {"$shared/a", "", "$shared/a", true},
	} {
		share, filter, ok := ParseFilter(c.in)
		if ok != c.ok || ok && (share != c.share || filter != c.filter) {
			t.Errorf("%q: %q %q %v", c.in, share, filter, ok)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/c", false}, {"a/b", "a/b/c", false}, {"a/b/c", "a/b", false},
		{"+/b", "a/b", true}, {"a/+", "a", false}, {"a/+", "a/", true}, {"+", "a", true}, {"+", "/a", false}, {"+/+", "/a", true}, {"/+", "/a", true},
		{"#", "a/b/c", true}, {"a/#", "a", true}, {"a/#", "a/b/c", true}, {"a/#", "ab", false}, {"a/+/#", "a/b", true}, {"a/+/#", "a", false},
		{"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true}, {"$SYS/+", "$SYS/x", true},
	} {
		if got := Match(c.filter, c.topic); got != c.want {
			t.Errorf("%q against %q: %v", c.filter, c.topic, got)
		}
	}
}

// FuzzPackets: no input may panic a decoder, in either version.
func FuzzPackets(f *testing.F) {
	for _, s := range []string{
		"82 06 00 01 00 00 01 61", "82 07 00 01 00 00 01 61 01", "30 03 00 01 61", "32 0a 00 01 61 00 01 03 23 00 01 78",
		"10 0c 00 04 4d 51 54 54 04 02 00 00 00 00", "10 10 00 04 4d 51 54 54 05 02 00 00 03 21 00 0a 00 00 00",
		"40 02 00 01", "62 04 00 01 92 00", "a2 06 00 01 00 00 01 61", "e0 02 04 00", "c0 00",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []byte{V311, V5} {
			_ = decode(b, v)
		}
	})
}

// FuzzMatch: the two ways to match agree on what a filter is for.
func FuzzMatch(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if _, _, ok := ParseFilter(filter); ok && ValidTopic(topic) {
			_ = Match(filter, topic)
			if !ValidTopic(filter) {
				return
			}
			if Match(filter, topic) != (filter == topic) {
				t.Errorf("%q without wildcards against %q", filter, topic)
			}
		}
	})
}
