package wire

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// testKey makes a key from one repeated byte: the same in every run.
func testKey(t testing.TB, alg string, b byte) *PrivateKey {
	t.Helper()
	k, err := GenerateKey(alg, bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ptr[T any](v T) *T { return &v }

var testBase = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)

func testHeader(n int) Header {
	return Header{
		Gateway: "gw-0042", Device: "scale", Epoch: "0123456789abcdef", Seq: 7, Floor: 3, N: n, Total: 140,
		Topic: "gw/gw-0042/scale", Boot: "b5a4d3c2-1111-4222-8333-444455556666", Mono: 86_400_000_001,
		Clock: ClockSynced, Type: TypeData,
	}
}

// everyKind is a pack with each kind of value and quality.
func everyKind() Pack {
	return Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{
		{Name: "weight", Unit: "kg", V: ptr(12.5)},
		{Name: "count", V: ptr(120.0), Time: 250 * time.Millisecond},
		{Name: "tiny", V: ptr(5e-324), Time: -time.Microsecond},
		{Name: "huge", V: ptr(-math.MaxFloat64), Time: 1},
		{Name: "zero", V: ptr(math.Copysign(0, -1))},
		{Name: "id", VS: ptr("00123")},
		{Name: "text", VS: ptr("\"quoted\" \\ \x00\n\u2028 Grüße 🐟 <&>")},
		{Name: "empty", VS: ptr("")},
		{Name: "on", VB: ptr(true)},
		{Name: "off", VB: ptr(false)},
		{Name: "frame", VD: []byte{0xfb, 0xff, 0xfe, 0}},
		{Name: "nothing", VD: []byte{}},
		{Name: "temp", Unit: "Cel", V: ptr(-3.25), Quality: Uncertain, Reason: "stale", Time: 3 * time.Second},
		{Name: "temp", Unit: "Cel", V: ptr(-3.25), Quality: Uncertain, Time: 3 * time.Second},
		{Name: "temp", Quality: Bad, Reason: "port-lost: gone", Time: 3 * time.Second},
		{Name: "temp", Quality: Bad},
	}}
}

// micro is what of a pack is transmitted: times to the µs, the unit of a bad reading
// not at all.
func micro(p Pack) Pack {
	base := p.Base.UnixMicro()
	q := Pack{Gateway: p.Gateway, Device: p.Device, Base: time.UnixMicro(base).UTC(), Tags: p.Tags}
	for _, r := range p.Records {
		r.Time = time.Duration(p.Base.Add(r.Time).UnixMicro()-base) * time.Microsecond
		if r.Quality == Bad {
			r.Unit = ""
		}
		q.Records = append(q.Records, r)
	}
	return q
}

// samePack compares what reflect.DeepEqual cannot: the sign of zero.
func samePack(p, q Pack) error {
	if !reflect.DeepEqual(p, q) {
		return fmt.Errorf("packs differ:\n%s\n%s", describe(p), describe(q))
	}
	for i := range p.Records {
		if v := p.Records[i].V; v != nil && math.Float64bits(*v) != math.Float64bits(*q.Records[i].V) {
			return fmt.Errorf("%s: %v became %v", p.Records[i].Name, *v, *q.Records[i].V)
		}
	}
	return nil
}

func describe(p Pack) string {
	entries, err := flatten(p)
	return fmt.Sprint(p.Base, string(appendSenMLJSON(nil, entries)), err)
}

func forEach(t *testing.T, f func(t *testing.T, format Format, k *PrivateKey)) {
	for _, format := range []Format{JSON, CBOR} {
		for _, alg := range []string{Ed25519, HMACSHA256} {
			t.Run(string(format)+"/"+alg, func(t *testing.T) { f(t, format, testKey(t, alg, 1)) })
		}
	}
}

