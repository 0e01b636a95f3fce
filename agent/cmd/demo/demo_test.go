package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/paho"
)

var b64 = base64.RawURLEncoding

// gateway signs as the message format says, with nothing of the agent's.
type gateway struct {
	key ed25519.PrivateKey
	seq uint64
}

func newGateway() *gateway { return &gateway{key: ed25519.NewKeyFromSeed(make([]byte, 32))} }

func (g *gateway) sign(h map[string]any, payload []byte) string {
	head, err := json.Marshal(h)
	if err != nil {
		panic(err)
	}
	p := b64.EncodeToString(head)
	return p + ".." + b64.EncodeToString(ed25519.Sign(g.key, []byte(p+"."+b64.EncodeToString(payload))))
}

// next is the next message: the lines of the meter from first to last.
func (g *gateway) next(first, last uint64) *paho.Publish {
	g.seq++
	records := []map[string]any{{"bn": gatewayName + "/" + deviceName + "/"}}
	for n := first; n <= last; n++ {
		records = append(records, map[string]any{"n": "n", "v": n}, map[string]any{"n": "weight", "v": float64(weightOf(n)) / 100})
	}
	records[1]["bn"] = records[0]["bn"]
	payload, err := json.Marshal(records[1:])
	if err != nil {
		panic(err)
	}
	topic := "gw/" + gatewayName + "/" + deviceName
	return publish(topic, payload, g.sign(map[string]any{"alg": "EdDSA", "topic": topic, "gw": gatewayName, "dev": deviceName, "epoch": "e1", "seq": g.seq}, payload))
}

func publish(topic string, payload []byte, signatures ...string) *paho.Publish {
	p := &paho.Publish{Topic: topic, Payload: payload, Properties: &paho.PublishProperties{}}
	for _, s := range signatures {
		p.Properties.User = append(p.Properties.User, paho.UserProperty{Key: "jws", Value: s})
	}
	return p
}

// arrive is the verdict on a hundred lines in ten messages, which pass through between
// on their way to the subscriber.
func arrive(between func(g *gateway, i int, p *paho.Publish) []*paho.Publish) *verdict {
	g := newGateway()
	s := &subscriber{key: g.key.Public().(ed25519.PublicKey), tally: newTally()}
	for i := range 10 {
		p := g.next(uint64(10*i+1), uint64(10*i+10))
		for _, q := range between(g, i, p) {
			s.receive(q)
		}
	}
	v := account(s.tally, 100, nil)
	v.ledger = ledger{devices: 1, received: 10}
	return v
}

func asItIs(_ *gateway, _ int, p *paho.Publish) []*paho.Publish { return []*paho.Publish{p} }

