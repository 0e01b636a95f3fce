package broker

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"holdfast/broker/auth/servers"
	"holdfast/broker/listen"
)

// BenchmarkConnectsBySource: CONNECT to CONNACK and DISCONNECT, 64 at a time, with each source of users, whose servers are real,
// and mosquitto with a password file in the same run. Every client is asked about at its source; passwords are known. certificate
// has a TLS handshake for each, acl_file nobody's password. -benchtime 5000x
func BenchmarkConnectsBySource(b *testing.B) {
	const users = 100
	run := func(name string, cfg Config, c comers, before func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			r := start(b, cfg)
			c := c
			if c.addr, c.users = r.addr, users; before != nil {
				before(b)
			}
			c.connect(b, users)
			b.ResetTimer()
			c.connect(b, b.N)
		})
	}
	redis := servers.Redis(b, nil)
	run("redis", withAuth(b, fmt.Sprintf("[[auth]]\ntype = \"redis\"\nservers = [%q]\n", redis.Addr)), comers{}, func(b *testing.B) { fillRedis(b, redis, users) })
	for _, d := range []*servers.Database{servers.MariaDB(b, nil), servers.PostgreSQL(b, nil)} {
		var rows []string
		for i := range users {
			rows = append(rows, fmt.Sprintf("('user%d', '%x')", i, sha256.Sum256(fmt.Append(nil, "user", i))))
		}
		d.SQL(b, "INSERT INTO mqtt_user (username, password) VALUES "+strings.Join(rows, ", "))
		run(d.Kind, withAuth(b, fmt.Sprintf("[[auth]]\ntype = %q\n%s", d.Kind, d.Settings)), comers{}, nil)
	}
	office := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // whoever asks is let in
		_, _ = io.WriteString(w, `{"result":"allow","rules":[{"access":"publish","filter":"gw/%u/#"}]}`)
	}))
	b.Cleanup(office.Close)
	run("http", withAuth(b, fmt.Sprintf("[[auth]]\ntype = \"http\"\nurl = %q\n", office.URL)), comers{}, nil)
	secret, file := "0123456789abcdef0123456789abcdef", filepath.Join(b.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		b.Fatal(err)
	}
	run("jwt-hs256", withAuth(b, fmt.Sprintf("[[auth]]\ntype = \"jwt\"\nkeys = [{ algorithm = \"HS256\", file = %q }]\n", file)), comers{secret: func(user string) string { return token(user, secret) }}, nil)
	acl := filepath.Join(b.TempDir(), "acl.conf")
	if err := os.WriteFile(acl, []byte("{allow, {user, \"dashboard\"}, subscribe, [\"$SYS/#\"]}. {deny, all, subscribe, [\"$SYS/#\", {eq, \"#\"}]}. {allow, all}."), 0o600); err != nil {
		b.Fatal(err)
	}
	few := benchUsers(b, users, bcrypt.MinCost)
	few.Auth = append(few.Auth, withAuth(b, fmt.Sprintf("[[auth]]\ntype = \"acl_file\"\npath = %q\n", acl)).Auth...)
	run("file-and-acl_file", few, comers{}, nil)
	byCertificate(b, users)
	b.Run("mosquitto-password-file", func(b *testing.B) {
		addr := mosquittoUsers(b, users)
		b.ResetTimer()
		connects(b, addr, users, b.N)
	})
}

// fillRedis puts in a key for each client of the run.
func fillRedis(b *testing.B, r *servers.RedisServer, users int) {
	args := []string{"EVAL", `for i = 1, tonumber(ARGV[1]) do local u = i % (#ARGV - 1); redis.call("SET", '["","c' .. i .. '","user' .. u .. '"]', ARGV[u + 2]) end`, "0", fmt.Sprint(max(b.N, users))}
	for i := range users {
		hash, err := bcrypt.GenerateFromPassword(fmt.Append(nil, "user", i), bcrypt.MinCost)
		if err != nil {
			b.Fatal(err)
		}
		args = append(args, `{"passhash":"`+string(hash)+`","publish_acl":[{"pattern":"gw/%u/#"}]}`)
	}
	r.CLI(b, args...)
}

// token is a user's, signed with HS256 (RFC 7515, appendix A.1).
func token(user, secret string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sub":%q,"exp":%d,"acl":{"pub":["gw/%%u/#"]}}`, user, time.Now().Add(time.Hour).Unix()))
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, text) // it never fails
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func byCertificate(b *testing.B, users int) {
	ca := servers.NewCA(b, "gateways")
	own := ca.Pair(b, "broker", time.Time{})
	cfg := withAuth(b, fmt.Sprintf("[[auth]]\ntype = \"certificate\"\nca_file = %q\nmatch = [\"username\"]\npublish = [\"gw/%%i/#\"]\n", ca.File))
	cfg.Listen = listen.Config{MQTTS: "127.0.0.1:0", CertFile: own.Cert, KeyFile: own.Key, ClientCAFile: ca.File, ClientCertRequired: []string{"mqtts"}}
	pairs := map[string]*tls.Config{}
	for i := range users {
		user := fmt.Sprint("user", i)
		pairs[user] = &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{ca.Pair(b, user, time.Time{}).TLS}}
	}
	b.Run("certificate", func(b *testing.B) {
		r := start(b, cfg)
		c := comers{addr: r.addr, users: users, dial: func(user string) (net.Conn, error) { return tls.Dial("tcp", r.addr, pairs[user]) }}
		b.ResetTimer()
		c.connect(b, b.N)
	})
}
