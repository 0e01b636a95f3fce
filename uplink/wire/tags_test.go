package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// mostTags is a pack that reaches every bound of tags, with every field in its first record.
func mostTags() Pack {
	p := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Tags: map[string]string{}, Records: []Record{
		{Name: "weight", Unit: "kg", V: ptr(12.5), Time: time.Second},
		{Name: "weight", Unit: "kg", V: ptr(12.75)},
	}}
	for i := range MaxTags {
		key := fmt.Sprintf("%0*d", MaxTagKey, i)
		p.Tags[key] = strings.Repeat("x", MaxTagBytes/MaxTags-MaxTagKey)
	}
	return p
}

// tagged are the positive vectors with tags.
func tagged(t *testing.T, keys vectorKeys) (list []vector) {
	seal := func(name string, f Format, p Pack, k *PrivateKey) {
		m, err := Seal(f, testHeader(len(p.Records)), p, k)
		if err != nil {
			t.Fatal(name, err)
		}
		list = append(list, sealed(t, name, m, keys.known()))
	}
	for _, f := range []Format{JSON, CBOR} {
		p := documented()
		p.Tags = map[string]string{"site": "north", "line": "3"}
		for _, k := range []*PrivateKey{keys.ed, keys.mac} {
			seal(string(f)+" "+k.Alg()+": tags", f, p, k)
		}
		p.Tags = map[string]string{"0": "=", "a_b.c-D": "\"quoted\" \\ Grüße 🐟 <&> \u2028", "long": strings.Repeat("é", MaxTagValue/2)}
		seal(string(f)+": odd tags", f, p, keys.ed)
		seal(string(f)+": as many tags as there can be", f, mostTags(), keys.ed)
	}
	m, h := simple(t, JSON, keys.ed)
	m.Payload = []byte(`[{"n":"w","\u0062tag.site":"n\u006frth","v":1.5,"btag.line":"3","bt":1773500966.535897,"bn":"gw-0042/scale/"}]`)
	list = append(list, sealed(t, "json: tags in another spelling", m.withJWS(string(h.appendJSON(nil)), keys.ed), keys.known()))
	_, h = simple(t, CBOR, keys.ed)
	payload := []byte{0x81, 0xa6}
	for _, v := range []any{"btag.site", "north", 2, 1.5, "btag.line", "3", 0, "w", -3, 1773500966, -2, "gw-0042/scale/"} {
		payload = append(payload, mustCBOR(t, v)...)
	}
	return append(list, sealed(t, "cbor: tags in another order", cose(t, tagSign1, mustCBOR(t, coseMap(h)), payload, keys.ed), keys.known()))
}

// tags: signed and verified, and yet not tags.
func (c *craft) tags() {
	m, h := simple(c.t, JSON, c.keys.ed)
	_, ch := simple(c.t, CBOR, c.keys.ed)
	protected := mustCBOR(c.t, coseMap(ch))
	sign := func(name string, h Header, payload string) {
		m := m
		m.Payload = []byte(payload)
		c.addPack("json tags: "+name, m.withJWS(string(h.appendJSON(nil)), c.keys.ed))
	}
	record := func(tags string) string {
		return `[{"bn":"gw-0042/scale/","bt":1773500966,` + tags + `,"n":"w","v":1}]`
	}
	pack := func(name string, extra ...any) {
		first := map[any]any{-2: "gw-0042/scale/", -3: 1773500966, 0: "w", 2: 1}
		for i := 0; i < len(extra); i += 2 {
			first[extra[i]] = extra[i+1]
		}
		c.addPack("cbor tags: "+name, cose(c.t, tagSign1, protected, mustCBOR(c.t, []any{first}), c.keys.ed))
	}
	for _, bad := range []struct {
		name, key string
		value     any
	}{
		{"a number", "site", 7}, {"a truth value", "site", true}, {"null", "site", nil}, {"nested", "site", map[string]string{"x": "y"}},
		{"no key", "", "x"}, {"key with a slash", "a/b", "x"}, {"key that begins with '_'", "_a", "x"}, {"key that ends with '_'", "site_", "x"},
		{"key with other letters", "straße", "x"}, {"long key", strings.Repeat("k", MaxTagKey+1), "x"},
		{"empty value", "site", ""}, {"long value", "site", strings.Repeat("é", MaxTagValue/2) + "x"},
		{"line break", "site", "a\nb"}, {"delete", "site", "a\x7f"}, {"control beyond ASCII", "site", "a\u0085"},
	} {
		text, err := json.Marshal(bad.value)
		if err != nil {
			c.t.Fatal(err)
		}
		sign(bad.name, h, record(fmt.Sprintf(`"btag.%s":%s`, bad.key, text)))
		pack(bad.name, tagPrefix+bad.key, bad.value)
	}
	many, large := mostTags().Tags, mostTags().Tags
	many["more"] = "x"
	for key := range many {
		many[key] = "x"
	}
	large[strings.Repeat("0", MaxTagKey)] += "x"
	for _, bad := range []struct {
		name string
		tags map[string]string
	}{{"one too many", many}, {"a byte too many", large}} {
		var fields []string
		var extra []any
		for _, key := range slices.Sorted(maps.Keys(bad.tags)) {
			fields = append(fields, fmt.Sprintf(`"btag.%s":"%s"`, key, bad.tags[key]))
			extra = append(extra, tagPrefix+key, bad.tags[key])
		}
		sign(bad.name, h, record(strings.Join(fields, ",")))
		pack(bad.name, extra...)
	}
	sign("twice", h, record(`"btag.site":"a","btag.site":"a"`))
	sign("in a later record", h, `[{"bn":"gw-0042/scale/","bt":1773500966,"n":"w","vs":"a"},{"btag.site":"a","n":"w:quality","vs":"uncertain"}]`)
	sign("label without a dot", h, record(`"btag":"a"`))
	sign("regular label", h, record(`"tag.site":"a"`))
	own := h
	own.Device, own.Type = ControlDevice, TypeClose
	sign("of the gateway", own, `[{"bn":"gw-0042/_holdfast/","bt":1773500966,"btag.site":"a","n":"close","vs":"{}"}]`)
	pack("an integer label", 9, "a")
	pack("bytes for a label", cbor.ByteString("btag.site"), "a")
}

