package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/broker/auth/servers"
)

// TestTLSToRedis, TestTLSToMySQL, TestTLSToPostgres: servers that speak TLS only, with a certificate of a CA that the system does not know.

func TestTLSToRedis(t *testing.T) {
	ca := servers.NewCA(t, "servers' CA")
	r := servers.Redis(t, ca.Pair(t, "redis", time.Time{}), "--tls-auth-clients", "yes")
	own := ca.Pair(t, "broker", time.Time{})
	r.CLI(t, "SET", `["","c","u"]`, `{"passhash":"`+someHash+`"}`)
	settings := fmt.Sprintf("servers = [%q]\n", r.Addr)
	ours := fmt.Sprintf("cert_file = %q\nkey_file = %q\n", own.Cert, own.Key)
	overTLS(t, "redis", settings, ours, ca, &Client{ID: "c", Username: "u"}, map[string]string{
		settings: "if it speaks TLS there, write tls = true",
		settings + fmt.Sprintf("tls = true\nca_file = %q\n", ca.File): "set cert_file and key_file to one that it trusts",
	})
}

func TestTLSToMySQL(t *testing.T)    { testTLSToSQL(t, servers.MariaDB) }
func TestTLSToPostgres(t *testing.T) { testTLSToSQL(t, servers.PostgreSQL) }

func testTLSToSQL(t *testing.T, begin func(testing.TB, *servers.Pair) *servers.Database) {
	ca := servers.NewCA(t, "servers' CA")
	d := begin(t, ca.Pair(t, "database", time.Time{}))
	d.SQL(t, "INSERT INTO mqtt_user (username, password) VALUES ('u', 'efa1f375d76194fa51a3556a97e641e61685f914d446979da50a551a4333ffd7')")
	overTLS(t, d.Kind, d.Settings, "", ca, &Client{ID: "c", Username: "u"}, map[string]string{d.Settings: "over TLS only"})
}

// overTLS: with the right CA it works; another CA, another name and what more says fail with what to do; nobody is let in then.
func overTLS(t *testing.T, kind, settings, ours string, ca *servers.CA, known *Client, more map[string]string) {
	t.Helper()
	other := servers.NewCA(t, "another CA")
	env, _ := sourceEnv(t)
	for _, server := range []string{"", "server_name = \"127.0.0.1\"\n"} {
		s := openSource(t, kind, settings+ours+fmt.Sprintf("tls = true\nca_file = %q\n", ca.File)+server, env)
		if a, _, err := check(t, s, known); err != nil || a.Decision != Allow {
			t.Errorf("with the right CA: %+v, %v", a, err)
		}
	}
	wrong := map[string]string{
		settings + ours + "tls = true\n":                                                                      "its certificate is not trusted; set ca_file to what signed it",
		settings + ours + fmt.Sprintf("tls = true\nca_file = %q\n", other.File):                               "its certificate is not trusted; set ca_file to what signed it",
		settings + ours + fmt.Sprintf("tls = true\nca_file = %q\nserver_name = \"users.example\"\n", ca.File): "its certificate is for another name; set server_name",
	}
	for text, want := range more {
		wrong[text] = want
	}
	for text, want := range wrong {
		s := openSource(t, kind, text, env)
		a, _, err := check(t, s, known)
		if err == nil || a.Decision == Allow || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", text, a, err, want)
		}
	}
}
