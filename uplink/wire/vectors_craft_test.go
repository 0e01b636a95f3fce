package wire

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// This file makes messages that Seal would not make: properly signed, so that only
// the rule in question stands between them and the reader.

// simple is the message that most crafted ones are a variation of.
func simple(t *testing.T, f Format, k *PrivateKey) (Message, Header) {
	t.Helper()
	h := testHeader(1)
	p := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{{Name: "w", Unit: "kg", V: ptr(1.5)}}}
	m, err := Seal(f, h, p, k)
	if err != nil {
		t.Fatal(err)
	}
	h.Alg, h.Kid, h.Version = k.Alg(), k.Kid(), Version
	return m, h
}

func (m Message) withJWS(header string, k *PrivateKey) Message {
	m.JWS = signDetached([]byte(header), m.Payload, k)
	return m
}

// coseMap is the protected header as a map to change.
func coseMap(h Header) map[any]any {
	alg := coseEdDSA
	if h.Alg == algHS256 {
		alg = coseHS256
	}
	return map[any]any{
		1: alg, 4: []byte(h.Kid), "v": h.Version, "gw": h.Gateway, "dev": h.Device, "epoch": h.Epoch, "seq": h.Seq,
		"floor": h.Floor, "n": h.N, "total": h.Total, "topic": h.Topic, "boot": h.Boot, "mono": h.Mono,
		"clock": h.Clock, "type": h.Type,
	}
}

