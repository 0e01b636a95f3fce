package update

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeysFile(t *testing.T) {
	a, b := newSigner(t, 1), newSigner(t, 2)
	name := filepath.Join(t.TempDir(), "release.pub")
	if _, err := LoadKeys(name); err == nil || !strings.Contains(err.Error(), "put minisign's public key into "+name) {
		t.Errorf("no file: %v", err)
	}
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	pub, _ := a.public.MarshalText()
	write("# the old one\r\n"+string(pub)+"\n\n"+b.public.String()+"\n", 0o644)
	keys, err := LoadKeys(name)
	if err != nil || len(keys) != 2 {
		t.Fatalf("two keys: %v, %v", keys, err)
	}
	for text, want := range map[string]string{
		"":                              "holds no key",
		"# nothing\n":                   "holds no key",
		a.public.String() + "\nRWQgarb": name + ":2: no public key",
		strings.Repeat(a.public.String()+"\n", 17): "more than 16 keys",
	} {
		write(text, 0o644)
		if _, err := LoadKeys(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	write(string(pub), 0o664)
	if _, err := LoadKeys(name); err == nil || !strings.Contains(err.Error(), "chmod 644") {
		t.Errorf("a file that the group may change: %v", err)
	}
}

// TestBuiltInKeys: they count where there is no file, and only there.
func TestBuiltInKeys(t *testing.T) {
	a, b := newSigner(t, 1), newSigner(t, 2)
	builtIn = a.public.String() + "," + b.public.String()
	defer func() { builtIn = "" }()
	name := filepath.Join(t.TempDir(), "release.pub")
	if keys, err := LoadKeys(name); err != nil || len(keys) != 2 {
		t.Errorf("built in: %v, %v", keys, err)
	}
	if err := os.WriteFile(name, []byte(b.public.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if keys, err := LoadKeys(name); err != nil || len(keys) != 1 || !keys[0].Equal(b.public) {
		t.Errorf("with a file: %v, %v", keys, err)
	}
}

// TestSignatures: each key alone suffices; any change of a byte is seen.
func TestSignatures(t *testing.T) {
	a, b, other := newSigner(t, 1), newSigner(t, 2), newSigner(t, 3)
	text, err := Describe(Manifest{Version: "v1.1.0", Buffer: Formats{1, 1, 1}}, []Program{{here, []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	keys := Keys{a.public, b.public}
	for _, s := range []signer{a, b} {
		signature, err := Sign(text, s.secret)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verified(text, signature, keys); err != nil {
			t.Error(err)
		}
		for i := range text {
			bad := append([]byte(nil), text...)
			bad[i] ^= 1
			if _, err := verified(bad, signature, keys); !errors.Is(err, ErrSignature) {
				t.Fatalf("byte %d of the manifest changed: %v", i, err)
			}
		}
	}
	signature, _ := Sign(text, other.secret)
	if _, err := verified(text, signature, keys); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "signed with key") {
		t.Errorf("another key: %v", err)
	}
	if _, err := verified(text, []byte("no signature"), keys); !errors.Is(err, ErrSignature) {
		t.Errorf("no signature: %v", err)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(newSigner(f, 1).public.String())
	f.Add("untrusted comment: x\nRWQ")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys("keys", text)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
	})
}
