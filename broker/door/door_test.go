package door

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/broker/limitlog"
	"holdfast/uplink/wire"
)

// memState is a State in memory that can be told to fail.
type memState struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail error
	puts int
}

func newMemState() *memState { return &memState{m: map[string][]byte{}} }

func (s *memState) Put(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.fail != nil {
		return s.fail
	}
	s.m[key] = bytes.Clone(value)
	return nil
}

func (s *memState) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
	return s.fail
}

func (s *memState) Each(prefix string, fn func(string, []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(s.m)) {
		if strings.HasPrefix(k, prefix) {
			if err := fn(k, s.m[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

// site is a registry, a door and gateways to play with.
type site struct {
	t     *testing.T
	state *memState
	keys  *Registry
	door  *Door
	log   *bytes.Buffer
	now   time.Time
	rng   *rand.ChaCha8
}

func newSite(t *testing.T, rules ...Rule) *site {
	t.Helper()
	if rules == nil {
		rules = DefaultRules()
	}
	s := &site{t: t, state: newMemState(), log: &bytes.Buffer{}, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), rng: rand.NewChaCha8([32]byte{7})}
	var err error
	if s.keys, err = OpenRegistry(s.state, func() time.Time { return s.now }); err != nil {
		t.Fatal(err)
	}
	s.door = New(rules, s.keys, slog.New(slog.NewTextHandler(s.log, nil)))
	s.door.log = limitlog.New(s.door.log.To, func() time.Time { return s.now })
	return s
}

func (s *site) newKey(alg string) *wire.PrivateKey {
	s.t.Helper()
	k, err := wire.GenerateKey(alg, s.rng)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// gateway makes a key and registers it.
func (s *site) gateway(name string) *wire.PrivateKey {
	s.t.Helper()
	k := s.newKey(wire.Ed25519)
	s.add(name, k.Public())
	return k
}

func (s *site) add(name string, key wire.PublicKey, epochs ...string) GatewayKey {
	s.t.Helper()
	got, err := s.keys.Add(s.t.Context(), name, key, epochs...)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

var base = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

// seal makes a data message.
func (s *site) seal(k *wire.PrivateKey, gateway, epoch string, seq uint64) wire.Message {
	s.t.Helper()
	v := 20.5
	p := wire.Pack{Gateway: gateway, Device: "scale", Base: base, Records: []wire.Record{{Name: "weight", Unit: "kg", V: &v}}}
	return s.sealPack(k, wire.TypeData, epoch, seq, p)
}

func (s *site) sealPack(k *wire.PrivateKey, typ, epoch string, seq uint64, p wire.Pack) wire.Message {
	s.t.Helper()
	m, err := wire.Seal(wire.JSON, wire.Header{Gateway: p.Gateway, Device: p.Device, Epoch: epoch, Seq: seq, Floor: 1, N: len(p.Records), Total: seq,
		Topic: "gw/" + p.Gateway + "/" + p.Device, Boot: "boot-1", Clock: wire.ClockSynced, Type: typ}, p, k)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *site) sealControl(k *wire.PrivateKey, gateway, typ, epoch string, seq uint64, body any) wire.Message {
	s.t.Helper()
	p, err := wire.ControlPack(gateway, base, typ, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.sealPack(k, typ, epoch, seq, p)
}

func (s *site) check(m wire.Message) Verdict {
	return s.door.Check(m, Publisher{Client: "c1", Addr: "127.0.0.1:5", Protocol: 5})
}

// refuses wants a refusal for a reason, logged with what to do about it.
func (s *site) refuses(m wire.Message, why error, code byte, logged ...string) {
	s.t.Helper()
	s.log.Reset()
	s.now = s.now.Add(2 * limitlog.Every)
	v := s.check(m)
	if !errors.Is(v.Err, why) || v.Code != code || v.Reason == "" || v.Verified != nil {
		s.t.Errorf("verdict %+v, want %v with code %#x", v, why, code)
	}
	for _, word := range append(logged, "client=c1", "addr=127.0.0.1:5", "topic="+m.Topic, "do=") {
		if !strings.Contains(s.log.String(), word) {
			s.t.Errorf("the log does not say %q: %s", word, s.log)
		}
	}
}

func (s *site) accepts(m wire.Message) Verdict {
	s.t.Helper()
	v := s.check(m)
	if v.Err != nil || v.Code != 0 || v.Verified == nil {
		s.t.Fatalf("refused: %+v", v)
	}
	return v
}

func TestDoorAcceptsWhatARegisteredGatewaySealed(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	v := s.accepts(s.seal(k, "gw-1", epochA, 1))
	if v.Policy != PolicyReject || v.Mark != "" || v.Control != nil || v.Verified.Seq != 1 {
		t.Errorf("%+v", v)
	}
	g, _ := s.keys.Show("gw-1")
	if !slices.Equal(g.Keys[0].Epochs, []string{epochA}) {
		t.Errorf("epochs %v", g.Keys[0].Epochs)
	}
	puts := s.state.puts
	s.accepts(s.seal(k, "gw-1", epochA, 2))
	if s.state.puts != puts {
		t.Error("a second message of an epoch wrote to the registry")
	}
	if n, _ := s.door.Counts(); n != 2 {
		t.Errorf("%d counted", n)
	}
}

func TestDoorRefusals(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	good := s.seal(k, "gw-1", epochA, 1)

	unsigned := good
	unsigned.JWS = ""
	s.refuses(unsigned, wire.ErrUnsigned, 0x87, "reason=unsigned", "verify")

	altered := good
	altered.Payload = bytes.Replace(good.Payload, []byte("20.5"), []byte("20.6"), 1)
	s.refuses(altered, wire.ErrBadSignature, 0x99, "reason=bad_signature", "gateway=gw-1", "kid="+k.Kid())

	garbage := good
	garbage.JWS = "a..b"
	s.refuses(garbage, wire.ErrMalformed, 0x99, "reason=malformed")

	moved := good
	moved.Topic = "gw/gw-1/other"
	s.refuses(moved, wire.ErrTopicMismatch, 0x99, "reason=topic_mismatch")

	stranger := s.newKey(wire.Ed25519)
	s.refuses(s.seal(stranger, "gw-2", epochA, 1), wire.ErrUnknownKey, 0x87, "reason=unknown_key", "gateway=gw-2", "device add")
	s.refuses(s.seal(stranger, "gw-1", epochA, 1), wire.ErrUnknownKey, 0x87, "reason=unknown_key")
	s.refuses(s.seal(k, "gw-2", epochA, 1), wire.ErrUnknownKey, 0x87, "reason=unknown_key") // a known key, but another gateway's

	if _, err := s.keys.Revoke(t.Context(), "gw-1", k.Kid()); err != nil {
		t.Fatal(err)
	}
	s.refuses(good, wire.ErrRevokedKey, 0x87, "reason=revoked_key", "--restore")
	if _, err := s.keys.Restore(t.Context(), "gw-1", k.Kid()); err != nil {
		t.Fatal(err)
	}
	s.accepts(good)
	_, refused := s.door.Counts()
	if refused["unknown_key"] != 3 || refused["bad_signature"] != 1 || refused["revoked_key"] != 1 {
		t.Errorf("counted %v", refused)
	}
}

func TestDoorTellsMQTT3WhyItCannotSign(t *testing.T) {
	s := newSite(t)
	s.door.Check(wire.Message{Topic: "gw/gw-1/scale", Payload: []byte("[]")}, Publisher{Client: "old", Protocol: 4})
	if !strings.Contains(s.log.String(), "format cbor") || !strings.Contains(s.log.String(), "3.1.1") {
		t.Errorf("log: %s", s.log)
	}
}

func TestDoorPolicies(t *testing.T) {
	s := newSite(t, Rule{"gw/gw-2/#", PolicyOff}, Rule{"gw/#", PolicyMark})
	k := s.gateway("gw-1")
	good := s.seal(k, "gw-1", epochA, 1)
	if v := s.accepts(good); v.Mark != "valid gw-1 "+k.Kid() {
		t.Errorf("mark %q", v.Mark)
	}
	bad := good
	bad.Payload = []byte("[]")
	if v := s.check(bad); v.Code != 0 || v.Mark != "invalid: signature does not verify" || v.Verified != nil || v.Err == nil {
		t.Errorf("%+v", v)
	}
	for _, topic := range []string{"gw/gw-2/x", "office/door", "$SYS/x"} {
		if v := s.check(wire.Message{Topic: topic, Payload: []byte("x")}); v.Policy != PolicyOff || v.Code != 0 || v.Err != nil || v.Mark != "" {
			t.Errorf("%s: %+v", topic, v)
		}
	}
}

func TestDoorRegistryThatCannotBeWritten(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	s.state.fail = errors.New("disk full")
	s.refuses(s.seal(k, "gw-1", epochA, 1), s.state.fail, 0x80, "reason=failed", "disk full")
	s.state.fail = nil
	s.accepts(s.seal(k, "gw-1", epochA, 1))
}

func TestDoorRotation(t *testing.T) {
	s := newSite(t)
	old, fresh := s.gateway("gw-1"), s.newKey(wire.Ed25519)
	s.accepts(s.seal(old, "gw-1", epochA, 1))
	word, err := wire.Endorse(old, "gw-1", epochB, fresh.Public())
	if err != nil {
		t.Fatal(err)
	}
	open := s.sealControl(fresh, "gw-1", wire.TypeOpen, epochB, 1, wire.Open{PrevEpoch: epochA, Cause: "key-rotation", Boot: "b", Endorsement: word})
	s.refuses(s.seal(fresh, "gw-1", epochB, 1), wire.ErrUnknownKey, 0x87) // before its opening
	v := s.accepts(open)
	if v.Control == nil || v.Verified.Kid != fresh.Kid() {
		t.Errorf("%+v", v)
	}
	s.accepts(open) // sent again
	s.accepts(s.seal(fresh, "gw-1", epochB, 1))
	s.accepts(s.seal(old, "gw-1", epochA, 2)) // the backlog of the old epoch
	s.refuses(s.seal(old, "gw-1", "00000000000000cc", 1), ErrRetiredKey, 0x87, "reason=retired_key", "--epoch")
	s.refuses(s.seal(old, "gw-1", epochB, 2), ErrEpochKey, 0x87, "reason=foreign_epoch")
	s.refuses(s.seal(fresh, "gw-1", epochA, 3), ErrEpochKey, 0x87)
	g, _ := s.keys.Show("gw-1")
	if g.Keys[0].State != KeyRetired || g.Keys[1].State != KeyActive {
		t.Errorf("%+v", g)
	}
	s.add("gw-1", old.Public(), "00000000000000cc") // the remedy
	s.accepts(s.seal(old, "gw-1", "00000000000000cc", 1))

	// Nobody else's word counts: not that of a stranger, a retired or a revoked key, nor for another epoch.
	for _, by := range []*wire.PrivateKey{s.newKey(wire.Ed25519), old} {
		next := s.newKey(wire.Ed25519)
		word, _ := wire.Endorse(by, "gw-1", "00000000000000dd", next.Public())
		m := s.sealControl(next, "gw-1", wire.TypeOpen, "00000000000000dd", 1, wire.Open{Cause: "key-rotation", Boot: "b", Endorsement: word})
		if v := s.check(m); v.Code != 0x87 {
			t.Errorf("endorsed by %v: %+v", by, v)
		}
	}
}

// A live-first gateway: the opening overtakes the backlog of an epoch that the broker has never seen.
func TestDoorBacklogOfAnUnseenEpochAfterRotation(t *testing.T) {
	s := newSite(t)
	old, fresh := s.gateway("gw-1"), s.newKey(wire.Ed25519)
	word, err := wire.Endorse(old, "gw-1", epochB, fresh.Public())
	if err != nil {
		t.Fatal(err)
	}
	s.accepts(s.sealControl(fresh, "gw-1", wire.TypeOpen, epochB, 1, wire.Open{PrevEpoch: epochA, Cause: "key-rotation", Boot: "b", Endorsement: word}))
	s.accepts(s.seal(old, "gw-1", epochA, 1))
}

func TestDoorPendingKeyTakesOver(t *testing.T) {
	s := newSite(t)
	old, fresh := s.gateway("gw-1"), s.newKey(wire.HMACSHA256)
	s.accepts(s.seal(old, "gw-1", epochA, 1))
	if k := s.add("gw-1", fresh.Public()); k.State != KeyPending {
		t.Errorf("second key is %s", k.State)
	}
	s.accepts(s.seal(old, "gw-1", epochA, 2)) // nothing has changed yet
	s.accepts(s.sealControl(fresh, "gw-1", wire.TypeOpen, epochB, 1, wire.Open{PrevEpoch: epochA, Cause: "first", Boot: "b"}))
	g, _ := s.keys.Show("gw-1")
	if g.Keys[0].State != KeyRetired || g.Keys[1].State != KeyActive {
		t.Errorf("%+v", g)
	}
	s.accepts(s.seal(old, "gw-1", epochA, 3))
}

func TestDoorUnreadableControlIsRefused(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	text := "not JSON"
	p := wire.Pack{Gateway: "gw-1", Device: wire.ControlDevice, Base: base, Records: []wire.Record{{Name: wire.TypeDrop, VS: &text}}}
	s.refuses(s.sealPack(k, wire.TypeDrop, epochA, 1, p), wire.ErrMalformed, 0x99, "reason=malformed")
}

func TestRegistrySurvivesARestart(t *testing.T) {
	s := newSite(t)
	s.accepts(s.seal(s.gateway("gw-1"), "gw-1", epochA, 1))
	s.add("gw-2", s.newKey(wire.HMACSHA256).Public())
	again, err := OpenRegistry(s.state, func() time.Time { return s.now })
	if err != nil {
		t.Fatal(err)
	}
	if want, got := fmt.Sprint(s.keys.List()), fmt.Sprint(again.List()); got != want {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", got, want)
	}
}

func TestRegistryRefusesWhatContradicts(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	if again := s.add("gw-1", k.Public()); again.State != KeyActive || s.state.puts != 1 {
		t.Errorf("the same key again: %+v, %d writes", again, s.state.puts)
	}
	ctx := t.Context()
	if _, err := s.keys.Add(ctx, "gw-2", k.Public()); !errors.Is(err, ErrKeyTaken) {
		t.Errorf("another gateway's key: %v", err)
	}
	for _, name := range []string{"", "_holdfast", "a b", "a/b", "ä", strings.Repeat("x", 129)} {
		if _, err := s.keys.Add(ctx, name, s.newKey(wire.Ed25519).Public()); !errors.Is(err, ErrGatewayName) {
			t.Errorf("gateway %q: %v", name, err)
		}
	}
	if _, err := s.keys.Revoke(ctx, "nobody", ""); !errors.Is(err, ErrUnknownGateway) {
		t.Errorf("revoke of an unknown gateway: %v", err)
	}
	if _, err := s.keys.Revoke(ctx, "gw-1", "nope"); !errors.Is(err, wire.ErrUnknownKey) {
		t.Errorf("revoke of an unknown key: %v", err)
	}
	if keys, err := s.keys.Revoke(ctx, "gw-1", ""); err != nil || len(keys) != 1 || keys[0].State != KeyRevoked {
		t.Errorf("revoke all: %v, %v", keys, err)
	}
	if _, err := s.keys.Add(ctx, "gw-1", k.Public()); !errors.Is(err, wire.ErrRevokedKey) {
		t.Errorf("add of a revoked key: %v", err)
	}
}

func TestRegistryChangesNothingThatIsNotOnDisk(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	s.state.fail = errors.New("disk full")
	if _, err := s.keys.Revoke(t.Context(), "gw-1", ""); !errors.Is(err, s.state.fail) {
		t.Errorf("revoke: %v", err)
	}
	if _, err := s.keys.Key("gw-1", k.Kid()); err != nil {
		t.Errorf("a revocation that failed has an effect: %v", err)
	}
	other := s.newKey(wire.Ed25519)
	if _, err := s.keys.Add(t.Context(), "gw-2", other.Public()); !errors.Is(err, s.state.fail) {
		t.Errorf("add: %v", err)
	}
	if _, known := s.keys.Show("gw-2"); known {
		t.Error("an addition that failed has an effect")
	}
	s.state.fail = nil
	s.add("gw-3", other.Public()) // the key was not taken by the failure
}

func TestRegistryNeverShowsASecret(t *testing.T) {
	s := newSite(t)
	k := s.newKey(wire.HMACSHA256)
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %+v", b, v)
	}
	shown, list := text(s.add("gw-1", k.Public())), text(s.keys.List())
	for _, line := range strings.Split(string(k.MarshalPEM()), "\n") {
		if !strings.HasPrefix(line, "-----") && len(line) > 8 && (strings.Contains(shown, line) || strings.Contains(list, line)) {
			t.Errorf("the secret is shown: %s", shown)
		}
	}
	if !strings.Contains(shown, `"kty":"oct"`) {
		t.Errorf("shown as %s", shown)
	}
}

func TestRegistryRefusesADamagedEntry(t *testing.T) {
	for name, value := range map[string]string{"no JSON": "x", "version": `{"v":9}`, "no key": `{"v":1,"keys":[{"kid":"a","pem":"b"}]}`} {
		state := newMemState()
		state.m[RegistryPrefix+"gw-1"] = []byte(value)
		if _, err := OpenRegistry(state, time.Now); err == nil || !strings.Contains(err.Error(), "gw-1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegistryConcurrently(t *testing.T) {
	s := newSite(t)
	k := s.gateway("gw-1")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				epoch := fmt.Sprintf("%016x", n%10)
				if err := s.keys.Admit(context.Background(), "gw-1", k.Kid(), epoch); err != nil {
					t.Error(err)
				}
				if _, err := s.keys.Key("gw-1", k.Kid()); err != nil {
					t.Error(err)
				}
				s.keys.List()
			}
			_ = i
		})
	}
	wg.Wait()
	if g, _ := s.keys.Show("gw-1"); len(g.Keys[0].Epochs) != 10 {
		t.Errorf("%d epochs", len(g.Keys[0].Epochs))
	}
}

func BenchmarkDoorCheck(b *testing.B) {
	t := &testing.T{}
	s := newSite(t)
	k := s.newKey(wire.Ed25519)
	if _, err := s.keys.Add(b.Context(), "gw-1", k.Public()); err != nil {
		b.Fatal(err)
	}
	m := s.seal(k, "gw-1", epochA, 1)
	b.ReportAllocs()
	for b.Loop() {
		if v := s.check(m); v.Err != nil {
			b.Fatal(v.Err)
		}
	}
}

func TestRegistryRotateRefusesWhatContradicts(t *testing.T) {
	s := newSite(t)
	s.gateway("gw-1")
	taken := s.gateway("gw-2")
	ctx := t.Context()
	g, _ := s.keys.Show("gw-1")
	active := g.Keys[0].Kid
	if err := s.keys.Rotate(ctx, "gw-1", active, taken.Public(), epochA); !errors.Is(err, ErrKeyTaken) {
		t.Errorf("another gateway's key: %v", err)
	}
	if err := s.keys.Rotate(ctx, "nobody", active, s.newKey(wire.Ed25519).Public(), epochA); !errors.Is(err, wire.ErrUnknownKey) {
		t.Errorf("unknown gateway: %v", err)
	}
	if err := s.keys.Rotate(ctx, "gw-1", "nope", s.newKey(wire.Ed25519).Public(), epochA); !errors.Is(err, wire.ErrUnknownKey) {
		t.Errorf("unknown key: %v", err)
	}
	pending, next := s.newKey(wire.Ed25519), s.newKey(wire.Ed25519)
	s.add("gw-1", pending.Public())
	if err := s.keys.Rotate(ctx, "gw-1", pending.Kid(), next.Public(), epochA); err != nil {
		t.Fatal(err)
	}
	g, _ = s.keys.Show("gw-1")
	var states []string
	for _, k := range g.Keys {
		states = append(states, k.State)
	}
	if want := []string{KeyRetired, KeyRetired, KeyActive}; !slices.Equal(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
	if _, err := s.keys.Revoke(ctx, "gw-1", next.Kid()); err != nil {
		t.Fatal(err)
	}
	if err := s.keys.Rotate(ctx, "gw-1", next.Kid(), s.newKey(wire.Ed25519).Public(), epochB); !errors.Is(err, wire.ErrRevokedKey) {
		t.Errorf("endorsed by a revoked key: %v", err)
	}
	if k, err := s.keys.Restore(ctx, "gw-1", next.Kid()); err != nil || k.State != KeyActive {
		t.Errorf("restored: %+v, %v", k, err)
	}
}

// FuzzRegistryEntry: no bytes in the store make opening the registry panic.
func FuzzRegistryEntry(f *testing.F) {
	f.Add([]byte(`{"v":1,"keys":[]}`))
	f.Add([]byte(`{"v":1,"keys":[{"kid":"a","pem":"-----BEGIN PUBLIC KEY-----\n","state":"active","epochs":["a"]}]}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		state := newMemState()
		state.m[RegistryPrefix+"gw-1"] = value
		r, err := OpenRegistry(state, time.Now)
		if err != nil {
			return
		}
		if len(r.List()) != 1 {
			t.Errorf("%+v", r.List())
		}
	})
}
