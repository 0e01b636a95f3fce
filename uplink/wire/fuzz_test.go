package wire

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// Every decoder has a target here. What is common to all: no input makes it panic,
// and what it takes means the same when it is written again. The golden vectors,
// good and bad, are the seeds.

// seeds loads every message of the golden vectors.
func seeds(f *testing.F) (list []Message) {
	f.Helper()
	for _, file := range []string{"positive.json", "negative.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		var vectors []vector
		if err := json.Unmarshal(b, &vectors); err != nil {
			f.Fatal(err)
		}
		for _, v := range vectors {
			list = append(list, v.Message)
		}
	}
	if len(list) == 0 {
		f.Fatal("no seeds")
	}
	return list
}

func FuzzHeaderJSON(f *testing.F) {
	for _, m := range seeds(f) {
		if d, err := splitDetached(m.JWS, nil, &scratch{}); err == nil {
			f.Add(string(d.header))
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseJSONHeader(s)
		if err != nil || h.check() != nil {
			return
		}
		if again, err := parseJSONHeader(string(h.appendJSON(nil))); err != nil || again != h {
			t.Errorf("%+v became %+v (%v)", h, again, err)
		}
		// What we take, the standard library takes, as the same.
		var std struct {
			Topic string `json:"topic"`
			Seq   uint64 `json:"seq"`
		}
		if err := json.Unmarshal([]byte(s), &std); err != nil || std.Topic != h.Topic || std.Seq != h.Seq {
			t.Errorf("encoding/json reads %+v (%v)", std, err)
		}
	})
}

// FuzzHeadersInTurn reads one header after another with the same memory: what is quicker must not read differently, whatever
// came before.
func FuzzHeadersInTurn(f *testing.F) {
	before := "{}"
	for _, m := range seeds(f) {
		if d, err := splitDetached(m.JWS, nil, &scratch{}); err == nil {
			f.Add(before, string(d.header))
			f.Add(string(d.header), string(d.header))
			before = string(d.header)
		}
	}
	f.Fuzz(func(t *testing.T, before, s string) {
		var w scratch
		w.parseHeader([]byte(before))
		h, err := w.parseHeader([]byte(s))
		if want, wantErr := parseJSONHeader(s); (err == nil) != (wantErr == nil) || err == nil && h != want {
			t.Errorf("after %q\n%q\nis %+v (%v), and alone %+v (%v)", before, s, h, err, want, wantErr)
		}
	})
}

// FuzzCOSEInTurn is the same for COSE: what the quick reader takes, the decoder for all of CBOR takes too, as the same.
func FuzzCOSEInTurn(f *testing.F) {
	before := []byte{tagMac0}
	for _, m := range seeds(f) {
		if m.isCOSE() && len(m.Payload) > 0 {
			f.Add(before, m.Payload)
			f.Add(m.Payload, m.Payload)
			before = m.Payload
		}
	}
	f.Fuzz(func(t *testing.T, before, b []byte) {
		var w scratch
		for _, m := range [][]byte{before, b} {
			if len(m) == 0 || m[0] != tagSign1 && m[0] != tagMac0 {
				continue
			}
			got, ok := openWrittenCOSE(m, &w)
			want, err := openAnyCOSE(m)
			if ok && (err != nil || got.header != want.header || !bytes.Equal(got.payload, want.payload) ||
				!bytes.Equal(got.signed, want.signed) || !bytes.Equal(got.signature, want.signature)) {
				t.Errorf("%x after %x\nis %+v, and alone %+v (%v)", m, before, got, want, err)
			}
		}
	})
}

func FuzzHeaderCOSE(f *testing.F) {
	for _, m := range seeds(f) {
		var parts coseParts
		if len(m.Payload) > 0 && cborDecoder.Unmarshal(m.Payload[1:], &parts) == nil {
			f.Add(parts.Protected, m.Payload[0] == tagMac0)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, mac bool) {
		tag := byte(tagSign1)
		if mac {
			tag = tagMac0
		}
		h, err := parseCOSEHeader(tag, b)
		if err != nil || h.check() != nil {
			return
		}
		m := coseMap(h)
		if h.Alg == algEd25519 {
			m[1] = coseEd25519
		}
		if again, err := parseCOSEHeader(tag, mustCBOR(t, m)); err != nil || again != h {
			t.Errorf("%+v became %+v (%v)", h, again, err)
		}
		if again, err := parseJSONHeader(string(h.appendJSON(nil))); err != nil || again != h {
			t.Errorf("%+v became %+v in JSON (%v)", h, again, err)
		}
	})
}

// FuzzVerify is given everything a stranger can choose. Nothing verifies but what the
// keys' owners signed: those of the vectors.
func FuzzVerify(f *testing.F) {
	keys := newVectorKeys(f).known()
	genuine := map[[32]byte]bool{}
	for _, m := range seeds(f) {
		f.Add(m.Topic, m.ContentType, m.JWS, m.Payload)
		if v, err := Verify(m, keys); err == nil {
			genuine[v.Hash] = true
		}
	}
	f.Fuzz(func(t *testing.T, topic, contentType, jws string, payload []byte) {
		m := Message{topic, contentType, jws, payload}
		if v, err := Verify(m, keys); err == nil && !genuine[v.Hash] {
			t.Errorf("a forgery: %+v", v)
		}
		if h, err := Inspect(m); err == nil && h.check() != nil {
			t.Errorf("Inspect returns what check refuses: %+v", h)
		}
		if p, err := Decode(m); err == nil {
			checkPack(t, p)
		}
		if v, key, _, err := VerifyRotation(m, keys); err == nil {
			t.Errorf("a rotation to %s: %+v", key, v)
		}
	})
}