func mustCBOR(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cborEncoder.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cose assembles and signs a COSE message.
func cose(t *testing.T, tag byte, protected, payload []byte, k *PrivateKey) Message {
	t.Helper()
	signature := k.sign(toBeSigned(tag, protected, payload))
	b := append([]byte{tag}, mustCBOR(t, []any{protected, map[int]int{}, payload, signature})...)
	return Message{Topic: "gw/gw-0042/scale", ContentType: ContentTypeCOSE, Payload: b}
}

func cosePayload(t *testing.T, m Message) []byte {
	t.Helper()
	s, err := openCOSE(m, &scratch{})
	if err != nil {
		t.Fatal(err)
	}
	return s.payload
}

// otherSpellings are messages that other software may write and that are valid.
func otherSpellings(t *testing.T, keys vectorKeys) []vector {
	m, h := simple(t, JSON, keys.ed)
	add := func(list []vector, name string, m Message) []vector {
		return append(list, sealed(t, name, m, keys.known()))
	}

	fields := strings.Split(strings.Trim(string(h.appendJSON(nil)), "{}"), ",")
	slices.Reverse(fields)
	list := add(nil, "json: header in another order, with whitespace", m.withJWS(" {\t"+strings.Join(fields, " ,\n")+"\r} ", keys.ed))
	escaped := strings.Replace(string(h.appendJSON(nil)), `"topic":"gw/`, `"t\u006Fpic":"\u0067w\/`, 1)
	list = add(list, "json: header with escapes", m.withJWS(escaped, keys.ed))
	list = add(list, "json: alg Ed25519 of RFC 9864", m.withJWS(strings.Replace(string(h.appendJSON(nil)), "EdDSA", "Ed25519", 1), keys.ed))
	spaced := m
	spaced.Payload = []byte(" [ {\"t\":-1.5e0,\"v\":15E-1,\n\"n\":\"w\",\"bt\":1.773500966535897e9,\"bn\":\"gw-0042\\/scale/\"} ]\n")
	list = add(list, "json: payload in another spelling", spaced.withJWS(string(h.appendJSON(nil)), keys.ed))

	c, ch := simple(t, CBOR, keys.ed)
	header := coseMap(ch)
	var unsorted []byte
	for _, label := range []any{"type", "clock", "mono", "boot", "topic", "total", "n", "floor", "seq", "epoch", "dev", "gw", "v", 4, 1} {
		unsorted = append(append(unsorted, mustCBOR(t, label)...), mustCBOR(t, header[label])...)
	}
	list = add(list, "cbor: header in another order", cose(t, tagSign1, append([]byte{mapOfAll}, unsorted...), cosePayload(t, c), keys.ed))
	header[1] = coseEd25519
	list = add(list, "cbor: alg Ed25519 of RFC 9864", cose(t, tagSign1, mustCBOR(t, header), cosePayload(t, c), keys.ed))
	c.ContentType = ""
	return add(list, "cbor: no content type, as MQTT 3.1.1 delivers it", c)
}

type craft struct {
	t    *testing.T
	keys vectorKeys
	list []vector
}

func (c *craft) add(reason, name string, m Message) {
	c.list = append(c.list, vector{Name: name, Message: m, Error: reason})
}

// addPack adds a message that is verified and whose pack is refused.
func (c *craft) addPack(name string, m Message) {
	c.list = append(c.list, vector{Name: name, Message: m, Error: "malformed", Verifies: true})
}

func negatives(t *testing.T, keys vectorKeys) []vector {
	c := &craft{t: t, keys: keys}
	c.envelopes()
	c.jsonHeaders()
	c.jsonSpellings()
	c.jsonPacks()
	c.coseHeaders()
	c.coseShapes()
	c.cborPacks()
	c.tags()
	return c.list
}

// envelopes: the message as a whole.
func (c *craft) envelopes() {
	for _, f := range []Format{JSON, CBOR} {
		for _, k := range []*PrivateKey{c.keys.ed, c.keys.mac} {
			name := string(f) + " " + k.Alg() + ": "
			m, _ := simple(c.t, f, k)
			other := m
			other.Topic = "gw/gw-0042/other"
			c.add("topic-mismatch", name+"published on another topic", other)
			altered := m
			altered.Payload = slices.Clone(m.Payload)
			if i := strings.Index(string(m.Payload), "1.5"); i >= 0 {
				altered.Payload[i] = '9'
			} else {
				altered.Payload[strings.Index(string(m.Payload), "\xf9\x3e\x00")+1] = 0x40
			}
			c.add("bad-signature", name+"value altered", altered)
		}
	}
	m, h := simple(c.t, JSON, c.keys.ed)
	stranger, _ := simple(c.t, JSON, c.keys.other)
	c.add("unknown-key", "json: key not known", stranger)
	stranger, _ = simple(c.t, CBOR, c.keys.other)
	c.add("unknown-key", "cbor: key not known", stranger)
	c.add("bad-signature", "json: signed by another key", m.withJWS(string(h.appendJSON(nil)), c.keys.other))

	// The classic: the public key, which everybody knows, used as an HMAC secret.
	confused := &PrivateKey{public: newHMAC(c.keys.ed.public.ed)}
	c.add("bad-signature", "json: HS256 with the public key as secret",
		m.withJWS(strings.Replace(string(h.appendJSON(nil)), "EdDSA", "HS256", 1), confused))
	_, mh := simple(c.t, JSON, c.keys.mac)
	mh.Alg = algEdDSA
	c.add("bad-signature", "json: EdDSA with the kid of an HMAC key", m.withJWS(string(mh.appendJSON(nil)), c.keys.ed))
	none := strings.Replace(string(h.appendJSON(nil)), "EdDSA", "none", 1)
	unsigned := m
	unsigned.JWS = b64.EncodeToString([]byte(none)) + ".."
	c.add("malformed", "json: alg none", unsigned)
	unsigned.JWS = ""
	c.add("unsigned", "json: no JWS", unsigned)
	unsigned.ContentType = ""
	c.add("unsigned", "json: no JWS, no content type", unsigned)
	wrong := m
	wrong.ContentType = "application/json"
	c.add("malformed", "json: content type", wrong)
	both, _ := simple(c.t, CBOR, c.keys.ed)
	both.JWS = m.JWS
	c.add("malformed", "cbor: a JWS beside it", both)
}

// jsonHeaders: every field missing, doubled, of another type, and its rules.
func (c *craft) jsonHeaders() {
	m, h := simple(c.t, JSON, c.keys.ed)
	text := string(h.appendJSON(nil))
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		c.t.Fatal(err)
	}
	sign := func(name, header string) { c.add("malformed", "json header: "+name, m.withJWS(header, c.keys.ed)) }
	replace := func(label, value string) string {
		old := `"` + label + `":` + string(fields[label])
		if !strings.Contains(text, old) {
			c.t.Fatal("no", old)
		}
		return strings.Replace(text, old, `"`+label+`":`+value, 1)
	}
	for i, label := range labels {
		field := `"` + label + `":` + string(fields[label])
		without := strings.Replace(text, field+",", "", 1)
		if i == len(labels)-1 {
			without = strings.Replace(text, ","+field, "", 1)
		}
		sign(label+" missing", without)
		sign(label+" twice", strings.Replace(text, "{", "{"+field+",", 1))
		sign(label+" null", replace(label, "null"))
		wrong := `"1"`
		if fields[label][0] == '"' {
			wrong = "1"
		}
		sign(label+" of another type", replace(label, wrong))
	}
	for _, extra := range []string{
		`"crit":["exp"],"exp":1`, `"crit":["b64"],"b64":false`, `"b64":false`, `"b64":true`, `"typ":"JOSE"`, `"jwk":{}`, `"SEQ":7`, `"":1`,
	} {
		sign("with "+extra, strings.Replace(text, "{", "{"+extra+",", 1))
	}
	for _, r := range [][2]string{
		{"v", "2"}, {"v", "0"}, {"v", "1.0"}, {"v", "4294967297"},
		{"gw", `""`}, {"gw", `"gw/1"`}, {"gw", `"_holdfast"`}, {"gw", `"-gw"`}, {"gw", `"gü"`}, {"gw", `"` + strings.Repeat("g", 129) + `"`},
		{"dev", `""`}, {"dev", `"a/b"`}, {"dev", `"_other"`}, {"dev", `"_holdfast"`}, {"dev", `"a\u0000"`},
		{"epoch", `"0123456789ABCDEF"`}, {"epoch", `"0123456789abcde"`}, {"epoch", `"0123456789abcdef0"`}, {"epoch", `"0123456789abcdeg"`},
		{"seq", "0"}, {"seq", "2"}, {"seq", "-7"}, {"seq", "7.0"}, {"seq", "7e0"}, {"seq", "07"}, {"seq", "+7"}, {"seq", "9007199254740992"}, {"seq", "18446744073709551623"},
		{"floor", "8"}, {"floor", "-1"}, {"n", "-1"}, {"n", "141"}, {"n", "4294967297"}, {"total", "0"}, {"total", "9007199254740992"},
		{"mono", "-1"}, {"mono", "9007199254740992"}, {"boot", `""`}, {"boot", `"a b"`},
		{"topic", `"gw/+/scale"`}, {"topic", `"gw/#"`}, {"topic", `""`}, {"topic", `"a\u0000"`},
		{"clock", `"Synced"`}, {"type", `"open"`}, {"type", `"other"`}, {"kid", `""`}, {"kid", `"a b"`}, {"alg", `"RS256"`}, {"alg", `"eddsa"`},
	} {
		sign(r[0]+" "+clip(r[1]), replace(r[0], r[1]))
	}
	sign("n beyond 31 bits", strings.Replace(replace("n", "2147483648"), `"total":140`, `"total":2147483648`, 1))
}

