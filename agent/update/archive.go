package update

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	manifestName  = "manifest.json"
	signatureName = "manifest.json.minisig"
	maxPassed     = 8 * maxProgram // unpacked, on the way to this platform's program
)

// ErrDamaged: the release file is not whole, or not one.
var ErrDamaged = errors.New("the release file is damaged or cut short")

// archive is a release file that is being read. Nothing of it is looked at before the
// manifest's signature.
type archive struct {
	Manifest
	text, signature []byte
	tar             *tar.Reader
}

func openArchive(r io.Reader, keys Keys) (*archive, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, damaged(err)
	}
	a := &archive{tar: tar.NewReader(zip)}
	if a.text, err = a.small(manifestName, maxManifest); err != nil {
		return nil, err
	}
	if a.signature, err = a.small(signatureName, maxSignature); err != nil {
		return nil, err
	}
	a.Manifest, err = verified(a.text, a.signature, keys)
	return a, err
}

func verified(text, signature []byte, keys Keys) (Manifest, error) {
	if err := keys.verify(text, signature); err != nil {
		return Manifest{}, err
	}
	return ParseManifest(text)
}

// damaged wraps what reading ran into; that of the source below (a broken download) shows
// through.
func damaged(err error) error {
	if errors.Is(err, errSource) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// small reads the next entry, which must have that name.
func (a *archive) small(name string, most int64) ([]byte, error) {
	h, err := a.tar.Next()
	if err != nil {
		return nil, damaged(err)
	}
	if h.Name != name || h.Typeflag != tar.TypeReg || h.Size > most {
		return nil, fmt.Errorf("%w: where %s belongs there is %q (%d bytes)", ErrDamaged, name, h.Name, h.Size)
	}
	b, err := io.ReadAll(a.tar)
	if err != nil {
		return nil, damaged(err)
	}
	return b, nil
}

// program writes the program of a platform to w, and has checked its hash when it returns
// nil. What comes behind it is not read.
func (a *archive) program(f File, w io.Writer) error {
	name := f.Platform + "/" + programName
	for passed := int64(0); ; {
		h, err := a.tar.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: this file holds no program for %s; take the one for all platforms", ErrRefused, f.Platform)
		}
		if err != nil {
			return damaged(err)
		}
		if h.Name != name {
			if passed += h.Size; passed > maxPassed {
				return fmt.Errorf("%w: too much in it", ErrDamaged)
			}
			continue
		}
		if h.Size != f.Size || h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%w: %s is not what was signed", ErrDamaged, name)
		}
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, sum), a.tar); err != nil {
			return damaged(err)
		}
		if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
			return fmt.Errorf("%w: %s is not what was signed", ErrDamaged, name)
		}
		return nil
	}
}