// TestVerdict: nothing but all of it, each message signed, is good. The first of the bad
// ones is the control of the whole demo: a subscriber that drops one message.
func TestVerdict(t *testing.T) {
	fifth := func(change func(g *gateway, p *paho.Publish) []*paho.Publish) func(*gateway, int, *paho.Publish) []*paho.Publish {
		return func(g *gateway, i int, p *paho.Publish) []*paho.Publish {
			if i != 4 {
				return []*paho.Publish{p}
			}
			return change(g, p)
		}
	}
	jws := func(p *paho.Publish) string { return p.Properties.User[0].Value }
	for name, c := range map[string]struct {
		between func(*gateway, int, *paho.Publish) []*paho.Publish
		lost    bool
		says    string
	}{
		"all":             {asItIs, false, "Nothing is missing."},
		"one comes twice": {fifth(func(_ *gateway, p *paho.Publish) []*paho.Publish { return []*paho.Publish{p, p} }), false, "duplicates            1 "},
		"one is dropped":  {fifth(func(*gateway, *paho.Publish) []*paho.Publish { return nil }), true, "missing              20   taken and never delivered: line 41, 42"},
		"no signature":    {fifth(func(_ *gateway, p *paho.Publish) []*paho.Publish { return []*paho.Publish{publish(p.Topic, p.Payload)} }), true, "0 user properties named jws"},
		"no properties":   {fifth(func(_ *gateway, p *paho.Publish) []*paho.Publish { p.Properties = nil; return []*paho.Publish{p} }), true, "0 user properties named jws"},
		"two signatures": {fifth(func(_ *gateway, p *paho.Publish) []*paho.Publish {
			return []*paho.Publish{publish(p.Topic, p.Payload, jws(p), jws(p))}
		}), true, "2 user properties named jws"},
		"another's": {fifth(func(g *gateway, p *paho.Publish) []*paho.Publish {
			return []*paho.Publish{publish(p.Topic, p.Payload, jws(g.next(1, 1)))}
		}), true, "the signature is wrong"},
		"changed payload": {fifth(func(_ *gateway, p *paho.Publish) []*paho.Publish {
			p.Payload = bytes.Replace(p.Payload, []byte("41"), []byte("42"), 1)
			return []*paho.Publish{p}
		}), true, "the signature is wrong"},
		"another topic":  {fifth(func(_ *gateway, p *paho.Publish) []*paho.Publish { p.Topic += "x"; return []*paho.Publish{p} }), true, "signed for topic"},
		"again as new":   {fifth(func(g *gateway, p *paho.Publish) []*paho.Publish { return []*paho.Publish{p, g.next(41, 41)} }), true, "2 readings came again as new ones"},
		"never written":  {fifth(func(g *gateway, p *paho.Publish) []*paho.Publish { return []*paho.Publish{p, g.next(101, 101)} }), true, "2 were never written by the meter"},
		"nothing at all": {func(*gateway, int, *paho.Publish) []*paho.Publish { return nil }, true, "and 92 more, up to 100"},
		"signed, no SenML": {fifth(func(g *gateway, p *paho.Publish) []*paho.Publish {
			h := map[string]any{"alg": "EdDSA", "topic": p.Topic, "gw": gatewayName, "dev": deviceName, "epoch": "e1", "seq": 99}
			return []*paho.Publish{p, publish(p.Topic, []byte("{"), g.sign(h, []byte("{")))}
		}), true, "SenML: "},
	} {
		v := arrive(c.between)
		var said bytes.Buffer
		v.print(&said, false)
		want := 0
		if c.lost {
			want = exitMissing
		}
		if got := exitCode(v.lost(), nil); got != want || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: exit %d, want %d and %q in\n%s", name, got, want, c.says, said.String())
		}
		if c.lost == strings.Contains(said.String(), "Nothing is missing") {
			t.Errorf("%s: what is said is not what is answered:\n%s", name, said.String())
		}
	}
}

// TestVerdictSaysWhatWasShown: with three nodes, and only if nothing was lost.
func TestVerdictSaysWhatWasShown(t *testing.T) {
	for nodes, want := range map[int]bool{1: false, 3: true} {
		v := arrive(asItIs)
		v.nodes = nodes
		for _, lost := range []bool{false, true} {
			if lost {
				v.ledger.missing = 1
			}
			var said bytes.Buffer
			v.print(&said, false)
			if got := strings.Contains(said.String(), "killed at once"); got != (want && !lost) {
				t.Errorf("%d nodes, lost %v:\n%s", nodes, lost, said.String())
			}
		}
		if got := strings.Contains(prologue(nodes), "n1 ← agent"); got != want {
			t.Errorf("%d nodes: %s", nodes, prologue(nodes))
		}
	}
}