// jsonSpellings: the same header and signature in spellings that only lax readers take.
func (c *craft) jsonSpellings() {
	m, h := simple(c.t, JSON, c.keys.ed)
	text := string(h.appendJSON(nil))
	sign := func(name, header string) { c.add("malformed", "json header: "+name, m.withJWS(header, c.keys.ed)) }
	sign("empty", "")
	sign("empty object", "{}")
	sign("an array", "["+text+"]")
	sign("trailing data", text+"{}")
	sign("trailing comma", strings.Replace(text, "}", ",}", 1))
	sign("cut short", text[:len(text)-1])
	sign("comment", "/**/"+text)
	sign("byte order mark", "\ufeff"+text)
	sign("invalid UTF-8", strings.Replace(text, "gw/gw", "gw/\xff\xfe", 1))
	sign("half a surrogate pair", strings.Replace(text, "gw/gw", `gw/\ud800`, 1))
	sign("control character", strings.Replace(text, "gw/gw", "gw/\n", 1))
	sign("unknown escape", strings.Replace(text, "gw/gw", `gw/\x67`, 1))

	spell := func(name, jws string) {
		m := m
		m.JWS = jws
		c.add("malformed", "jws: "+name, m)
	}
	header, signature, _ := strings.Cut(m.JWS, "..")
	spell("payload attached", header+"."+b64.EncodeToString(m.Payload)+"."+signature)
	spell("one dot", header+"."+signature)
	spell("three dots", header+"..."+signature)
	spell("no signature part", header)
	spell("a fourth part", m.JWS+".")
	spell("padding", m.JWS+"==")
	spell("line break", m.JWS+"\n")
	spell("space", header+".. "+signature)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, signature[len(signature)-1]) // 64 bytes: 4 stray bits
	spell("stray bits", m.JWS[:len(m.JWS)-1]+string(alphabet[last|1]))
	spell("base64 alphabet", strings.NewReplacer("-", "+", "_", "/").Replace(m.JWS))
	short := m
	short.JWS = header + ".." + signature[:85]
	c.add("malformed", "jws: signature cut short within a byte", short)
	short.JWS = header + ".." + signature[:84]
	c.add("bad-signature", "jws: signature a byte short", short)
	short.JWS = header + ".."
	c.add("bad-signature", "jws: signature empty", short)
}

