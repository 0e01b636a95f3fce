package admin

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Names of the files under the broker's data_dir.
const (
	TokenFile  = "admin.token"
	SocketFile = "admin.sock"
)

// tokenSize is the entropy of a token in bytes.
const tokenSize = 32

// maxSocketPath is the size of sun_path less its final zero (unix(7)).
const maxSocketPath = 107

// Token returns the token under dir, which it creates (0600) if there is none. One
// that others may read is refused.
func Token(dir string, rand io.Reader) (string, error) {
	path := filepath.Join(dir, TokenFile)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return createToken(path, rand)
	case err != nil:
		return "", fmt.Errorf("admin token: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("admin token: %s may be read by others (mode %04o): chmod 600 it, or remove it for a new one", path, info.Mode().Perm())
	}
	return ReadToken(path)
}

// ReadToken reads a token from a file.
func ReadToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 16 || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("admin token: %s does not hold one; remove it, and the broker makes a new one when it starts", path)
	}
	return token, nil
}

// createToken writes the file whole or not at all.
func createToken(path string, rand io.Reader) (string, error) {
	b := make([]byte, tokenSize)
	if _, err := io.ReadFull(rand, b); err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	token := hex.EncodeToString(b)
	tmp := path + ".new"
	_ = os.Remove(tmp) // of a start that was interrupted
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return "", fmt.Errorf("admin token: %w", errors.Join(err, os.Remove(tmp)))
	}
	return token, nil
}

// ListenUnix opens the socket under dir, for its owner alone. A socket that a dead
// process left is replaced; the caller holds the lock of dir, so nobody answers on it.
func ListenUnix(dir string) (net.Listener, error) {
	path := filepath.Join(dir, SocketFile)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("admin socket: %s is longer than the %d bytes that a socket's path may have; choose a shorter data_dir", path, maxSocketPath)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("admin socket: %s is there and is no socket: move it away", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("admin socket: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}