// TestTagsAreWrittenOneWay: the order of a map in memory is not that of the bytes.
func TestTagsAreWrittenOneWay(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	for _, format := range []Format{JSON, CBOR} {
		var first Message
		for i := range 50 {
			p := mostTags()
			m, err := Seal(format, testHeader(len(p.Records)), p, k)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = m
			}
			if !reflect.DeepEqual(m, first) {
				t.Fatalf("%s: sealed again, it has other bytes", format)
			}
		}
	}
}

// TestNoTagsIsNoTags: what has none is sealed to the bytes of a version that knew none.
func TestNoTagsIsNoTags(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	for _, format := range []Format{JSON, CBOR} {
		p := documented()
		none, err1 := Seal(format, testHeader(3), p, k)
		p.Tags = map[string]string{}
		empty, err2 := Seal(format, testHeader(3), p, k)
		if err1 != nil || err2 != nil || !reflect.DeepEqual(none, empty) {
			t.Errorf("%s: %v %v", format, err1, err2)
		}
		if got, err := Decode(empty); err != nil || got.Tags != nil {
			t.Errorf("%s: read back as %v (%v)", format, got.Tags, err)
		}
	}
}

func TestSealRefusesTags(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	p := documented()
	p.Tags = map[string]string{"site": "", "line": "3"}
	for _, format := range []Format{JSON, CBOR} {
		if _, err := Seal(format, testHeader(3), p, k); err == nil || !strings.Contains(err.Error(), `tag "site": the value is empty`) {
			t.Errorf("%s: %v", format, err)
		}
	}
	own, err := ControlPack("gw-0042", testBase, TypeClose, Close{})
	if err != nil {
		t.Fatal(err)
	}
	own.Tags = map[string]string{"site": "north"}
	h := testHeader(1)
	h.Device, h.Type = ControlDevice, TypeClose
	if _, err := Seal(JSON, h, own, k); err == nil || !strings.Contains(err.Error(), "have no tags") {
		t.Error(err)
	}
}

// TestTagsDoc keeps the example of docs/MESSAGE-FORMAT.md true.
func TestTagsDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/MESSAGE-FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	p := documented()
	p.Records = p.Records[:2]
	p.Records[1].Quality, p.Records[1].Reason = Good, ""
	p.Tags = map[string]string{"site": "north", "line": "3"}
	m, err := Seal(JSON, testHeader(2), p, testKey(t, Ed25519, 1))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ReplaceAll(string(doc), "},\n {", "},{"), string(m.Payload)) {
		t.Errorf("the document does not have %s", m.Payload)
	}
}

func TestFormatTags(t *testing.T) {
	got := FormatTags(map[string]string{"site": "north", "line": "hall 2", "esc": "a\u202eb", "eq": "a=b", "q": `a"b`, "name": "Grüße"})
	want := `eq="a=b" esc="a\u202eb" line="hall 2" name=Grüße q="a\"b" site=north`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := FormatTags(nil); got != "" {
		t.Errorf("of none: %q", got)
	}
}

func randomTags(rng *rand.Rand) map[string]string {
	var tags map[string]string
	for range rng.IntN(4) {
		if tags == nil {
			tags = map[string]string{}
		}
		tags[fmt.Sprintf("k%d", rng.IntN(20))] = []string{"x", "north 2", "\"é\\", "🐟"}[rng.IntN(4)]
	}
	return tags
}

// FuzzTag: what CheckTag takes comes through both formats as it was, and stands alone:
// no label of another field can be made of it.
func FuzzTag(f *testing.F) {
	f.Add("site", "north")
	f.Add("a_b.c-D", "\"\\ \u2028")
	f.Add("site_", "x")
	f.Add("n", "w\x7f")
	f.Fuzz(func(t *testing.T, key, value string) {
		if CheckTag(key, value) != nil {
			return
		}
		p := documented()
		p.Tags = map[string]string{key: value, key[:1] + "2": "other"}
		if CheckTags(p.Tags) != nil {
			t.Fatal("not taken with another one")
		}
		checkPack(t, p)
	})
}
