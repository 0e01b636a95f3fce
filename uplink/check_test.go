package uplink

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pki, other := newPKI(t), newPKI(t)
	old := newPKIAt(t, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
	tls := []string{"mqtts://b.example"}
	for name, c := range map[string]struct {
		cfg  Config
		want []string // key: part of the message; "?" in front of a warning
	}{
		"nothing":          {Config{}, []string{"servers: none given", "client_id: empty"}},
		"fine":             {Config{Servers: tls, ClientID: "x", CAFile: pki.ca, CertFile: pki.clientCert, KeyFile: pki.clientKey}, nil},
		"all four":         {Config{Servers: []string{"mqtt://a", "mqtts://a:1", "ws://a/x", "wss://[::1]:8084"}, ClientID: "x"}, nil},
		"scheme":           {Config{Servers: []string{"tcp://a:1883"}, ClientID: "x"}, []string{"servers: mqtts, ws or wss"}},
		"no scheme":        {Config{Servers: []string{"a.example:1883"}, ClientID: "x"}, []string{"servers: scheme"}},
		"no host":          {Config{Servers: []string{"mqtt://:1883"}, ClientID: "x"}, []string{"servers: no host"}},
		"port":             {Config{Servers: []string{"mqtt://a:70000", "mqtt://a:0"}, ClientID: "x"}, []string{"servers: port", "servers: port"}},
		"not a URL":        {Config{Servers: []string{"mqtt://a:b"}, ClientID: "x"}, []string{"servers: not a URL"}},
		"credentials":      {Config{Servers: []string{"mqtt://u:secret@a"}, ClientID: "x"}, []string{"servers: password_file"}},
		"path":             {Config{Servers: []string{"mqtt://a/x"}, ClientID: "x"}, []string{"servers: path"}},
		"query":            {Config{Servers: []string{"ws://a/x?y"}, ClientID: "x"}, []string{"servers: query"}},
		"twice":            {Config{Servers: []string{"mqtt://a", "mqtt://a:1883"}, ClientID: "x"}, []string{"?servers: twice"}},
		"times":            {Config{Servers: tls, ClientID: "x", SessionExpiry: time.Millisecond, Keepalive: 24 * time.Hour, Window: 70000}, []string{"session_expiry: second", "keepalive: 65535s", "window: 65519"}},
		"drain":            {Config{Servers: tls, ClientID: "x", Drain: "newest"}, []string{`drain: "live-first"`}},
		"rate":             {Config{Servers: tls, ClientID: "x", DrainRate: Rate{PerSecond: -1}}, []string{"drain_rate: negative"}},
		"bad UTF-8":        {Config{Servers: tls, ClientID: "\xff", Username: "\xff"}, []string{"client_id: UTF-8", "username: UTF-8"}},
		"no password":      {Config{Servers: tls, ClientID: "x", Username: "u", PasswordFile: filepath.Join(dir, "none")}, []string{"password_file: no such file"}},
		"empty password":   {Config{Servers: tls, ClientID: "x", Username: "u", PasswordFile: file("empty", "\n", 0o600)}, []string{"password_file: empty"}},
		"folder":           {Config{Servers: tls, ClientID: "x", Username: "u", PasswordFile: dir}, []string{"password_file: regular"}},
		"readable by all":  {Config{Servers: tls, ClientID: "x", Username: "u", PasswordFile: file("open", "s", 0o644)}, []string{"?password_file: chmod"}},
		"lines":            {Config{Servers: tls, ClientID: "x", Username: "u", PasswordFile: file("lines", "a\nb\n", 0o600)}, []string{"?password_file: several lines"}},
		"no username":      {Config{Servers: tls, ClientID: "x", PasswordFile: file("p", "s", 0o600)}, []string{"?password_file: without a username"}},
		"unencrypted":      {Config{Servers: []string{"mqtt://a"}, ClientID: "x", Username: "u", PasswordFile: file("p", "s", 0o600)}, []string{"?servers: unencrypted"}},
		"to this machine":  {Config{Servers: []string{"mqtt://127.0.0.1"}, ClientID: "x", Username: "u", PasswordFile: file("p", "s", 0o600)}, nil},
		"CA in vain":       {Config{Servers: []string{"mqtt://a"}, ClientID: "x", CAFile: pki.ca}, []string{"?servers: no effect"}},
		"no CA":            {Config{Servers: tls, ClientID: "x", CAFile: filepath.Join(dir, "none")}, []string{"ca_file: no such file"}},
		"CA is no PEM":     {Config{Servers: tls, ClientID: "x", CAFile: file("junk", "junk", 0o600)}, []string{"ca_file: no PEM"}},
		"CA is a key":      {Config{Servers: tls, ClientID: "x", CAFile: pki.key}, []string{"ca_file: no PEM certificate"}},
		"CA expired":       {Config{Servers: tls, ClientID: "x", CAFile: old.ca}, []string{"?ca_file: expired"}},
		"broken PEM":       {Config{Servers: tls, ClientID: "x", CAFile: file("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600)}, []string{"ca_file: certificate 1"}},
		"cert without key": {Config{Servers: tls, ClientID: "x", CertFile: pki.cert}, []string{"cert_file: key_file"}},
		"key without cert": {Config{Servers: tls, ClientID: "x", KeyFile: pki.key}, []string{"key_file: cert_file"}},
		"strange key":      {Config{Servers: tls, ClientID: "x", CertFile: pki.clientCert, KeyFile: other.clientKey}, []string{"key_file: does not match"}},
		"no key":           {Config{Servers: tls, ClientID: "x", CertFile: pki.clientCert, KeyFile: filepath.Join(dir, "none")}, []string{"key_file: no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.cfg.Check()
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %q", got, c.want)
			}
			for i, p := range got {
				want, warning := strings.CutPrefix(c.want[i], "?")
				key, part, _ := strings.Cut(want, ": ")
				if p.Key != key || p.Warning != warning || !strings.Contains(p.Message, part) {
					t.Errorf("got %+v, want %q", p, c.want[i])
				}
				if strings.Contains(p.Message, "secret") {
					t.Errorf("tells the secret: %s", p)
				}
			}
			_, err := New(c.cfg, Options{Source: newSource(numbered), Open: openBlob})
			if fatal := len(c.want) > 0 && !strings.HasPrefix(c.want[0], "?"); fatal != (err != nil) {
				t.Errorf("New: %v", err)
			}
		})
	}
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"mqtt://a", "mqtts://[::1]:8883", "ws://a:80/mqtt", "wss://a/x", "a:1", "mqtt://u:p@a", "mqtt://a:b", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseServer(text)
		if err != nil {
			return
		}
		again, err := parseServer(s.String())
		if err != nil || again != s {
			t.Fatalf("%q became %q, %+v, %v", text, s, again, err)
		}
	})
}
