package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"aead.dev/minisign"

	"holdfast/agent/update"
)

var formats = update.Formats{Oldest: 1, Newest: 1, Writes: 1}

// dist is a folder as make cross leaves it, with one program that is version v1.2.3.
func dist(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println(\"v1.2.3\") }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "linux_amd64", "holdfast"), source)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

func entry(t *testing.T, file, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s in %s: %v", name, file, err)
		}
		if h.Name == name {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
}

// TestRelease: with a key, twice the same bytes; without one, what was signed elsewhere.
func TestRelease(t *testing.T) {
	dir := dist(t)
	public, secret, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := secret.MarshalText()
	key := filepath.Join(t.TempDir(), "holdfast.key")
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}
	m := update.Manifest{Version: "v1.2.3", Commit: "c0ffee", Built: "2026-01-01T00:00:00Z", Buffer: formats}
	name := filepath.Join(dir, "holdfast-v1.2.3.release")

	if err := run(m, dist(t), filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
	if err := run(m, dir, key); err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(name)
	if err := run(m, dir, key); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(name); !bytes.Equal(first, second) {
		t.Error("two runs differ")
	}
	manifest := entry(t, name, "manifest.json")
	if !minisign.Verify(public, manifest, entry(t, name, "manifest.json.minisig")) {
		t.Error("the signature is not the key's")
	}
	program, _ := os.ReadFile(filepath.Join(dir, "linux_amd64", "holdfast"))
	if !bytes.Equal(entry(t, filepath.Join(dir, "holdfast-v1.2.3-linux_amd64.release"), "linux_amd64/holdfast"), program) {
		t.Error("another program is in it")
	}

	elsewhere := filepath.Join(dir, "release", "manifest.json")
	if err := run(m, dir, ""); err == nil || !strings.Contains(err.Error(), "sign "+elsewhere) {
		t.Errorf("unsigned: %v", err)
	}
	unsigned, err := os.ReadFile(elsewhere)
	if err != nil || !bytes.Equal(unsigned, manifest) {
		t.Fatalf("%s, %v", unsigned, err)
	}
	if err := os.WriteFile(elsewhere+".minisig", minisign.Sign(secret, unsigned), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(m, dir, ""); err != nil {
		t.Error(err)
	}
	m.Commit = "another"
	if err := run(m, dir, ""); err == nil {
		t.Error("the signature of another manifest was taken")
	}
}

func TestWrongPrograms(t *testing.T) {
	dir := dist(t)
	m := update.Manifest{Version: "v9.9.9", Buffer: formats}
	if err := run(m, dir, ""); err == nil || !strings.Contains(err.Error(), "is not version v9.9.9") {
		t.Errorf("another version: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "linux_amd64"), filepath.Join(dir, "linux_arm64")); err != nil {
		t.Fatal(err)
	}
	m.Version = "v1.2.3"
	if err := run(m, dir, ""); err == nil || !strings.Contains(err.Error(), "is a program for linux_amd64") {
		t.Errorf("another platform: %v", err)
	}
	if err := run(m, t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), "make cross") {
		t.Errorf("none: %v", err)
	}
}

func TestPlatform(t *testing.T) {
	for want, s := range map[string][]debug.BuildSetting{
		"linux_armv6": {{Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "arm"}, {Key: "GOARM", Value: "6"}},
		"linux_armv7": {{Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "arm"}, {Key: "GOARM", Value: "7,softfloat"}},
		"linux_arm64": {{Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "arm64"}, {Key: "GOARM64", Value: "v8.0"}},
	} {
		if got := platformOf(&debug.BuildInfo{Settings: s}); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