// TestVerdictOfTheLedger: the broker's own account can condemn us too, and so can an
// agent that does not end well.
func TestVerdictOfTheLedger(t *testing.T) {
	for name, spoil := range map[string]func(*verdict){
		"missing":    func(v *verdict) { v.ledger.missing = 1 },
		"dropped":    func(v *verdict) { v.ledger.dropped = 1 },
		"conflicts":  func(v *verdict) { v.ledger.conflicts = 1 },
		"unreadable": func(v *verdict) { v.ledgerErr = errors.New("no such gateway") },
		"agent":      func(v *verdict) { v.agentErr = errors.New("it had to be killed") },
	} {
		v := arrive(asItIs)
		if v.lost() {
			t.Fatal("lost before anything was spoilt")
		}
		spoil(v)
		if !v.lost() {
			t.Errorf("%s: no harm is seen in it", name)
		}
	}
	data := `{"gateways": [{"gateway": "g", "accounts": [{"device": "a", "received": 3, "missing": 1, "pending": 2}, {"device": "b", "received": 4, "dropped": 5, "conflicts": 6, "duplicates": 7, "readings": 8}]}]}`
	if l, err := parseLedger([]byte(data)); err != nil || l != (ledger{received: 7, missing: 1, pending: 2, dropped: 5, conflicts: 6, duplicates: 7, readings: 8, devices: 2}) {
		t.Errorf("%+v, %v", l, err)
	}
	for _, bad := range []string{"", "[]", "{}", `{"device": "a"}`, "no"} {
		if _, err := parseLedger([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a ledger", bad)
		}
	}
}

// TestOnTheWire: what the agent had read when it was killed is counted by itself.
func TestOnTheWire(t *testing.T) {
	g := newGateway()
	s := &subscriber{key: g.key.Public().(ed25519.PublicKey), tally: newTally()}
	s.receive(g.next(1, 8))
	v := account(s.tally, 10, map[uint64]bool{8: true, 9: true, 10: true})
	if v.onWire != 4 || v.missing != 0 || v.delivered != 16 {
		t.Errorf("on the wire %d, missing %d, delivered %d", v.onWire, v.missing, v.delivered)
	}
	if v = account(s.tally, 10, map[uint64]bool{10: true}); v.onWire != 2 || v.missing != 2 || fmt.Sprint(v.where) != "[9]" {
		t.Errorf("on the wire %d, missing %d at %v", v.onWire, v.missing, v.where)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		lost bool
		err  error
		want int
	}{{false, nil, 0}, {true, nil, exitMissing}, {false, errors.New("no port"), exitFailed}, {true, context.Canceled, exitFailed}} {
		if got := exitCode(c.lost, c.err); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestVerify starts from the signature of RFC 8037 appendix A.4.
func TestVerify(t *testing.T) {
	key, err := jwk{Kty: "OKP", Crv: "Ed25519", X: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}.public()
	if err != nil {
		t.Fatal(err)
	}
	const header, signature = "eyJhbGciOiJFZERTQSJ9", "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
	payload := []byte("Example of Ed25519 signing")
	if _, err := verify(header+".."+signature, payload, "", key); err != nil {
		t.Errorf("the RFC's example: %v", err)
	}
	head := func(json string) string { return b64.EncodeToString([]byte(json)) }
	for jws, want := range map[string]string{
		"":                             "no detached JWS",
		header + "." + signature:       "no detached JWS",
		header + ".eA." + signature:    "no detached JWS",
		"%." + "." + signature:         "protected header",
		header + "..%":                 "signature: ",
		header + "..":                  "the signature is wrong",
		header + "..A" + signature[1:]: "the signature is wrong",
		head("no") + ".." + signature:  "protected header",
		head("{}") + ".." + signature:  `algorithm ""`,
		head(`{"alg":"none"}`) + "..":  `algorithm "none"`,
		head(`{"alg":"HS256"}`) + "..": `algorithm "HS256"`,
		head(`{"alg":"EdDSA","crit":["b64"]}`) + ".." + signature: `critical extensions ["b64"]`,
	} {
		if _, err := verify(jws, payload, "", key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", jws, err, want)
		}
	}
	if _, err := verify(header+".."+signature, payload, "a", key); err == nil {
		t.Error("good for any topic")
	}
	for _, k := range []jwk{{}, {Kty: "OKP", Crv: "Ed25519", X: "AA"}, {Kty: "EC", Crv: "Ed25519", X: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, {Kty: "OKP", Crv: "Ed25519", X: "%"}} {
		if _, err := k.public(); err == nil {
			t.Errorf("%+v is a key", k)
		}
	}
}

// TestLinesTellWhereValuesComeFrom: no two lines of a play have one weight.
func TestLinesTellWhereValuesComeFrom(t *testing.T) {
	seen := map[uint64]uint64{}
	for n := uint64(1); n <= 100000; n++ {
		if m, is := seen[weightOf(n)]; is {
			t.Fatalf("lines %d and %d have the same weight", m, n)
		}
		seen[weightOf(n)] = n
	}
	if got := lineOf(3); got != "n=3 w=237.57\r\n" {
		t.Errorf("%q", got)
	}
}