func TestSealVerifyDecode(t *testing.T) {
	forEach(t, func(t *testing.T, format Format, k *PrivateKey) {
		p := everyKind()
		h := testHeader(len(p.Records))
		m, err := Seal(format, h, p, k)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Verify(m, NewKeySet(k.Public()))
		if err != nil {
			t.Fatal(err)
		}
		h.Alg, h.Kid, h.Version = k.Alg(), k.Kid(), Version
		if v.Header != h {
			t.Errorf("header\n%+v became\n%+v", h, v.Header)
		}
		got, err := Decode(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := samePack(micro(p), got); err != nil {
			t.Error(err)
		}
	})
}

// TestRandomPacks seals what a seeded generator makes up and reads it back.
func TestRandomPacks(t *testing.T) {
	forEach(t, func(t *testing.T, format Format, k *PrivateKey) {
		rng := rand.New(rand.NewPCG(1, 2))
		keys := NewKeySet(k.Public())
		for i := range 500 {
			p := randomPack(rng)
			h := testHeader(len(p.Records))
			h.Seq, h.Total = 1+rng.Uint64N(maxInteger), maxInteger
			h.Floor = rng.Uint64N(h.Seq + 1)
			m, err := Seal(format, h, p, k)
			if err != nil {
				t.Fatal(i, err)
			}
			kept, err := ParseEnvelope(m.AppendEnvelope(nil))
			if err != nil || !reflect.DeepEqual(kept, m) {
				t.Fatal(i, "the envelope changed the message", err)
			}
			v, err := Verify(kept, keys)
			if err != nil {
				t.Fatal(i, err)
			}
			if v.Seq != h.Seq || v.Floor != h.Floor || v.N != h.N {
				t.Fatal(i, "numbers changed", v.Header)
			}
			got, err := Decode(kept)
			if err != nil {
				t.Fatal(i, err)
			}
			if err := samePack(micro(p), got); err != nil {
				t.Fatal(i, err)
			}
		}
	})
}

func randomPack(rng *rand.Rand) Pack {
	p := Pack{Gateway: "gw-0042", Device: "scale", Base: time.Unix(1<<28+8+rng.Int64N(1<<32-1<<28-16), rng.Int64N(1e9))}
	for range 1 + rng.IntN(8) {
		r := Record{Name: fmt.Sprintf("m%d", rng.IntN(3)), Time: time.Duration(rng.Int64N(8e9) - 4e9)}
		r.Quality = [...]string{Good, Uncertain, Bad}[rng.IntN(3)]
		if r.Quality != Good {
			r.Reason = [...]string{"", "why", "a: b"}[rng.IntN(3)]
		}
		if rng.IntN(2) == 0 {
			r.Unit = "m/s2"
		}
		if r.Quality != Bad {
			randomValue(rng, &r)
		}
		p.Records = append(p.Records, r)
	}
	p.Tags = randomTags(rng)
	return p
}

func randomValue(rng *rand.Rand, r *Record) {
	switch rng.IntN(6) {
	case 0:
		r.VB = ptr(rng.IntN(2) == 0)
	case 1:
		r.VD = make([]byte, rng.IntN(40))
		for i := range r.VD {
			r.VD[i] = byte(rng.Uint32())
		}
	case 2:
		text := make([]rune, rng.IntN(20))
		for i := range text {
			text[i] = []rune{rune(rng.IntN(128)), rune(rng.IntN(0xd800)), 0x10000 + rune(rng.IntN(0xfffff))}[rng.IntN(3)]
		}
		r.VS = ptr(string(text))
	case 3:
		r.V = ptr(float64(rng.Int64N(1<<55) - 1<<54))
	case 4:
		r.V = ptr(float64(rng.IntN(2e6)-1e6) / 100)
	default:
		for r.V == nil || math.IsNaN(*r.V) || math.IsInf(*r.V, 0) {
			r.V = ptr(math.Float64frombits(rng.Uint64()))
		}
	}
}

// TestEveryBitIsSigned flips each bit of a message in turn.
func TestEveryBitIsSigned(t *testing.T) {
	forEach(t, func(t *testing.T, format Format, k *PrivateKey) {
		m, err := Seal(format, testHeader(1), Pack{
			Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{{Name: "w", V: ptr(1.5)}},
		}, k)
		if err != nil {
			t.Fatal(err)
		}
		good, err := Verify(m, NewKeySet(k.Public()))
		if err != nil {
			t.Fatal(err)
		}
		flip := func(s []byte, put func([]byte) Message) {
			for i := range len(s) * 8 {
				b := bytes.Clone(s)
				b[i/8] ^= 1 << (i % 8)
				if v, err := Verify(put(b), NewKeySet(k.Public())); err == nil {
					t.Fatalf("bit %d flipped and still verified: %+v, hash same %t", i, v.Header, v.Hash == good.Hash)
				}
			}
		}
		flip(m.Payload, func(b []byte) Message { m := m; m.Payload = b; return m })
		flip([]byte(m.Topic), func(b []byte) Message { m := m; m.Topic = string(b); return m })
		flip([]byte(m.ContentType), func(b []byte) Message { m := m; m.ContentType = string(b); return m })
		flip([]byte(m.JWS), func(b []byte) Message { m := m; m.JWS = string(b); return m })
	})
}

func TestVerifyWithoutContentType(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	p := everyKind()
	m, err := Seal(CBOR, testHeader(len(p.Records)), p, k)
	if err != nil {
		t.Fatal(err)
	}
	m.ContentType = "" // MQTT 3.1.1 has none
	if _, err := Verify(m, NewKeySet(k.Public())); err != nil {
		t.Error(err)
	}
	if _, err := Decode(m); err != nil {
		t.Error(err)
	}
	m, err = Seal(JSON, testHeader(len(p.Records)), p, k)
	if err != nil {
		t.Fatal(err)
	}
	m.ContentType, m.JWS = "", ""
	if _, err := Verify(m, NewKeySet(k.Public())); !errors.Is(err, ErrUnsigned) {
		t.Error("want ErrUnsigned, got", err)
	}
	if got, err := Decode(m); err != nil {
		t.Error(err)
	} else if err := samePack(micro(p), got); err != nil {
		t.Error(err)
	}
}

// TestVerifyBoundsJWS: what no user property carries costs no signature check.
func TestVerifyBoundsJWS(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	m, h := simple(t, JSON, k)
	m = m.withJWS(strings.Repeat(" ", maxJWS)+string(h.appendJSON(nil)), k)
	if _, err := Verify(m, NewKeySet(k.Public())); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestFromMQTT(t *testing.T) {
	properties := map[string]string{"other": "x", PropertyJWS: "a..b"}
	m, err := FromMQTT("t", ContentTypeJSON, maps.All(properties), []byte("p"))
	if err != nil || m.JWS != "a..b" || m.Topic != "t" || m.ContentType != ContentTypeJSON || string(m.Payload) != "p" {
		t.Error(m, err)
	}
	for _, values := range [][2]string{{"a..b", ""}, {"", "a..b"}, {"a..b", "a..b"}, {"", ""}} {
		twice := func(yield func(string, string) bool) {
			_ = yield(PropertyJWS, values[0]) && yield(PropertyJWS, values[1])
		}
		if _, err := FromMQTT("t", "", twice, nil); !errors.Is(err, ErrMalformed) {
			t.Error("two JWS:", err)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	tests := []struct {
		name, want string
		change     func(h *Header, p *Pack)
	}{
		{"seq 0", "seq", func(h *Header, _ *Pack) { h.Seq, h.Floor = 0, 0 }},
		{"floor above seq", "floor", func(h *Header, _ *Pack) { h.Floor = 8 }},
		{"total below n", "total", func(h *Header, _ *Pack) { h.Total = 0 }},
		{"wildcard", "topic", func(h *Header, _ *Pack) { h.Topic = "gw/+" }},
		{"no topic", "topic", func(h *Header, _ *Pack) { h.Topic = "" }},
		{"epoch", "epoch", func(h *Header, _ *Pack) { h.Epoch = "0123456789ABCDEF" }},
		{"boot", "boot", func(h *Header, _ *Pack) { h.Boot = "" }},
		{"mono", "mono", func(h *Header, _ *Pack) { h.Mono = -1 }},
		{"clock", "clock", func(h *Header, _ *Pack) { h.Clock = "" }},
		{"type", "type", func(h *Header, _ *Pack) { h.Type = "" }},
		{"control of a device", "open", func(h *Header, _ *Pack) { h.Type = TypeOpen }},
		{"data of the gateway", "data", func(h *Header, p *Pack) { h.Device, p.Device = ControlDevice, ControlDevice }},
		{"device", "dev", func(h *Header, p *Pack) { h.Device, p.Device = "a/b", "a/b" }},
		{"gateway", "gw", func(h *Header, p *Pack) { h.Gateway, p.Gateway = "_gw", "_gw" }},
		{"other device", "header is of", func(_ *Header, p *Pack) { p.Device = "x" }},
		{"count", "counts", func(h *Header, _ *Pack) { h.N = 2 }},
		{"empty", "records", func(h *Header, p *Pack) { h.N, p.Records = 0, nil }},
		{"1970", "absolute time", func(_ *Header, p *Pack) { p.Base = time.Unix(1<<28-1, 999_999_999) }},
		{"1970 by offset", "absolute time", func(_ *Header, p *Pack) { p.Base, p.Records[0].Time = time.Unix(1<<28, 0), -1 }},
		{"2106", "absolute time", func(_ *Header, p *Pack) { p.Base = time.Unix(1<<32, 0) }},
		{"NaN", "NaN", func(_ *Header, p *Pack) { p.Records[0].V = ptr(math.NaN()) }},
		{"Inf", "infinity", func(_ *Header, p *Pack) { p.Records[0].V = ptr(math.Inf(-1)) }},
		{"text", "UTF-8", func(_ *Header, p *Pack) { p.Records[0] = Record{Name: "a", VS: ptr("\xff")} }},
		{"two values", "2 values", func(_ *Header, p *Pack) { p.Records[0].VB = ptr(true) }},
		{"no value", "0 values", func(_ *Header, p *Pack) { p.Records[0].V = nil }},
		{"bad with value", "1 values", func(_ *Header, p *Pack) { p.Records[0].Quality = Bad }},
		{"quality", "quality", func(_ *Header, p *Pack) { p.Records[0].Quality = "good" }},
		{"good with reason", "reason", func(_ *Header, p *Pack) { p.Records[0].Reason = "x" }},
		{"metric", "metric name", func(_ *Header, p *Pack) { p.Records[0].Name = "w:quality" }},
		{"unit", "unit", func(_ *Header, p *Pack) { p.Records[0].Unit = "µg" }},
		{"long unit", "unit", func(_ *Header, p *Pack) { p.Records[0].Unit = strings.Repeat("m", 65) }},
	}
	for _, test := range tests {
		p := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{{Name: "w", V: ptr(1.5)}}}
		h := testHeader(1)
		test.change(&h, &p)
		for _, format := range []Format{JSON, CBOR} {
			if _, err := Seal(format, h, p, k); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, %s: got %v", test.name, format, err)
			}
		}
	}
	long := testHeader(1)
	long.Topic = strings.Repeat("x", 49_000)
	p := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{{Name: "w", V: ptr(1.5)}}}
	if _, err := Seal(JSON, long, p, k); err == nil || !strings.Contains(err.Error(), "topic") {
		t.Error("a JWS longer than a user property:", err)
	}
	if _, err := Seal(CBOR, long, p, k); err != nil {
		t.Error("a long topic in COSE:", err)
	}
	if _, err := Seal("xml", testHeader(1), Pack{
		Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{{Name: "w", V: ptr(1.5)}},
	}, k); err == nil {
		t.Error("format xml was taken")
	}
}
