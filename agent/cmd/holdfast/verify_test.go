package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/systemd/freeport"
	"holdfast/systemd/program"
	"holdfast/uplink/wire"
)

// signer is a gateway that seals messages for these tests.
type signer struct {
	t   *testing.T
	key *wire.PrivateKey
	seq map[string]uint64
}

func newSigner(t *testing.T, seed byte) *signer {
	t.Helper()
	key, err := wire.GenerateKey(wire.Ed25519, bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, key, map[string]uint64{}}
}

const verifyEpoch = "0123456789abcdef"

var verifyBase = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)

func (s *signer) seal(f wire.Format, device, typ, clock string, records ...wire.Record) wire.Message {
	s.t.Helper()
	s.seq[device]++
	m, err := wire.Seal(f, wire.Header{
		Gateway: "gw-1", Device: device, Epoch: verifyEpoch, Seq: s.seq[device], N: len(records), Total: 100,
		Topic: "gw/gw-1/" + device, Boot: "boot-1", Mono: 5_000_000, Clock: clock, Type: typ,
	}, wire.Pack{Gateway: "gw-1", Device: device, Base: verifyBase, Records: records}, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *signer) control(typ string, body any) wire.Message {
	s.t.Helper()
	p, err := wire.ControlPack("gw-1", verifyBase, typ, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.seal(wire.JSON, wire.ControlDevice, typ, wire.ClockSynced, p.Records...)
}

func number(v float64) wire.Record { return wire.Record{Name: "weight", Unit: "kg", V: &v} }

// file writes something into a temporary file: messages as lines, else as it is.
func file(t *testing.T, name string, content ...any) string {
	t.Helper()
	var b bytes.Buffer
	for _, c := range content {
		switch c := c.(type) {
		case wire.Message:
			if err := json.NewEncoder(&b).Encode(c); err != nil {
				t.Fatal(err)
			}
		case []byte:
			b.Write(c)
		case string:
			b.WriteString(c)
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs one command line.
func command(t *testing.T, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	errs, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	var out bytes.Buffer
	e := &program.Env{Stdin: stdin, Stdout: &out, Stderr: errs, Getenv: func(string) string { return "" }}
	code = e.Run(context.Background(), tree(e), args)
	b, err := os.ReadFile(errs.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, out.String(), string(b)
}

func TestVerifyFiles(t *testing.T) {
	s := newSigner(t, 1)
	text := "a\x1b[31m"
	good := []any{
		s.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(12.5)), "\n",
		s.seal(wire.CBOR, "scale", wire.TypeData, wire.ClockSynced,
			wire.Record{Name: "id", VS: &text, Time: time.Second},
			wire.Record{Name: "frame", VD: []byte{1, 0xff}},
			wire.Record{Name: "weight", Quality: wire.Bad, Reason: "port-lost"}),
	}
	key := file(t, "key.pem", s.key.Public().MarshalPEM())
	code, out, stderr := command(t, nil, "verify", "--key", key, file(t, "good", good...))
	want := ` 2026-03-14T15:09:26.535897Z  gw-1/scale  0123456789abcdef #1  weight 12.5 kg
 2026-03-14T15:09:27.535897Z  gw-1/scale  0123456789abcdef #2  id "a\x1b[31m"
 2026-03-14T15:09:26.535897Z  gw-1/scale  0123456789abcdef #2  frame 0x01ff
 2026-03-14T15:09:26.535897Z  gw-1/scale  0123456789abcdef #2  weight bad "port-lost"
`
	if code != program.Done || out != want || !strings.Contains(stderr, "2 messages verified, 0 bad; 4 readings") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}

	altered := s.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(1))
	altered.Payload = bytes.Replace(altered.Payload, []byte(`"v":1`), []byte(`"v":2`), 1)
	moved := s.seal(wire.CBOR, "scale", wire.TypeData, wire.ClockSynced, number(1))
	moved.Topic = "gw/other"
	unsigned := s.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(1))
	unsigned.JWS = ""
	stranger := newSigner(t, 9).seal(wire.CBOR, "scale", wire.TypeData, wire.ClockSynced, number(1))
	bad := file(t, "bad", good[0], altered, moved, unsigned, stranger, "{\"topic\":1}\n", "junk\n", good[2])
	code, out, stderr = command(t, nil, "verify", "--key", key, bad)
	if code != program.AnswerNo || !strings.Contains(stderr, "2 messages verified, 6 bad; 4 readings") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	for i, why := range []string{"signature does not verify", "sealed for another topic", "not signed", "not known", "not a line", "not a line"} {
		if prefix := fmt.Sprintf("BAD %s:%d  ", bad, i+2); !strings.Contains(out, prefix) || !strings.Contains(out[strings.Index(out, prefix):], why) {
			t.Errorf("line %d: no %q in\n%s", i+2, why, out)
		}
	}
}

func TestVerifyJSONFromStdin(t *testing.T) {
	s := newSigner(t, 1)
	good := s.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(1.5))
	bad := s.seal(wire.CBOR, "scale", wire.TypeData, wire.ClockSynced, number(2))
	bad.Payload[len(bad.Payload)-1] ^= 1
	in, err := os.ReadFile(file(t, "in", good, bad))
	if err != nil {
		t.Fatal(err)
	}
	code, out, _ := command(t, bytes.NewReader(in), "verify", "--json", "--key", file(t, "jwk", s.key.Public().JWK()))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != program.AnswerNo || len(lines) != 2 {
		t.Fatal("exit", code, out)
	}
	var first, second verdict
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(lines[1]), &second); err != nil {
		t.Fatal(err)
	}
	if !first.OK || first.Gateway != "gw-1" || first.Seq != 1 || first.Clock != "synced" || len(first.Readings) != 1 ||
		*first.Readings[0].V != 1.5 || first.Readings[0].Quality != "good" || first.Readings[0].Time != "2026-03-14T15:09:26.535897Z" {
		t.Errorf("%+v", first)
	}
	if second.OK || second.Where != "-:2" || second.Seq != 2 || !strings.Contains(second.Error, "signature") || second.Readings != nil {
		t.Errorf("%+v", second)
	}
}