// jsonPacks: signed and verified, and yet no pack.
func (c *craft) jsonPacks() {
	m, h := simple(c.t, JSON, c.keys.ed)
	sign := func(name, payload string) {
		m := m
		m.Payload = []byte(payload)
		c.addPack("json pack: "+name, m.withJWS(string(h.appendJSON(nil)), c.keys.ed))
	}
	const first = `"bn":"gw-0042/scale/","bt":1773500966.535897`
	sign("empty payload", "")
	sign("empty array", "[]")
	sign("an object", `{`+first+`,"n":"w","v":1}`)
	sign("another device", `[{"bn":"gw-0042/other/","bt":1773500966,"n":"w","v":1}]`)
	sign("no base name", `[{"bt":1773500966,"n":"w","v":1}]`)
	sign("no base time", `[{"bn":"gw-0042/scale/","n":"w","v":1}]`)
	sign("relative base time", `[{"bn":"gw-0042/scale/","bt":268435455.9,"n":"w","v":1}]`)
	sign("relative by its offset", `[{"bn":"gw-0042/scale/","bt":268435456,"t":-1,"n":"w","v":1}]`)
	sign("more readings than n", `[{`+first+`,"n":"w","v":1},{"n":"w","v":1}]`)
	sign("second base name", `[{`+first+`,"n":"w","vs":"a"},{"bn":"gw-0042/scale/","n":"w:quality","vs":"uncertain"}]`)
	sign("label twice", `[{`+first+`,"n":"w","v":1,"v":2}]`)
	sign("two values", `[{`+first+`,"n":"w","v":1,"vs":"1"}]`)
	sign("no value", `[{`+first+`,"n":"w"}]`)
	sign("unknown label", `[{`+first+`,"n":"w","v":1,"x_":1}]`)
	sign("base value", `[{`+first+`,"bv":1,"n":"w","v":1}]`)
	sign("number as text", `[{`+first+`,"n":"w","v":"1"}]`)
	sign("number out of range", `[{`+first+`,"n":"w","v":1e400}]`)
	sign("NaN", `[{`+first+`,"n":"w","v":NaN}]`)
	sign("data with padding", `[{`+first+`,"n":"w","vd":"AA=="}]`)
	sign("data with stray bits", `[{`+first+`,"n":"w","vd":"AB"}]`)
	sign("metric name", `[{`+first+`,"n":"a/b","v":1}]`)
	sign("trailing data", `[{`+first+`,"n":"w","v":1}] 1`)
	sign("uncertain with nothing before it", `[{`+first+`,"n":"w:quality","vs":"uncertain"}]`)
	sign("uncertain of another metric", `[{`+first+`,"n":"w","v":1},{"n":"x:quality","vs":"uncertain"}]`)
	sign("unknown quality", `[{`+first+`,"n":"w:quality","vs":"good"}]`)
	sign("quality without its reason", `[{`+first+`,"n":"w:quality","vs":"bad: "}]`)
}

