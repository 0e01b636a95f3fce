package agent

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"holdfast/uplink/wire"
)

func keyConfig(t *testing.T) Config {
	return Config{GatewayID: "gw-1", DataDir: t.TempDir(), Algorithm: wire.Ed25519, KeyFile: "identity.pem"}
}

func mustOpen(t *testing.T, cfg Config) Identity {
	t.Helper()
	id, err := OpenIdentity(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestKeyIsMadeOnce(t *testing.T) {
	cfg := keyConfig(t)
	first := mustOpen(t, cfg)
	again := mustOpen(t, cfg)
	if !first.Created || again.Created || first.Key.Kid() != again.Key.Kid() {
		t.Errorf("first %v %s, then %v %s", first.Created, first.Key.Kid(), again.Created, again.Key.Kid())
	}
	info, err := os.Stat(cfg.keyPath())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.DataDir, ".*tmp*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// TestKeyIsMadeOnceByMany: whoever comes second takes the first one's key.
func TestKeyIsMadeOnceByMany(t *testing.T) {
	cfg := keyConfig(t)
	kids := make([]string, 8)
	var all sync.WaitGroup
	for i := range kids {
		all.Go(func() {
			if id, err := OpenIdentity(cfg, nil); err == nil {
				kids[i] = id.Key.Kid()
			}
		})
	}
	all.Wait()
	for _, kid := range kids {
		if kid == "" || kid != kids[0] {
			t.Fatalf("%q", kids)
		}
	}
}

func TestKeyThatIsRefused(t *testing.T) {
	cases := map[string]struct {
		spoil func(path string) error
		alg   string
		want  []string // all of them in the message
	}{
		"readable by the group": {spoil: func(p string) error { return os.Chmod(p, 0o640) }, want: []string{"0640", "chmod 600"}},
		"writable by others":    {spoil: func(p string) error { return os.Chmod(p, 0o602) }, want: []string{"0602", "chmod 600"}},
		"cut":                   {spoil: func(p string) error { return os.Truncate(p, 40) }, want: []string{"damaged", "move it away"}},
		"empty":                 {spoil: func(p string) error { return os.Truncate(p, 0) }, want: []string{"damaged"}},
		"a directory": {spoil: func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Mkdir(p, 0o700)
		}, want: []string{"not a regular file"}},
		"for another algorithm": {spoil: func(string) error { return nil }, alg: wire.HMACSHA256, want: []string{"signing.algorithm", "identity rotate"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := keyConfig(t)
			mustOpen(t, cfg)
			path := cfg.keyPath()
			if err := c.spoil(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			if c.alg != "" {
				cfg.Algorithm = c.alg
			}
			_, err := OpenIdentity(cfg, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(c.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("it was overwritten")
			}
		})
	}
}

func TestRotation(t *testing.T) {
	cfg := keyConfig(t)
	first := mustOpen(t, cfg)
	turned, err := RotateIdentity(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if turned.Previous.Kid() != first.Key.Kid() || turned.Key.Kid() == first.Key.Kid() {
		t.Errorf("from %s: %s replaced by %s", first.Key.Kid(), turned.Previous.Kid(), turned.Key.Kid())
	}
	now := mustOpen(t, cfg)
	if now.Key.Kid() != turned.Key.Kid() || now.Previous == nil || now.Previous.Kid() != first.Key.Kid() {
		t.Errorf("opened %s, previous %v", now.Key.Kid(), now.Previous)
	}
	if info, err := os.Stat(previousPath(cfg.keyPath())); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the replaced key: %v %v", info, err)
	}
	if _, err := RotateIdentity(cfg, nil); err == nil || !strings.Contains(err.Error(), "has not reached the broker") {
		t.Errorf("a second rotation before the first was delivered: %v", err)
	}
}

func TestRotationToAnotherAlgorithm(t *testing.T) {
	cfg := keyConfig(t)
	mustOpen(t, cfg)
	cfg.Algorithm = wire.HMACSHA256
	if _, err := RotateIdentity(cfg, nil); err != nil {
		t.Fatal(err)
	}
	if id := mustOpen(t, cfg); id.Key.Alg() != "HS256" || id.Previous.Alg() != "EdDSA" {
		t.Errorf("%s after %s", id.Key.Alg(), id.Previous.Alg())
	}
}

// TestRotationCutShort: the old key was put aside, the new one did not take its place.
func TestRotationCutShort(t *testing.T) {
	cfg := keyConfig(t)
	first := mustOpen(t, cfg)
	if err := os.Link(cfg.keyPath(), previousPath(cfg.keyPath())); err != nil {
		t.Fatal(err)
	}
	id := mustOpen(t, cfg)
	if id.Key.Kid() != first.Key.Kid() || id.Previous != nil {
		t.Errorf("%s, previous %v", id.Key.Kid(), id.Previous)
	}
	if _, err := RotateIdentity(cfg, nil); err != nil {
		t.Errorf("rotating again: %v", err)
	}
}

func TestGatewayIDIsKept(t *testing.T) {
	cfg := keyConfig(t)
	cfg.GatewayID = ""
	first := mustOpen(t, cfg).Gateway
	if again := mustOpen(t, cfg).Gateway; again != first || badName(first) != "" {
		t.Errorf("%q, then %q", first, again)
	}
	path := filepath.Join(cfg.DataDir, "gateway-id")
	if err := os.WriteFile(path, []byte("gw 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenIdentity(cfg, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged id: %v", err)
	}
	cfg.GatewayID = "bad/name"
	if _, err := OpenIdentity(cfg, nil); err == nil {
		t.Error("bad/name accepted")
	}
}

// TestMachineHash: what systemd-id128 --app-specific=6b1f0d5283c44e0a9d2751ee3b9670d8
// machine-id makes of this machine id.
func TestMachineHash(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(file, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := machineHash(file, strings.NewReader(""))
	if want := "b3cc6f4b7618426fb71ddd8b99b602f7"; err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	random, err := machineHash(filepath.Join(t.TempDir(), "none"), strings.NewReader(strings.Repeat("r", 32)))
	if err != nil || badName(random) != "" || random == got {
		t.Errorf("without a machine id: %s, %v", random, err)
	}
}
