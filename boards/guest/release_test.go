//go:build guest

package guest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"aead.dev/minisign"
)

// releaseOf makes a release file as docs/UPDATE.md describes it, by other means than `make release`.
func releaseOf(t *testing.T, secret minisign.PrivateKey, version, platform string, program []byte) []byte {
	t.Helper()
	manifest, err := json.Marshal(map[string]any{
		"name": "holdfast", "version": version, "commit": "test", "built": "2026-01-01T00:00:00Z",
		"buffer": map[string]int{"oldest": 1, "newest": 1, "writes": 1},
		"files":  []any{map[string]any{"platform": platform, "size": len(program), "sha256": fmt.Sprintf("%x", sha256.Sum256(program))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, e := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {"manifest.json.minisig", minisign.Sign(secret, manifest)}, {platform + "/holdfast", program}} {
		if err = w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.data)), Typeflag: tar.TypeReg}); err == nil {
			_, err = w.Write(e.data)
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