// coseHeaders: as jsonHeaders.
func (c *craft) coseHeaders() {
	m, h := simple(c.t, CBOR, c.keys.ed)
	payload := cosePayload(c.t, m)
	raw := func(reason, name string, protected []byte) {
		c.add(reason, "cose header: "+name, cose(c.t, tagSign1, protected, payload, c.keys.ed))
	}
	change := func(name string, change func(map[any]any)) {
		header := coseMap(h)
		change(header)
		raw("malformed", name, mustCBOR(c.t, header))
	}
	all := []any{1, 4}
	for _, label := range labels[2:] {
		all = append(all, label)
	}
	for _, label := range all {
		change(fmt.Sprint(label, " missing"), func(m map[any]any) { delete(m, label) })
		change(fmt.Sprint(label, " null"), func(m map[any]any) { m[label] = nil })
		change(fmt.Sprint(label, " missing, another there"), func(m map[any]any) { delete(m, label); m["x"] = 1 })
		change(fmt.Sprint(label, " of another type"), func(m map[any]any) {
			switch v := m[label].(type) {
			case string:
				m[label] = []byte(v)
			case []byte:
				m[label] = string(v)
			default:
				m[label] = "1"
			}
		})
		without := coseMap(h)
		delete(without, label)
		other := any("n")
		if label == other {
			other = "v"
		}
		instead := append([]byte{mapOfAll}, mustCBOR(c.t, without)[1:]...)
		raw("malformed", fmt.Sprint(label, " missing, ", other, " twice"),
			append(append(instead, mustCBOR(c.t, other)...), mustCBOR(c.t, without[other])...))
		twice := append([]byte{mapOfAll + 1}, mustCBOR(c.t, coseMap(h))[1:]...)
		raw("malformed", fmt.Sprint(label, " twice"),
			append(append(twice, mustCBOR(c.t, label)...), mustCBOR(c.t, coseMap(h)[label])...))
	}
	for _, r := range []struct {
		label, value any
	}{
		{1, coseHS256}, {1, -7}, {4, []byte{}}, {4, []byte("a b")}, {"v", 2}, {"v", uint64(1)<<32 + 1}, {"gw", "gw/1"}, {"dev", "_holdfast"}, {"epoch", "0123456789ABCDEF"},
		{"seq", 0}, {"seq", 2}, {"seq", -7}, {"seq", 7.0}, {"seq", uint64(1) << 53}, {"floor", 8}, {"n", -1}, {"n", 141}, {"n", uint64(1)<<32 + 1},
		{"total", 0}, {"mono", -1}, {"mono", uint64(1) << 63}, {"boot", ""}, {"topic", "gw/#"}, {"clock", "x"}, {"type", "open"},
	} {
		change(fmt.Sprint(r.label, " ", r.value), func(m map[any]any) { m[r.label] = r.value })
	}
	change("n beyond 31 bits", func(m map[any]any) { m["n"], m["total"] = uint32(1)<<31, uint32(1)<<31 })
	change("seq tagged", func(m map[any]any) { m["seq"] = cbor.Tag{Number: 2, Content: []byte{7}} })
	change("alg under a text label", func(m map[any]any) { delete(m, 1); m["alg"] = "EdDSA" })
	change("crit", func(m map[any]any) { m[2] = []any{"x"} })
	raw("malformed", "empty", []byte{})
	raw("malformed", "null", nil)
	raw("malformed", "trailing data", append(mustCBOR(c.t, coseMap(h)), 0))
	indefinite := append([]byte{0xbf}, mustCBOR(c.t, coseMap(h))[1:]...)
	raw("malformed", "indefinite length", append(indefinite, 0xff))
}

