package update

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"aead.dev/minisign"
)

// Program is one platform's program that is to be released.
type Program struct {
	Platform string
	Data     []byte
}

// Describe makes the manifest's text from what stands in m besides Files, and the programs.
func Describe(m Manifest, programs []Program) ([]byte, error) {
	m.Name, m.Files = programName, nil
	for _, p := range programs {
		sum := sha256.Sum256(p.Data)
		m.Files = append(m.Files, File{p.Platform, int64(len(p.Data)), hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(m.Files, func(a, b File) int { return cmp.Compare(a.Platform, b.Platform) })
	if err := m.check(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	return append(text, '\n'), err
}

// Sign signs a manifest. Two signatures by one key are the same bytes.
func Sign(manifest []byte, key minisign.PrivateKey) ([]byte, error) {
	m, err := ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	return minisign.SignWithComments(key, manifest, "holdfast "+m.Version+" built "+m.Built, "holdfast release"), nil
}

// Pack writes the release file of some or all of the manifest's programs; level is gzip's.
func Pack(w io.Writer, level int, manifest, signature []byte, programs []Program) error {
	m, err := ParseManifest(manifest)
	if err != nil {
		return err
	}
	for _, p := range programs {
		f, err := m.File(p.Platform)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(p.Data); hex.EncodeToString(sum[:]) != f.SHA256 {
			return fmt.Errorf("the program for %s is not the one in the manifest", p.Platform)
		}
	}
	zip, err := gzip.NewWriterLevel(w, level)
	if err != nil {
		return err
	}
	t := tar.NewWriter(zip)
	add := func(name string, mode int64, data []byte) error {
		err := t.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR})
		if err == nil {
			_, err = io.Copy(t, bytes.NewReader(data))
		}
		return err
	}
	err = errors.Join(add(manifestName, 0o644, manifest), add(signatureName, 0o644, signature))
	for _, p := range programs {
		err = errors.Join(err, add(p.Platform+"/"+programName, 0o755, p.Data))
	}
	return errors.Join(err, t.Close(), zip.Close())
}