// TestVerifyResolvesTimes: the anchor comes after the message that it is for.
func TestVerifyResolvesTimes(t *testing.T) {
	s := newSigner(t, 1)
	unsynced := s.seal(wire.CBOR, "scale", wire.TypeData, wire.ClockUnsynced, number(1))
	anchor := s.control(wire.TypeAnchor, wire.Anchor{Boot: "boot-1", Mono: 65_000_000, UTC: "2026-05-01T12:01:00Z", ErrorBound: 1000})
	key := file(t, "key", s.key.Public().MarshalPEM())
	if _, out, _ := command(t, nil, "verify", "--key", key, file(t, "in", unsynced)); !strings.HasPrefix(out, "~2026-03-14T15:09:26.535897Z") {
		t.Error("without an anchor:", out)
	}
	if _, out, _ := command(t, nil, "verify", "--key", key, file(t, "in", unsynced, anchor)); !strings.HasPrefix(out, " 2026-05-01T12:00:00.000000Z") {
		t.Error("with an anchor:", out)
	}
	_, out, _ := command(t, nil, "verify", "--json", "--key", key, file(t, "in", unsynced, anchor))
	if !strings.Contains(out, `"clock":"anchored","time_bound_us":7000`) {
		t.Error("with an anchor, JSON:", out)
	}
}

func TestVerifyFollowsRotation(t *testing.T) {
	old, next := newSigner(t, 1), newSigner(t, 2)
	endorsement, err := wire.Endorse(old.key, "gw-1", verifyEpoch, next.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	open := next.control(wire.TypeOpen, wire.Open{Cause: "key-rotation", Boot: "boot-1", Endorsement: endorsement})
	data := next.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(1))
	key := file(t, "key", old.key.Public().MarshalPEM())
	if code, out, _ := command(t, nil, "verify", "--key", key, file(t, "in", data)); code != program.AnswerNo || !strings.Contains(out, "not known") {
		t.Error("without the opening message:", code, out)
	}
	code, out, _ := command(t, nil, "verify", "--key", key, file(t, "in", open, data))
	if code != program.Done || !strings.Contains(out, "weight 1 kg") {
		t.Error("with the opening message:", code, out)
	}
	in, err := os.ReadFile(file(t, "in", open, data))
	if err != nil {
		t.Fatal(err)
	}
	code, out, _ = command(t, bytes.NewReader(in), "verify", "--key", key, "-")
	if code != program.Done || !strings.Contains(out, "endorsed by "+old.key.Kid()) {
		t.Error("through a pipe:", code, out)
	}
}

