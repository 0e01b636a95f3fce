package broker

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"holdfast/systemd/settings"
)

// fileConfig is a broker whose users are in a file: text, with the hash of a password.
func fileConfig(t *testing.T, text, password string) Config {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "users.toml"), fmt.Appendf(nil, text, string(hash)), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := ParseConfig(filepath.Join(dir, "broker.toml"), []byte("[[auth]]\ntype = \"file\"\npath = \"users.toml\"\n[access]\nrefused_delay = \"1ms\"\n"))
	if errs := settings.Errors(problems); len(errs) > 0 {
		t.Fatal(errs)
	}
	test := testConfig(t.TempDir())
	test.Auth, test.Access = cfg.Auth, cfg.Access
	return test
}

func mustDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience/time.Duration(2))
	if err != nil {
		t.Fatal(err)
	}
	return nc
}