// checkPack writes a pack in both formats and reads it back.
func checkPack(t *testing.T, p Pack) {
	t.Helper()
	entries, err := flatten(p)
	if err != nil {
		t.Fatalf("decoded, and cannot be sealed: %v\n%+v", err, p)
	}
	j, err := decodeSenMLJSON(appendSenMLJSON(nil, entries))
	if err != nil {
		t.Fatal(err)
	}
	if err := samePack(p, j); err != nil {
		t.Error("JSON:", err)
	}
	b, err := encodeSenMLCBOR(entries)
	if err != nil {
		t.Fatal(err)
	}
	c, err := decodeSenMLCBOR(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := samePack(p, c); err != nil {
		t.Error("CBOR:", err)
	}
}

func FuzzSenMLJSON(f *testing.F) {
	for _, m := range seeds(f) {
		if m.ContentType == ContentTypeJSON {
			f.Add(m.Payload)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeSenMLJSON(b); err == nil {
			checkPack(t, p)
			if !json.Valid(b) {
				t.Error("encoding/json does not take it")
			}
		}
	})
}

func FuzzSenMLCBOR(f *testing.F) {
	for _, m := range seeds(f) {
		if s, err := open(m, &scratch{}); err == nil && m.JWS == "" {
			f.Add(s.payload)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeSenMLCBOR(b); err == nil {
			checkPack(t, p)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	for _, m := range seeds(f) {
		f.Add(m.AppendEnvelope(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseEnvelope(b)
		if err != nil {
			return
		}
		if again, err := ParseEnvelope(m.AppendEnvelope(nil)); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v became %+v (%v)", m, again, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	for _, k := range newVectorKeys(f).file() {
		f.Add([]byte(k.Private))
		f.Add([]byte(k.Public))
		f.Add([]byte(k.JWK))
		f.Add([]byte(`{"keys":[` + string(k.JWK) + `]}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParsePrivateKey(b); err == nil {
			again, err := ParsePrivateKey(k.MarshalPEM())
			if err != nil || !again.Public().Equal(k.Public()) {
				t.Errorf("%s became %s (%v)", k, again, err)
			}
			input := []byte("input")
			if err := k.Public().verify(k.Alg(), k.Kid(), input, k.sign(input)); err != nil {
				t.Error(err)
			}
		}
		keys, err := ParsePublicKeys(b)
		if err != nil {
			return
		}
		for _, k := range keys {
			if again, err := ParsePublicKey(k.MarshalPEM()); err != nil || !again.Equal(k) {
				t.Errorf("%s became %s (%v)", k, again, err)
			}
			if again, err := ParsePublicKey(k.JWK()); !k.Secret() && (err != nil || !again.Equal(k)) {
				t.Errorf("%s became %s as a JWK (%v)", k, again, err)
			}
		}
	})
}

func FuzzEndorsement(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", "endorsement.json"))
	if err != nil {
		f.Fatal(err)
	}
	var vectors []vectorEndorsement
	if err := json.Unmarshal(b, &vectors); err != nil {
		f.Fatal(err)
	}
	known := newVectorKeys(f)
	for _, v := range vectors {
		f.Add(v.Gateway, v.Epoch, []byte(v.Endorsement.JWK), v.Endorsement.JWS)
	}
	f.Fuzz(func(t *testing.T, gateway, epoch string, jwk []byte, jws string) {
		key, _, err := VerifyEndorsement(Endorsement{jwk, jws}, gateway, epoch, known.known())
		if err == nil && (!key.Equal(known.other.Public()) || gateway != "gw-0042" || epoch != testHeader(1).Epoch) {
			t.Errorf("a forgery: %s for %q in %q", key, gateway, epoch)
		}
	})
}

func FuzzControl(f *testing.F) {
	for _, m := range seeds(f) {
		if p, err := Decode(m); err == nil && p.Device == ControlDevice {
			f.Add(*p.Records[0].VS)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := Pack{Gateway: "gw", Device: ControlDevice, Records: []Record{{Name: "x", VS: &s}}}
		for _, body := range []any{&Open{}, &Anchor{}, &Drop{}, &Close{}} {
			if ParseControl(p, body) != nil {
				continue
			}
			again, err := ControlPack("gw", testBase, "x", body)
			if err != nil {
				t.Fatal(err)
			}
			copied := reflect.New(reflect.TypeOf(body).Elem()).Interface()
			if err := ParseControl(again, copied); err != nil {
				t.Errorf("%+v is not read back: %v", body, err)
			}
			if a, ok := body.(*Anchor); ok {
				var r Resolver
				if r.Anchor(Header{Gateway: "gw", Type: TypeAnchor}, *a) == nil {
					r.Resolve(Header{Gateway: "gw", Boot: a.Boot, Clock: ClockUnsynced}, Pack{Base: testBase})
				}
			}
		}
	})
}
