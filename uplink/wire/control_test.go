package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sealControl(t *testing.T, f Format, typ string, body any, k *PrivateKey) Message {
	t.Helper()
	p, err := ControlPack("gw-0042", testBase, typ, body)
	if err != nil {
		t.Fatal(err)
	}
	h := testHeader(1)
	h.Device, h.Type, h.Topic = ControlDevice, typ, "gw/gw-0042/_holdfast"
	m, err := Seal(f, h, p, k)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestControlRoundTrip(t *testing.T) {
	keys := newVectorKeys(t)
	for typ, body := range controlBodies(t, keys) {
		for _, f := range []Format{JSON, CBOR} {
			p, err := Decode(sealControl(t, f, typ, body, keys.ed))
			if err != nil {
				t.Fatal(err)
			}
			got := reflect.New(reflect.TypeOf(body))
			if err := ParseControl(p, got.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Elem().Interface(), body) {
				t.Errorf("%s %s: %+v became %+v", f, typ, body, got.Elem())
			}
		}
	}
}

func TestParseControlRefuses(t *testing.T) {
	text := func(s string) Pack {
		return Pack{Gateway: "g", Device: ControlDevice, Records: []Record{{Name: TypeClose, VS: &s}}}
	}
	data := text(`{}`)
	data.Device = "scale"
	var c Close
	for name, p := range map[string]Pack{
		"no record": {Device: ControlDevice}, "data": data, "not JSON": text("x"), "wrong type": text(`{"epoch":1}`),
		"negative": text(`{"durable":{"a":{"seq":-1}}}`), "bad record": {Device: ControlDevice, Records: []Record{{Name: TypeClose, Quality: Bad}}},
	} {
		if err := ParseControl(p, &c); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ParseControl(text(`{"epoch":"e","news":[1]}`), &c); err != nil || c.Epoch != "e" {
		t.Error("a field of a newer version:", err)
	}
	if _, err := ControlPack("g", testBase, TypeOpen, func() {}); err == nil {
		t.Error("a func was taken as a body")
	}
}

func TestSealRefusesControlOfAnotherType(t *testing.T) {
	p, err := ControlPack("gw-0042", testBase, TypeDrop, Drop{})
	if err != nil {
		t.Fatal(err)
	}
	h := testHeader(1)
	h.Device, h.Type = ControlDevice, TypeClose
	if _, err := Seal(JSON, h, p, testKey(t, Ed25519, 1)); err == nil || !strings.Contains(err.Error(), "type close") {
		t.Error(err)
	}
}

func TestRotation(t *testing.T) {
	epoch := testHeader(1).Epoch
	for _, f := range []Format{JSON, CBOR} {
		for _, alg := range []string{Ed25519, HMACSHA256} {
			old, new, stranger := testKey(t, alg, 1), testKey(t, Ed25519, 2), testKey(t, Ed25519, 3)
			known := NewKeySet(old.Public())
			endorse := func(by *PrivateKey, gateway, epoch string, key *PrivateKey) *Endorsement {
				e, err := Endorse(by, gateway, epoch, key.Public())
				if err != nil {
					t.Fatal(err)
				}
				return e
			}
			m := sealControl(t, f, TypeOpen, Open{Cause: "key-rotation", Endorsement: endorse(old, "gw-0042", epoch, new)}, new)
			if _, err := Verify(m, known); !errors.Is(err, ErrUnknownKey) {
				t.Error("before the rotation:", err)
			}
			v, key, oldKid, err := VerifyRotation(m, known)
			if err != nil || !key.Equal(new.Public()) || oldKid != old.Kid() || v.Type != TypeOpen {
				t.Fatal(v, key, oldKid, err)
			}
			if w, err := Verify(m, NewKeySet(key)); err != nil || w != v {
				t.Error("after the rotation:", err)
			}
			for name, test := range map[string]struct {
				m    Message
				want error
			}{
				"no endorsement":        {sealControl(t, f, TypeOpen, Open{}, new), ErrUnknownKey},
				"not an open":           {sealControl(t, f, TypeClose, Close{}, new), ErrUnknownKey},
				"endorsed, not an open": {sealControl(t, f, TypeClose, Open{Endorsement: endorse(old, "gw-0042", epoch, new)}, new), ErrUnknownKey},
				"other gateway":         {sealControl(t, f, TypeOpen, Open{Endorsement: endorse(old, "gw", epoch, new)}, new), ErrBadSignature},
				"other epoch":           {sealControl(t, f, TypeOpen, Open{Endorsement: endorse(old, "gw-0042", "0000000000000000", new)}, new), ErrBadSignature},
				"by a stranger":         {sealControl(t, f, TypeOpen, Open{Endorsement: endorse(stranger, "gw-0042", epoch, new)}, new), ErrUnknownKey},
				"sealed by a third":     {sealControl(t, f, TypeOpen, Open{Endorsement: endorse(old, "gw-0042", epoch, new)}, stranger), ErrUnknownKey},
				"endorses itself":       {sealControl(t, f, TypeOpen, Open{Endorsement: endorse(new, "gw-0042", epoch, new)}, new), ErrUnknownKey},
				"no message at all":     {Message{}, ErrUnsigned},
				"endorsement is not":    {sealControl(t, f, TypeOpen, Open{Endorsement: &Endorsement{JWK: []byte("1")}}, new), ErrMalformed},
			} {
				v, key, _, err := VerifyRotation(test.m, known)
				if !errors.Is(err, test.want) || v != (Verified{}) || key.Kid() != "" {
					t.Errorf("%s: want %v, got %v", name, test.want, err)
				}
			}
		}
	}
}

func TestEndorseRefuses(t *testing.T) {
	old, mac := testKey(t, Ed25519, 1), testKey(t, HMACSHA256, 2)
	if _, err := Endorse(old, "gw", "0000000000000000", mac.Public()); err == nil || !strings.Contains(err.Error(), "device add") {
		t.Error("HMAC:", err)
	}
	for _, bad := range [][2]string{{"", "0000000000000000"}, {"gw", "0"}} {
		if _, err := Endorse(old, bad[0], bad[1], testKey(t, Ed25519, 2).Public()); err == nil {
			t.Error(bad, "was endorsed")
		}
	}
	if _, err := Endorse(old, "gw", "0000000000000000", PublicKey{}); err == nil {
		t.Error("no key was endorsed")
	}
}

func TestResolver(t *testing.T) {
	const boot, second = "boot-1", int64(time.Second / time.Microsecond)
	h := Header{Gateway: "gw", Boot: boot, Mono: 10 * second, Clock: ClockUnsynced, Type: TypeData}
	anchor := Header{Gateway: "gw", Type: TypeAnchor}
	p := Pack{Base: time.Unix(1<<29, 0), Records: []Record{{Time: 3 * time.Second}}}
	utc := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var r Resolver
	if got, res := r.Resolve(h, p); res.Synced || !got.Base.Equal(p.Base) {
		t.Error("a boot never anchored was resolved", res)
	}
	take := func(h Header, a Anchor) {
		t.Helper()
		if err := r.Anchor(h, a); err != nil {
			t.Fatal(err)
		}
	}
	take(Header{Gateway: "other", Type: TypeAnchor}, Anchor{Boot: boot, UTC: utc.Format(time.RFC3339Nano)})
	take(anchor, Anchor{Boot: "boot-2", UTC: utc.Format(time.RFC3339Nano)})
	if _, res := r.Resolve(h, p); res.Synced {
		t.Error("resolved by another gateway's or boot's anchor")
	}
	take(anchor, Anchor{Boot: boot, Mono: 70 * second, UTC: utc.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano), ErrorBound: 2000})
	got, res := r.Resolve(h, p)
	if want := utc.Add(-time.Minute); !got.Base.Equal(want) || got.Base.Location() != time.UTC || !res.Synced {
		t.Errorf("base %v, want %v; %+v", got.Base, want, res)
	}
	if want := 2*time.Millisecond + 6*time.Millisecond; res.Bound != want { // 100 ppm of a minute
		t.Error("bound", res.Bound)
	}
	if !p.Base.Equal(time.Unix(1<<29, 0)) {
		t.Error("the caller's pack was changed")
	}
	take(anchor, Anchor{Boot: boot, Mono: 11 * second, UTC: utc.Format(time.RFC3339Nano), ErrorBound: 1000})
	if got, res := r.Resolve(h, p); !got.Base.Equal(utc.Add(-time.Second)) || res.Bound != 1100*time.Microsecond {
		t.Error("the better anchor was not used:", got.Base, res)
	}
	h.Clock = ClockSynced
	if got, res := r.Resolve(h, p); !got.Base.Equal(p.Base) || res != (Resolution{Synced: true}) {
		t.Error("a synced pack was moved", got.Base, res)
	}
}

func TestResolverRefuses(t *testing.T) {
	var r Resolver
	good := Anchor{Boot: "b", Mono: 1, UTC: "2026-01-01T00:00:00Z"}
	for name, change := range map[string]func(*Header, *Anchor){
		"type":  func(h *Header, _ *Anchor) { h.Type = TypeData },
		"utc":   func(_ *Header, a *Anchor) { a.UTC = "yesterday" },
		"1970":  func(_ *Header, a *Anchor) { a.UTC = "1970-01-01T00:00:00Z" },
		"mono":  func(_ *Header, a *Anchor) { a.Mono = -1 },
		"bound": func(_ *Header, a *Anchor) { a.ErrorBound = -1 },
		"boot":  func(_ *Header, a *Anchor) { a.Boot = "" },
	} {
		h, a := Header{Gateway: "gw", Type: TypeAnchor}, good
		change(&h, &a)
		if err := r.Anchor(h, a); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An anchor far away would put the pack where SenML has no absolute times.
	if err := r.Anchor(Header{Gateway: "gw", Type: TypeAnchor}, Anchor{Boot: "b", Mono: maxInteger, UTC: good.UTC}); err != nil {
		t.Fatal(err)
	}
	if _, res := r.Resolve(Header{Gateway: "gw", Boot: "b", Clock: ClockUnsynced}, Pack{Base: testBase}); res.Synced {
		t.Error("resolved to before 1978", res)
	}
}

// TestResolverIsBounded: boots and anchors without end do not grow it.
func TestResolverIsBounded(t *testing.T) {
	var r Resolver
	for i := range 3 * maxBoots {
		for range 3 * maxAnchors {
			boot := "b" + strings.Repeat("x", i%100) + string(rune('a'+i/100%26)) + string(rune('a'+i/2600))
			if err := r.Anchor(Header{Gateway: "gw", Type: TypeAnchor}, Anchor{Boot: boot, UTC: "2026-01-01T00:00:00Z"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(r.boots) != maxBoots || len(r.order) != maxBoots {
		t.Error("remembers", len(r.boots), len(r.order), "boots")
	}
	for _, points := range r.boots {
		if len(points) != maxAnchors {
			t.Fatal("remembers", len(points), "anchors of a boot")
		}
	}
}
