package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// The golden vectors are the format: other implementations are tested against them
// (testdata/verify_vectors.py is one). A change of a byte in them is a new version of
// the header, not a new golden file.
type (
	vectorKey struct {
		Name    string          `json:"name"`
		Kid     string          `json:"kid"`
		Private string          `json:"private"` // PEM, as key_file has it
		Public  string          `json:"public"`  // PEM
		JWK     json.RawMessage `json:"jwk"`     // for HMAC with its secret
		Known   bool            `json:"known"`   // to the verifier
	}
	vectorReading struct {
		Metric  string  `json:"metric"`
		Unit    string  `json:"unit,omitempty"`
		V       string  `json:"v,omitempty"` // decimal, reads back to the same double
		VS      *string `json:"vs,omitempty"`
		VB      *bool   `json:"vb,omitempty"`
		VD      *string `json:"vd,omitempty"` // hex
		Time    string  `json:"time"`
		Quality string  `json:"quality,omitempty"`
		Reason  string  `json:"reason,omitempty"`
	}
	vector struct {
		Name     string          `json:"name"`
		Message  Message         `json:"message"`
		Error    string          `json:"error,omitempty"`    // why it is refused
		Verifies bool            `json:"verifies,omitempty"` // it is refused by Decode, after Verify took it
		Header   json.RawMessage `json:"header,omitempty"`
		Hash     string          `json:"hash,omitempty"`
		Envelope string          `json:"envelope,omitempty"` // hex
		Readings []vectorReading `json:"readings,omitempty"`

		Tags map[string]string `json:"tags,omitempty"`
	}
	vectorEndorsement struct {
		Name        string      `json:"name"`
		Gateway     string      `json:"gateway"`
		Epoch       string      `json:"epoch"`
		Endorsement Endorsement `json:"endorsement"`
		NewKid      string      `json:"new_kid,omitempty"`
		OldKid      string      `json:"old_kid,omitempty"`
		Error       string      `json:"error,omitempty"`
	}
)

// reasons names the errors in the files.
var reasons = map[string]error{
	"unsigned": ErrUnsigned, "malformed": ErrMalformed, "unknown-key": ErrUnknownKey,
	"bad-signature": ErrBadSignature, "topic-mismatch": ErrTopicMismatch,
}

type vectorKeys struct{ ed, mac, other *PrivateKey }

func newVectorKeys(t testing.TB) vectorKeys {
	return vectorKeys{testKey(t, Ed25519, 1), testKey(t, HMACSHA256, 2), testKey(t, Ed25519, 3)}
}

func (k vectorKeys) known() KeySet { return NewKeySet(k.ed.Public(), k.mac.Public()) }

func (k vectorKeys) file() []vectorKey {
	var list []vectorKey
	for _, key := range []struct {
		name string
		*PrivateKey
	}{{"ed25519", k.ed}, {"hmac-sha256", k.mac}, {"stranger", k.other}} {
		jwk := key.Public().JWK()
		if mac := key.public.mac; mac != nil {
			jwk = []byte(`{"kty":"oct","k":"` + b64.EncodeToString(mac()) + `","kid":"` + key.Kid() + `","alg":"HS256"}`)
		}
		list = append(list, vectorKey{
			Name: key.name, Kid: key.Kid(), Private: string(key.MarshalPEM()),
			Public: string(key.Public().MarshalPEM()), JWK: jwk, Known: key.name != "stranger",
		})
	}
	return list
}

func readingsOf(p Pack) []vectorReading {
	var list []vectorReading
	for _, r := range p.Records {
		v := vectorReading{
			Metric: r.Name, Unit: r.Unit, VS: r.VS, VB: r.VB, Quality: r.Quality, Reason: r.Reason,
			Time: p.Base.Add(r.Time).UTC().Format("2006-01-02T15:04:05.000000Z"),
		}
		if r.V != nil {
			v.V = strconv.FormatFloat(*r.V, 'g', -1, 64)
		}
		if r.VD != nil {
			v.VD = ptr(hex.EncodeToString(r.VD))
		}
		list = append(list, v)
	}
	return list
}

