package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// TestScannerStrings: what is taken means what encoding/json reads; what encoding/json
// would mend is refused.
func TestScannerStrings(t *testing.T) {
	for _, text := range []string{
		`""`, `"a"`, `"\"\\\/\b\f\n\r\t"`, `"\u0041\u00e9\u20AC\uD83D\uDE00"`, `"é€😀"`, `" a\u0000é"`, "\"\u007f\u2028\"",
	} {
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(text, err)
		}
		sc := scanner{s: " \t\r\n" + text + " "}
		got, err := sc.str()
		if err != nil || got != want || sc.end() != nil {
			t.Errorf("%s: %q, %v", text, got, err)
		}
		if again := string(appendString(nil, got)); json.Unmarshal([]byte(again), &want) != nil || want != got {
			t.Errorf("%q is written as %s", got, again)
		}
	}
	for _, text := range []string{
		``, `"`, `a`, `"a`, `"\`, `"\"`, `"\x"`, `"\x0041"`, `"\ud800xxdc00"`, `"\u12"`, `"\u12`, `"\u12G4"`, `"\u00:0"`, `"\ud800"`, `"\ud800\n"`, `"\ud800\u0041"`, `"\udc00"`,
		`"\ud800\u"`, `"\ud800\ud800"`, "\"\n\"", "\"\\n\n\"", "\"\xff\"", "\"\\n\xff\"", "\"\xed\xa0\x80\"", `'a'`,
	} {
		sc := scanner{s: text}
		if got, err := sc.str(); !errors.Is(err, errSyntax) {
			t.Errorf("%q was taken as %q (%v)", text, got, err)
		}
	}
}

func TestScannerNumbers(t *testing.T) {
	for _, text := range []string{"0", "-0", "10", "-1.5", "1e5", "1E+05", "1.25e-3", "123456789012345678901234567890"} {
		sc := scanner{s: text}
		if got, err := sc.number(); err != nil || got != text || !json.Valid([]byte(text)) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-", "+1", ".5", "1.", "1.e5", "1e", "1e+", "NaN", "-Infinity", "x"} {
		sc := scanner{s: text}
		if got, err := sc.number(); err == nil {
			t.Errorf("%q was taken as %q", text, got)
		}
	}
	for _, text := range []string{"01", "1x", "0x1", "1 2", "tru", "True", "null"} {
		sc := scanner{s: text}
		_, err1 := sc.number()
		sc2 := scanner{s: text}
		_, err2 := sc2.boolean()
		if err1 == nil && sc.end() == nil || err2 == nil && sc2.end() == nil {
			t.Errorf("%q was taken whole", text)
		}
	}
}

func TestMicros(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "-0": 0, "1": 1e6, "-1.5": -1500000, "0.000001": 1, "0.0000005": 1, "0.0000004999": 0, "-0.0000005": -1, "0.9999995": 1000000,
		"1773500966.535897": 1773500966535897, "1773500966.5358971": 1773500966535897, "1e-6": 1, "1.5E3": 1500000000,
		"4294967295.999999": 4294967295999999, "1773500966.535897e0": 1773500966535897,
	} {
		sc := scanner{s: text}
		if got, err := sc.micros(); err != nil || got != want {
			t.Errorf("%s: %d µs, want %d (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{"8589934592", "1e10", "-1e300", "1e999", "99999999999999999999", "x"} {
		sc := scanner{s: text}
		if got, err := sc.micros(); err == nil {
			t.Errorf("%s was taken as %d µs", text, got)
		}
	}
	for _, want := range []int64{0, 1, -1, 999_999, 1_000_000, -1_500_000, 120_000, minMicros, maxMicros - 1} {
		sc := scanner{s: string(appendMicros(nil, want))}
		if got, err := sc.micros(); err != nil || got != want {
			t.Errorf("%d became %s became %d (%v)", want, sc.s, got, err)
		}
		// and in CBOR, over the whole range of doubles that we use
		f, err := cborFloat(cborSeconds(want))
		if err != nil {
			f = math.NaN()
		}
		if n, is := cborSeconds(want).(int64); is {
			f = float64(n)
		}
		if got, err := floatMicros(f); err != nil || got != want {
			t.Errorf("%d became %v became %d in CBOR (%v)", want, f, got, err)
		}
	}
}

// TestAppendBytes compares the byte strings that we write with the library's.
func TestAppendBytes(t *testing.T) {
	for _, n := range []int{0, 1, 23, 24, 255, 256, 65535, 65536} {
		s := bytes.Repeat([]byte{7}, n)
		got := appendBytes(nil, s)
		if !bytes.Equal(got, mustCBOR(t, s)) {
			t.Errorf("%d bytes: head %x", n, got[:len(got)-n])
		}
		if size := coseSize(s); size != 3+len(got) {
			t.Errorf("%d bytes: size %d", n, size)
		}
	}
}

// TestLargePacks: a message may be larger than one in ten years of use.
func TestLargePacks(t *testing.T) {
	p := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase}
	for i := range 3000 {
		p.Records = append(p.Records, Record{
			Name: fmt.Sprint("m", i), VD: bytes.Repeat([]byte{byte(i)}, 100), Time: time.Duration(i) * time.Millisecond,
			Quality: Uncertain, Reason: "why",
		})
	}
	forEach(t, func(t *testing.T, format Format, k *PrivateKey) {
		h := testHeader(len(p.Records))
		h.Total = 1e6
		m, err := Seal(format, h, p, k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(m, NewKeySet(k.Public())); err != nil {
			t.Fatal(err)
		}
		got, err := Decode(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := samePack(micro(p), got); err != nil {
			t.Error("a large pack came back as another")
		}
	})
	p.Records = make([]Record, maxEntries)
	if _, err := Seal(JSON, testHeader(maxEntries), p, testKey(t, Ed25519, 1)); err == nil {
		t.Error("a pack beyond the bound was sealed")
	}
}

// TestDecodeIsBounded: no small message makes a large pack.
func TestDecodeIsBounded(t *testing.T) {
	many := append([]byte{'['}, bytes.Repeat([]byte(`{"n":"a","v":1},`), maxEntries)...)
	many = append(many, `{"n":"a","v":1}]`...)
	if _, err := decodeSenMLJSON(many); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error("JSON: more records than the bound:", err)
	}
	if _, err := decodeSenMLCBOR(append([]byte{0x9a, 0, 1, 0, 1}, bytes.Repeat([]byte{0xa0}, maxEntries+1)...)); err == nil {
		t.Error("CBOR: more records than the bound")
	}
	deep := bytes.Repeat([]byte{0x81}, 100_000)
	if _, err := decodeSenMLCBOR(deep); err == nil {
		t.Error("CBOR: nested without end")
	}
}
