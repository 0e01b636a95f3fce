package servers

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/systemd/freeport"
)

// RedisServer is Debian's redis-server.
type RedisServer struct {
	*Process
	Addr   string
	socket string
}

// Redis starts one; more are arguments of its own. With pair it speaks TLS only.
func Redis(t testing.TB, pair *Pair, more ...string) *RedisServer {
	t.Helper()
	addr, dir := freeport.Addr(t), Dir(t)
	_, port, _ := net.SplitHostPort(addr)
	r := &RedisServer{Addr: addr, socket: filepath.Join(dir, "s")}
	args := []string{Program(t, "redis-server", "redis-server"), "--bind", "127.0.0.1", "--save", "", "--dir", dir, "--unixsocket", r.socket}
	if pair == nil {
		args = append(args, "--port", port)
	} else {
		args = append(args, "--port", "0", "--tls-port", port, "--tls-cert-file", pair.Cert, "--tls-key-file", pair.Key, "--tls-ca-cert-file", pair.CA)
	}
	r.Process = Run(t, append(args, more...)...)
	r.Listens(addr)
	return r
}

// CLI runs redis-cli, which VerneMQ's documentation tells its users to put keys in with.
func (r *RedisServer) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(Program(t, "redis-tools", "redis-cli"), append([]string{"-s", r.socket}, args...)...).CombinedOutput()
	if err != nil || strings.HasPrefix(string(out), "ERR") {
		t.Fatalf("redis-cli %q: %v %s", args, err, out)
	}
	return string(out)
}