// golden compares v with a file of testdata, or writes it.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s is not what is sealed now: this changes the format on the wire", file)
	}
}

func TestVectorKeys(t *testing.T) {
	k := newVectorKeys(t)
	golden(t, "keys.json", k.file())
	for _, v := range k.file() {
		private, err := ParsePrivateKey([]byte(v.Private))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{v.Public, string(v.JWK), string(private.Public().MarshalPEM())} {
			public, err := ParsePublicKey([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if public.Kid() != v.Kid || !public.Equal(private.Public()) {
				t.Errorf("%s: read back as %s", v.Name, public)
			}
		}
	}
}

func TestVectorsPositive(t *testing.T) {
	keys := newVectorKeys(t)
	list := positives(t, keys)
	golden(t, "positive.json", list)
	var stored []vector
	load(t, "positive.json", &stored)
	for _, v := range stored {
		got, err := Verify(v.Message, keys.known())
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if h, err := parseJSONHeader(string(v.Header)); err != nil || got.Header != h || hex.EncodeToString(got.Hash[:]) != v.Hash {
			t.Errorf("%s: header or hash differ: %+v", v.Name, got)
		}
		p, err := Decode(v.Message)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if !reflect.DeepEqual(readingsOf(p), v.Readings) || !maps.Equal(p.Tags, v.Tags) {
			t.Errorf("%s: readings or tags differ", v.Name)
		}
		envelope, err := hex.DecodeString(v.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ParseEnvelope(envelope); err != nil || !reflect.DeepEqual(m, v.Message) {
			t.Errorf("%s: the envelope holds another message (%v)", v.Name, err)
		}
	}
}

func TestVectorsNegative(t *testing.T) {
	keys := newVectorKeys(t)
	golden(t, "negative.json", negatives(t, keys))
	var stored []vector
	load(t, "negative.json", &stored)
	for _, v := range stored {
		_, err := Verify(v.Message, keys.known())
		if (err == nil) != v.Verifies {
			t.Errorf("%s: Verify says %v", v.Name, err)
		}
		if v.Verifies {
			_, err = Decode(v.Message)
		}
		if !errors.Is(err, reasons[v.Error]) {
			t.Errorf("%s: want %s, got %v", v.Name, v.Error, err)
		}
	}
}

func TestVectorsEndorsement(t *testing.T) {
	keys := newVectorKeys(t)
	golden(t, "endorsement.json", endorsements(t, keys))
	var stored []vectorEndorsement
	load(t, "endorsement.json", &stored)
	for _, v := range stored {
		key, old, err := VerifyEndorsement(v.Endorsement, v.Gateway, v.Epoch, keys.known())
		if !errors.Is(err, reasons[v.Error]) || key.Kid() != v.NewKid || old != v.OldKid {
			t.Errorf("%s: want %q, got %v, %s by %s", v.Name, v.Error, err, key, old)
		}
	}
}

func load(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// TestVectorsIndependently has a JOSE and a COSE implementation in another language
// judge the same vectors.
func TestVectorsIndependently(t *testing.T) {
	if testing.Short() {
		t.Skip("the full test runs it; under emulation only the emulated side is of interest")
	}
	const python = "/usr/bin/python3" // Debian's, which sees Debian's modules
	out, err := exec.Command(python, "-c", "import jwcrypto, cbor2, cryptography").CombinedOutput()
	if err != nil {
		t.Fatalf("apt-get install python3 python3-jwcrypto python3-cbor2 python3-cryptography (%v)\n%s", err, out)
	}
	out, err = exec.Command(python, "testdata/verify_vectors.py").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// sealed is a positive vector.
func sealed(t *testing.T, name string, m Message, keys Keys) vector {
	t.Helper()
	v, err := Verify(m, keys)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p, err := Decode(m)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return vector{
		Name: name, Message: m, Header: v.appendJSON(nil), Hash: hex.EncodeToString(v.Hash[:]),
		Envelope: hex.EncodeToString(m.AppendEnvelope(nil)), Readings: readingsOf(p), Tags: p.Tags,
	}
}

func controlBodies(t *testing.T, keys vectorKeys) map[string]any {
	endorsement, err := Endorse(keys.other, "gw-0042", testHeader(1).Epoch, keys.ed.Public())
	if err != nil {
		t.Fatal(err)
	}
	durable := map[string]Numbers{"scale": {6, 120}, "meter": {9, 9}}
	return map[string]any{
		TypeOpen: Open{
			PrevEpoch: "fedcba9876543210", Cause: "key-rotation", Boot: testHeader(1).Boot,
			Durable: durable, Uncertain: true, Endorsement: endorsement,
		},
		TypeAnchor: Anchor{Boot: testHeader(1).Boot, Mono: 86_400_000_001, UTC: testBase.Format(time.RFC3339Nano), ErrorBound: 1500},
		TypeDrop: Drop{Ranges: []DropRange{
			{Device: "scale", Epoch: "fedcba9876543210", First: 3, Last: 5, Readings: 60, Reason: "max_bytes"},
		}},
		TypeClose: Close{Epoch: "fedcba9876543210", Durable: durable},
	}
}

// documented is the pack that docs/MESSAGE-FORMAT.md shows.
func documented() Pack {
	return Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{
		{Name: "weight", Unit: "kg", V: ptr(12.5)},
		{Name: "weight", Unit: "kg", V: ptr(12.75), Time: 250 * time.Millisecond, Quality: Uncertain, Reason: "unstable"},
		{Name: "temp", Time: 250 * time.Millisecond, Quality: Bad, Reason: "port-lost"},
	}}
}

func positives(t *testing.T, keys vectorKeys) (list []vector) {
	seal := func(name string, f Format, h Header, p Pack, k *PrivateKey) {
		m, err := Seal(f, h, p, k)
		if err != nil {
			t.Fatal(name, err)
		}
		list = append(list, sealed(t, name, m, keys.known()))
	}
	for _, f := range []Format{JSON, CBOR} {
		seal(string(f)+": the example of docs/MESSAGE-FORMAT.md", f, testHeader(3), documented(), keys.ed)
		for _, k := range []*PrivateKey{keys.ed, keys.mac} {
			name := string(f) + " " + k.Alg() + ": "
			seal(name+"every kind of value and quality", f, testHeader(16), everyKind(), k)
			h := testHeader(1)
			h.Clock, h.Floor = ClockUnsynced, h.Seq
			p := Pack{Gateway: "gw-0042", Device: "scale", Base: time.Unix(1_800_000_000, 0).UTC(), Records: []Record{{Name: "w", V: ptr(0.1)}}}
			seal(name+"clock not synchronised", f, h, p, k)
			h = testHeader(1)
			h.Topic, h.Gateway, h.Device = "plant/straße \"7\"\\a", "0", "a_b.c-D"
			p.Gateway, p.Device = h.Gateway, h.Device
			seal(name+"odd names and topic", f, h, p, k)
			h = testHeader(1)
			h.Seq, h.Floor, h.Total, h.Mono = maxInteger, maxInteger, maxInteger, maxInteger
			p = Pack{Gateway: "gw-0042", Device: "scale", Base: time.UnixMicro(maxMicros - 1).UTC(), Records: []Record{{Name: "w", V: ptr(1e300)}}}
			seal(name+"greatest numbers", f, h, p, k)
		}
		for _, typ := range []string{TypeOpen, TypeAnchor, TypeDrop, TypeClose} {
			p, err := ControlPack("gw-0042", testBase, typ, controlBodies(t, keys)[typ])
			if err != nil {
				t.Fatal(err)
			}
			h := testHeader(1)
			h.Device, h.Type, h.Topic = ControlDevice, typ, "gw/gw-0042/_holdfast"
			seal(string(f)+": control "+typ, f, h, p, keys.ed)
		}
	}
	list = append(list, otherSpellings(t, keys)...)
	return append(list, tagged(t, keys)...)
}
