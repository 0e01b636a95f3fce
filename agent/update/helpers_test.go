package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"aead.dev/minisign"
)

// signer is an operator with a key of its own.
type signer struct {
	public minisign.PublicKey
	secret minisign.PrivateKey
}

func newSigner(t testing.TB, seed byte) signer {
	t.Helper()
	public, secret, err := minisign.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{seed}, 64)))
	if err != nil {
		t.Fatal(err)
	}
	return signer{public, secret}
}

const here = "linux_test"

// release is a release file with one program for here and one for elsewhere.
func (s signer) release(t testing.TB, m Manifest) []byte {
	t.Helper()
	if m.Buffer == (Formats{}) {
		m.Buffer = Formats{1, 1, 1}
	}
	programs := []Program{{"linux_other", []byte("not for here")}, {here, programOf(m.Version)}}
	text, err := Describe(m, programs)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := Sign(text, s.secret)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Pack(&b, 6, text, signature, programs); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// programOf is long enough to be cut.
func programOf(version string) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := []byte("program " + version + "\n")
	for range 20000 {
		b = append(b, byte(rng.UintN(256)))
	}
	return b
}

func source(b []byte) *Source {
	return &Source{&bounded{io.NopCloser(bytes.NewReader(b)), maxRelease}, int64(len(b))}
}

var package1 = Self{Build{"v1.0.0", "2026-01-01T00:00:00Z"}, here, Formats{1, 1, 1}}

// house is a store, and what a test changes of its surroundings.
type house struct {
	*testing.T
	signer
	store *Store
	in    Installer
	now   Moment
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, signer: newSigner(t, 1), now: Moment{"boot-1", time.Hour}}
	h.store = Open(t.TempDir(), func() (Keys, error) { return Keys{h.public}, nil })
	h.in = Installer{
		Store: h.store, Self: package1, Within: time.Minute, Settle: time.Second, Log: slog.New(slog.DiscardHandler),
		Room: func() (int64, error) { return 1 << 30, nil },
		Test: func(context.Context, string) error { return nil },
	}
	return h
}

func (h *house) install(version string) error {
	_, err := h.in.Install(h.Context(), source(h.release(h, Manifest{Version: version})))
	return err
}

// must is install, which has to work.
func (h *house) must(version string) {
	h.Helper()
	if err := h.install(version); err != nil {
		h.Fatal(err)
	}
}

func (h *house) state() State {
	h.Helper()
	s, err := h.store.Load()
	if err != nil {
		h.Fatal(err)
	}
	return s
}

// start is what a start of the package's program would run: "" or a version.
func (h *house) start() string {
	h.Helper()
	var c choice
	err := h.store.Change(h.Context(), func(s *State) error {
		c = choose(s, h.in.Self, h.now, h.store.manifest)
		return nil
	})
	if err != nil {
		h.Fatal(err)
	}
	if c.release == "" {
		return ""
	}
	m, program, err := h.store.Verify(c.release)
	if err != nil {
		h.Fatal(err)
	}
	if b, err := os.ReadFile(program); err != nil || !bytes.Equal(b, programOf(m.Version)) {
		h.Fatalf("%s is not the program of %s: %v", program, m.Version, err)
	}
	return m.Version
}

func (h *house) confirm() {
	h.Helper()
	id := h.state().Trial.Release
	j := Judge{Store: h.store, Release: id, Log: slog.New(slog.DiscardHandler)}
	if err := j.confirm(h.Context()); err != nil {
		h.Fatal(err)
	}
}

func (h *house) runs(want string) {
	h.Helper()
	if got := h.start(); got != want {
		h.Fatalf("%q starts, want %q; %+v", got, want, h.state())
	}
}

func (h *house) last(want string) {
	h.Helper()
	if e, _ := h.state().Last(); e.What != want {
		h.Errorf("the last event is %+v, want %s", e, want)
	}
}

// refused checks that an error is of a kind (nil: any), says something, and that nothing changed.
func (h *house) refused(err, kind error, says string) {
	h.Helper()
	if err == nil || kind != nil && !errors.Is(err, kind) || !bytes.Contains([]byte(fmt.Sprint(err)), []byte(says)) {
		h.Errorf("error %v, want %v that says %q", err, kind, says)
	}
	if s := h.state(); s.Trial != nil {
		h.Errorf("it is on trial: %+v", s)
	}
}
