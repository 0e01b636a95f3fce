package update

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"aead.dev/minisign"
)

// builtIn is the keys of those who built the program, separated by commas (make build
// RELEASE_KEYS=...).
var builtIn string

// Keys are whom releases are taken from.
type Keys []minisign.PublicKey

const (
	maxKeys     = 16
	maxKeysFile = 64 << 10
)

// LoadKeys reads the operator's keys from file; where there is no such file, those that
// were built in.
func LoadKeys(file string) (Keys, error) {
	text, err := keysFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if builtIn == "" {
			return nil, fmt.Errorf("whose releases may run here? put minisign's public key into %s", file)
		}
		return ParseKeys("the program", strings.ReplaceAll(builtIn, ",", "\n"))
	}
	if err != nil {
		return nil, fmt.Errorf("update.keys: %w", err)
	}
	return ParseKeys(file, text)
}

// keysFile reads the file, unless others than its owner may change it: they would decide
// what runs here.
func keysFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if p := info.Mode().Perm(); p&0o022 != 0 {
		return "", fmt.Errorf("%s has mode %04o: others could let their programs run here; run: chmod 644 %s", file, p, file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeysFile))
	return string(text), err
}

// ParseKeys reads one key a line, as minisign writes them. name is for the errors.
func ParseKeys(name, text string) (Keys, error) {
	var keys Keys
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "untrusted comment:") {
			continue
		}
		var key minisign.PublicKey
		if err := key.UnmarshalText([]byte(line)); err != nil {
			return nil, fmt.Errorf("%s:%d: no public key of minisign (%w): copy the line from its .pub file again", name, i+1, err)
		}
		if keys = append(keys, key); len(keys) > maxKeys {
			return nil, fmt.Errorf("%s:%d: more than %d keys: remove old ones", name, i+1, maxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key: no release is taken; put minisign's public key into it", name)
	}
	return keys, nil
}

// ErrSignature: it is not signed by any of the keys.
var ErrSignature = errors.New("not signed by a key that is trusted here")

func (k Keys) verify(message, signature []byte) error {
	for _, key := range k {
		if minisign.Verify(key, message, signature) {
			return nil
		}
	}
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	for _, key := range k {
		if key.ID() == s.KeyID {
			return fmt.Errorf("%w: it names key %X, and was changed after it was signed", ErrSignature, s.KeyID)
		}
	}
	return fmt.Errorf("%w: signed with key %X", ErrSignature, s.KeyID)
}