// coseShapes: the COSE structure around it.
func (c *craft) coseShapes() {
	m, h := simple(c.t, CBOR, c.keys.ed)
	s, err := openCOSE(m, &scratch{})
	if err != nil {
		c.t.Fatal(err)
	}
	protected := mustCBOR(c.t, coseMap(h))
	add := func(reason, name string, payload []byte) {
		m := m
		m.Payload = payload
		c.add(reason, "cose: "+name, m)
	}
	parts := func(v ...any) []byte { return append([]byte{tagSign1}, mustCBOR(c.t, v)...) }
	empty := map[int]int{}
	add("malformed", "no tag", m.Payload[1:])
	add("malformed", "tag of COSE_Mac0", append([]byte{tagMac0}, m.Payload[1:]...))
	add("malformed", "tag of COSE_Sign", append([]byte{0xd8, 98}, m.Payload[1:]...))
	add("malformed", "trailing data", append(slices.Clone(m.Payload), 0))
	add("malformed", "cut short", m.Payload[:len(m.Payload)-1])
	add("malformed", "empty", nil)
	add("malformed", "three parts", parts(protected, empty, s.payload))
	add("malformed", "five parts", parts(protected, empty, s.payload, s.signature, s.signature))
	add("malformed", "unprotected kid", parts(protected, map[int][]byte{4: []byte(h.Kid)}, s.payload, s.signature))
	add("malformed", "unprotected not a map", parts(protected, []int{}, s.payload, s.signature))
	add("malformed", "payload detached", parts(protected, empty, nil, s.signature))
	add("malformed", "payload as text", parts(protected, empty, "text", s.signature))
	add("malformed", "indefinite length", append(append([]byte{tagSign1, 0x9f}, m.Payload[2:]...), 0xff))
	long := append([]byte{tagSign1, 0x84, 0x59, 0, byte(len(protected))}, protected...)
	add("malformed", "a longer head", append(long, m.Payload[2+2+len(protected):]...))
	add("malformed", "array with a longer head", append([]byte{tagSign1, 0x98, 4}, m.Payload[2:]...))
	add("malformed", "tag with a longer head", append([]byte{0xd8, 18}, m.Payload[1:]...))
	add("bad-signature", "signature cut short", parts(protected, empty, s.payload, s.signature[:63]))
	add("bad-signature", "signature empty", parts(protected, empty, s.payload, []byte{}))

	aad := mustCBOR(c.t, []any{"Signature1", protected, []byte("aad"), s.payload})
	add("bad-signature", "external_aad not empty", parts(protected, empty, s.payload, c.keys.ed.sign(aad)))
	context := mustCBOR(c.t, []any{"Signature", protected, []byte{}, s.payload})
	add("bad-signature", "context of COSE_Sign", parts(protected, empty, s.payload, c.keys.ed.sign(context)))
	confused := &PrivateKey{public: newHMAC(c.keys.ed.public.ed)}
	header := coseMap(h)
	header[1] = coseHS256
	c.add("bad-signature", "cose: HMAC with the public key as secret", cose(c.t, tagMac0, mustCBOR(c.t, header), s.payload, confused))
}

// cborPacks: as jsonPacks.
func (c *craft) cborPacks() {
	_, h := simple(c.t, CBOR, c.keys.ed)
	protected := mustCBOR(c.t, coseMap(h))
	raw := func(name string, payload []byte) {
		c.addPack("cbor pack: "+name, cose(c.t, tagSign1, protected, payload, c.keys.ed))
	}
	pack := func(name string, records ...map[any]any) { raw(name, mustCBOR(c.t, records)) }
	first := func(extra map[any]any) map[any]any {
		m := map[any]any{-2: "gw-0042/scale/", -3: 1773500966}
		for k, v := range extra {
			if m[k] = v; v == nil {
				delete(m, k)
			}
		}
		return m
	}
	raw("empty payload", []byte{})
	raw("not an array", mustCBOR(c.t, first(map[any]any{0: "w", 2: 1})))
	pack("no record")
	pack("another device", map[any]any{-2: "gw-0042/other/", -3: 1773500966, 0: "w", 2: 1})
	pack("no base time", first(map[any]any{-3: nil, 0: "w", 2: 1}))
	pack("relative base time", first(map[any]any{-3: 1 << 27, 0: "w", 2: 1}))
	pack("base time out of range", first(map[any]any{-3: 1e300, 0: "w", 2: 1}))
	pack("text labels", map[any]any{"bn": "gw-0042/scale/", "bt": 1773500966, "n": "w", "v": 1})
	pack("more readings than n", first(map[any]any{0: "w", 2: 1}), map[any]any{0: "w", 2: 1})
	pack("two values", first(map[any]any{0: "w", 2: 1, 3: "1"}))
	pack("no value", first(map[any]any{0: "w"}))
	pack("unknown label", first(map[any]any{0: "w", 2: 1, 99: 1}))
	pack("base value", first(map[any]any{0: "w", 2: 1, -5: 1}))
	pack("number as text", first(map[any]any{0: "w", 2: "1"}))
	pack("decimal fraction", first(map[any]any{0: "w", 2: cbor.Tag{Number: 4, Content: []int{-1, 15}}}))
	pack("time as a date", first(map[any]any{0: "w", 2: 1, 6: time.Unix(0, 0).UTC().Format(time.RFC3339)}))
	pack("unknown quality", first(map[any]any{0: "w:quality", 3: "good"}))
	pack("quality as number", first(map[any]any{0: "w:quality", 2: 1}))
	one := mustCBOR(c.t, first(map[any]any{0: "w", 2: 1}))
	raw("label twice", append(append([]byte{0x81, one[0] + 1}, one[1:]...), 0x02, 0x01))
	nan := mustCBOR(c.t, first(map[any]any{0: "w"}))
	raw("NaN", append(append([]byte{0x81, nan[0] + 1}, nan[1:]...), 0x02, 0xf9, 0x7e, 0x00))
	raw("infinity", append(append([]byte{0x81, nan[0] + 1}, nan[1:]...), 0x02, 0xf9, 0x7c, 0x00))
	raw("null", append(append([]byte{0x81, nan[0] + 1}, nan[1:]...), 0x02, 0xf6))
	raw("trailing data", append(append([]byte{0x81}, one...), 0))
}

