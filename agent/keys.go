package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/uplink/wire"
)

// keyPath returns where the signing key lies.
func (c Config) keyPath() string {
	name := c.KeyFile
	if name == "" {
		name = "identity.pem"
	}
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.DataDir, name)
}

// previousPath is where a rotated key waits until its word for the new one arrived.
func previousPath(key string) string { return strings.TrimSuffix(key, ".pem") + ".prev.pem" }

// loadKey reads a private key, and refuses one that others may read.
func loadKey(path string) (*wire.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("signing.key_file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("signing.key_file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("signing.key_file: %s is not a regular file", path)
	}
	if p := info.Mode().Perm(); p&0o077 != 0 {
		return nil, fmt.Errorf("signing.key_file: %s has mode %04o: others may read or change the key; run: chmod 600 %s", path, p, path)
	}
	pem, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("signing.key_file: %w", err)
	}
	key, err := wire.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("signing.key_file: %s is damaged (%w): put back a copy, or move it away and a new key is made, which the broker must then be told of", path, err)
	}
	return key, nil
}

// VerifyingKeys returns what verifies the messages of this gateway: its key and, while
// a rotation is being told, the one before. It makes nothing.
func VerifyingKeys(cfg Config) ([]wire.PublicKey, error) {
	key, err := loadKey(cfg.keyPath())
	if err != nil {
		return nil, err
	}
	keys := []wire.PublicKey{key.Public()}
	old, err := loadKey(previousPath(cfg.keyPath()))
	if err == nil {
		keys = append(keys, old.Public())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return keys, nil
}

// openKey loads the key, or makes it if there is none yet.
func openKey(cfg Config, rand io.Reader) (key *wire.PrivateKey, created bool, err error) {
	path := cfg.keyPath()
	key, err = loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = makeKey(path, cfg.Algorithm, rand); err != nil {
			return nil, false, err
		}
		created = true
	}
	if err != nil {
		return nil, false, err
	}
	if want := jwsName(cfg.Algorithm); key.Alg() != want {
		return nil, false, fmt.Errorf("signing.algorithm is %q but %s holds a key for %s: set the algorithm back, or change it and run: holdfast identity rotate", cfg.Algorithm, path, key.Alg())
	}
	return key, created, nil
}

func jwsName(algorithm string) string {
	if algorithm == wire.HMACSHA256 {
		return "HS256"
	}
	return "EdDSA"
}

// makeKey creates the key file, or loads the one that another process just created.
func makeKey(path, algorithm string, rand io.Reader) (*wire.PrivateKey, error) {
	if algorithm == "" {
		algorithm = wire.Ed25519
	}
	key, err := wire.GenerateKey(algorithm, rand)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	tmp, err := writeTemp(path, key.MarshalPEM())
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	defer os.Remove(tmp)
	// A link never replaces: whatever is at path by now stays.
	if err := os.Link(tmp, path); errors.Is(err, fs.ErrExist) {
		return loadKey(path)
	} else if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return key, nil
}

// rotateKey makes a new key and keeps the one it replaces beside it. Each step leaves
// a state that openPrevious understands.
func rotateKey(cfg Config, rand io.Reader) (old, key *wire.PrivateKey, err error) {
	path := cfg.keyPath()
	if old, err = loadKey(path); err != nil {
		return nil, nil, err
	}
	prev := previousPath(path)
	waiting, err := openPrevious(path, old)
	switch {
	case err != nil:
		return nil, nil, err
	case waiting != nil:
		return nil, nil, fmt.Errorf("%s: the last rotation has not reached the broker yet; let the agent connect first", prev)
	}
	if key, err = wire.GenerateKey(cfg.Algorithm, rand); err != nil {
		return nil, nil, fmt.Errorf("rotate: %w", err)
	}
	tmp, err := writeTemp(path, key.MarshalPEM())
	if err != nil {
		return nil, nil, fmt.Errorf("rotate: %w", err)
	}
	defer os.Remove(tmp)
	if err := os.Link(path, prev); err != nil {
		return nil, nil, fmt.Errorf("rotate: %w", err)
	}
	if err := errors.Join(syncDir(filepath.Dir(path)), os.Rename(tmp, path), syncDir(filepath.Dir(path))); err != nil {
		return nil, nil, fmt.Errorf("rotate: %w", err)
	}
	return old, key, nil
}

// openPrevious returns the key that key replaced, if its word for it is still to be
// delivered. A rotation that was cut short before the new key stood left both the same.
func openPrevious(path string, key *wire.PrivateKey) (*wire.PrivateKey, error) {
	prev := previousPath(path)
	old, err := loadKey(prev)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case old.Kid() != key.Kid():
		return old, nil
	}
	if err := os.Remove(prev); err != nil {
		return nil, fmt.Errorf("unfinished rotation: %w", err)
	}
	return nil, nil
}

// writeTemp writes and syncs a new file beside path, mode 0600.
func writeTemp(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp*") // O_EXCL, 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