// TestVerifyBindsIdentity: a key that came with a gateway's name speaks for no other.
func TestVerifyBindsIdentity(t *testing.T) {
	s := newSigner(t, 1)
	m := file(t, "in", s.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(1)))
	id := func(gateway string) string {
		b, err := json.Marshal(agent.PublicIdentity{Gateway: gateway, Kid: s.key.Kid(), Alg: s.key.Alg(), JWK: s.key.Public().JWK()})
		if err != nil {
			t.Fatal(err)
		}
		return file(t, "id.json", b)
	}
	if code, out, _ := command(t, nil, "verify", "--key", id("gw-1"), m); code != program.Done {
		t.Error("its own:", code, out)
	}
	if code, out, _ := command(t, nil, "verify", "--key", id("gw-2"), m); code != program.AnswerNo || !strings.Contains(out, "that of gw-2") {
		t.Error("another's:", code, out)
	}
}

func TestVerifyWrongUse(t *testing.T) {
	s := newSigner(t, 1)
	key := file(t, "key", s.key.Public().MarshalPEM())
	for want, list := range map[int][][]string{
		program.WrongUse: {
			{"--topic", "gw/#", "file"}, {"--server", "mqtt://x"}, {"--username", "u"}, {"--count", "-1"}, {"--no-such-flag"},
			{"--config", "/nonexistent/agent.toml"},
		},
		program.CouldNot: {
			{"/nonexistent/file"}, {}, {file(t, "empty", "\n")}, {"--key", "/nonexistent/key"}, {"--key", file(t, "junk", "junk")}, {"--key", file(t, "private", s.key.MarshalPEM())},
			{"--topic", "gw/#", "--server", "http://x"},
		},
	} {
		for _, args := range list {
			if want == program.CouldNot && (len(args) == 0 || args[0] != "--key") {
				args = append(args, "--key", key)
			}
			if code, _, stderr := command(t, strings.NewReader(""), append([]string{"verify"}, args...)...); code != want || stderr == "" {
				t.Errorf("%v: exit %d, want %d: %s", args, code, want, stderr)
			}
		}
	}
}

// TestVerifyLive subscribes at a real broker, to which others published.
func TestVerifyLive(t *testing.T) {
	port := fmt.Sprint(freeport.Port(t))
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			t.Fatal("this test needs the Debian package mosquitto")
		}
	}
	broker := exec.Command(bin, "-c", file(t, "mosquitto.conf", "listener "+port+" 127.0.0.1\nallow_anonymous true\n"))
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = broker.Process.Kill(); _ = broker.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	publish := func(m wire.Message, more ...string) {
		args := []string{"-h", "127.0.0.1", "-p", port, "-V", "5", "-q", "1", "-r", "-t", m.Topic, "-f", file(t, "payload", m.Payload)}
		args = append(args, "-D", "publish", "content-type", m.ContentType)
		if out, err := exec.Command("mosquitto_pub", append(args, more...)...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v %s (Debian package mosquitto-clients)", err, out)
		}
	}
	s := newSigner(t, 1)
	m := s.seal(wire.JSON, "scale", wire.TypeData, wire.ClockSynced, number(12.5))
	publish(m, "-D", "publish", "user-property", "jws", m.JWS)
	publish(s.seal(wire.CBOR, "meter", wire.TypeData, wire.ClockSynced, number(7)))
	args := []string{"verify", "--key", file(t, "key", s.key.Public().MarshalPEM()), "--server", "mqtt://127.0.0.1:" + port, "-n"}
	code, out, stderr := command(t, nil, append(args, "2", "--topic", "gw/gw-1/#")...)
	if code != program.Done || !strings.Contains(out, "weight 12.5 kg") || !strings.Contains(out, "weight 7 kg") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
	m.Topic = "gw/gw-1/twice"
	publish(m, "-D", "publish", "user-property", "jws", m.JWS, "-D", "publish", "user-property", "jws", m.JWS)
	code, out, _ = command(t, nil, append(args, "1", "--topic", "gw/gw-1/twice")...)
	if code != program.AnswerNo || !strings.Contains(out, "more than one") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