func endorsements(t *testing.T, keys vectorKeys) (list []vectorEndorsement) {
	const gateway, epoch = "gw-0042", "0123456789abcdef"
	for _, old := range []*PrivateKey{keys.ed, keys.mac} {
		e, err := Endorse(old, gateway, epoch, keys.other.Public())
		if err != nil {
			t.Fatal(err)
		}
		name := old.Alg() + ": "
		list = append(list,
			vectorEndorsement{Name: name + "good", Gateway: gateway, Epoch: epoch, Endorsement: *e, NewKid: keys.other.Kid(), OldKid: old.Kid()},
			vectorEndorsement{Name: name + "another gateway", Gateway: "gw-0043", Epoch: epoch, Endorsement: *e, Error: "bad-signature"},
			vectorEndorsement{Name: name + "another epoch", Gateway: gateway, Epoch: "0123456789abcdee", Endorsement: *e, Error: "bad-signature"},
			vectorEndorsement{Name: name + "another key", Gateway: gateway, Epoch: epoch,
				Endorsement: Endorsement{JWK: keys.ed.Public().JWK(), JWS: e.JWS}, Error: "bad-signature"},
		)
	}
	bad := func(reason, name, header string, jwk []byte, by *PrivateKey) {
		jws := signDetached([]byte(header), endorsed(gateway, epoch, keys.other.Public()), by)
		list = append(list, vectorEndorsement{Name: name, Gateway: gateway, Epoch: epoch, Endorsement: Endorsement{jwk, jws}, Error: reason})
	}
	header := func(kid, typ string) string { return `{"alg":"EdDSA","kid":"` + kid + `","typ":"` + typ + `"}` }
	jwk := keys.other.Public().JWK()
	bad("unknown-key", "by a stranger", header(keys.other.Kid(), endorsementType), jwk, keys.other)
	bad("bad-signature", "in another's name", header(keys.ed.Kid(), endorsementType), jwk, keys.other)
	bad("malformed", "of another type", header(keys.ed.Kid(), "JWT"), jwk, keys.ed)
	bad("malformed", "no type", `{"alg":"EdDSA","kid":"`+keys.ed.Kid()+`"}`, jwk, keys.ed)
	bad("malformed", "header with crit", `{"crit":["typ"],`+header(keys.ed.Kid(), endorsementType)[1:], jwk, keys.ed)
	bad("malformed", "kid twice", `{"kid":"`+keys.other.Kid()+`",`+header(keys.ed.Kid(), endorsementType)[1:], jwk, keys.ed)
	bad("malformed", "no alg, another field", strings.Replace(header(keys.ed.Kid(), endorsementType), "alg", "cty", 1), jwk, keys.ed)
	bad("malformed", "trailing data", header(keys.ed.Kid(), endorsementType)+" 1", jwk, keys.ed)
	bad("malformed", "not a key", header(keys.ed.Kid(), endorsementType), []byte(`{"kty":"RSA"}`), keys.ed)
	bad("malformed", "an HMAC key", header(keys.ed.Kid(), endorsementType),
		[]byte(`{"kty":"oct","k":"`+b64.EncodeToString(keys.mac.public.mac())+`"}`), keys.ed)
	bad("bad-signature", "alg of another key", `{"alg":"HS256","kid":"`+keys.ed.Kid()+`","typ":"`+endorsementType+`"}`, jwk, keys.ed)
	return list
}
