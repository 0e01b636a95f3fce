package update

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// read takes the program for here out of a release file.
func read(b []byte, keys Keys) ([]byte, error) {
	a, err := openArchive(bytes.NewReader(b), keys)
	if err != nil {
		return nil, err
	}
	f, err := a.File(here)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = a.program(f, &out)
	return out.Bytes(), err
}

// tarOf is a release file with these entries; what content does not have is program.
func tarOf(t *testing.T, entries []string, content map[string][]byte, program []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, name := range entries {
		data, is := content[name]
		if !is {
			data = program
		}
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestArchiveCut: a file that is cut anywhere, or of which a bit is another, never gives
// another program.
func TestArchiveCut(t *testing.T) {
	s := newSigner(t, 1)
	whole := s.release(t, Manifest{Version: "v1.1.0"})
	if _, err := read(whole, Keys{s.public}); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole)-200; n += 97 {
		if _, err := read(whole[:n], Keys{s.public}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
	for n := 20; n < len(whole)-200; n += 97 {
		bad := slices.Clone(whole)
		bad[n] ^= 0x10
		// What is not for here is not looked at.
		if out, err := read(bad, Keys{s.public}); err == nil && !bytes.Equal(out, programOf("v1.1.0")) {
			t.Fatalf("byte %d of %d changed, and taken", n, len(whole))
		}
	}
}

// TestArchiveReplaced: the right manifest with another program, and entries in another order.
func TestArchiveReplaced(t *testing.T) {
	s := newSigner(t, 1)
	text, err := Describe(Manifest{Version: "v1.1.0", Buffer: Formats{1, 1, 1}}, []Program{{here, []byte("good")}})
	if err != nil {
		t.Fatal(err)
	}
	signature, _ := Sign(text, s.secret)
	var b bytes.Buffer
	if err := Pack(&b, 6, text, signature, []Program{{here, []byte("evil")}}); err == nil {
		t.Error("packed what the manifest does not name")
	}
	for name, entries := range map[string][]string{
		"replaced":  {manifestName, signatureName, here + "/holdfast"},
		"unsigned":  {manifestName, here + "/holdfast"},
		"reversed":  {signatureName, manifestName, here + "/holdfast"},
		"elsewhere": {manifestName, signatureName, "../" + here + "/holdfast"},
		"empty":     {},
	} {
		content := map[string][]byte{manifestName: text, signatureName: signature}
		if _, err := read(tarOf(t, entries, content, []byte("evil")), Keys{s.public}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzArchive(f *testing.F) {
	s := newSigner(f, 1)
	f.Add(s.release(f, Manifest{Version: "v1.1.0"}))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := read(b, Keys{s.public})
		if err == nil && !bytes.Equal(out, programOf("v1.1.0")) {
			t.Error("another program came out")
		}
	})
}

func FuzzManifest(f *testing.F) {
	text, _ := Describe(Manifest{Version: "v1", Buffer: Formats{1, 2, 1}}, []Program{{here, []byte("x")}})
	f.Add(text)
	f.Add([]byte(`{"name":"holdfast","version":"../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if id := m.ID(file); !filepath.IsLocal(id) || filepath.Base(id) != id {
				t.Errorf("id %q", id)
			}
		}
	})
}

// TestSourceIsBounded: an endless source ends, and a broken one is not the release's fault.
func TestSourceIsBounded(t *testing.T) {
	b := &bounded{io.NopCloser(endless{}), 1000}
	if n, err := io.Copy(io.Discard, b); !errors.Is(err, ErrDamaged) || n > 1000 {
		t.Errorf("%d bytes, %v", n, err)
	}
	b = &bounded{io.NopCloser(broken{}), 1000}
	if _, err := openArchive(b, nil); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrDamaged) {
		t.Errorf("a broken source: %v", err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
