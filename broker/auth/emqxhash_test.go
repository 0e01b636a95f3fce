package auth

import (
	"os/exec"
	"strings"
	"testing"
)

// What EMQX 4's own tests have in their tables, and RFC 3962, appendix B, for pbkdf2.
func TestHashesOfEMQX(t *testing.T) {
	for _, c := range []struct{ scheme, stored, salt, password string }{
		{"plain", "plain", "salt", "plain"},
		{"md5", "1bc29b36f623ba82aaf6724fd3b16718", "salt", "md5"},
		{"sha", "d8f4590320e1343a915b6394170650a8f35d6926", "salt", "sha"},
		{"sha256", "5d5b09f6dcb2d53a5fffc60c4ac0d55fabdf556069d6631545f42aa6e3500f2e", "salt", "sha256"},
		{"pbkdf2,sha,1,16", "cdedb5281bb2f801565a1122b2563515", "ATHENA.MIT.EDUraeburn", "password"},
		{"salt,bcrypt", "$2a$12$sSS8Eg.ovVzaHzi1nUHYK.HbUIOdlQI0iS22Q5rd5z.JVVYH6sfm6", "$2a$12$sSS8Eg.ovVzaHzi1nUHYK.", "foo"},
	} {
		checkHash(t, c.scheme, c.stored, c.salt, c.password)
	}
}

// What Python's libraries make of a password, which are OpenSSL and libxcrypt.
func TestHashesOfPython(t *testing.T) {
	const program = `
import crypt, hashlib
pw, salt = "Grüße 1", "s4lt"
p, s = pw.encode(), salt.encode()
for name, f in (("md5", hashlib.md5), ("sha", hashlib.sha1), ("sha256", hashlib.sha256)):
    print(name, "-", f(p).hexdigest())
    print("salt," + name, salt, f(s + p).hexdigest())
    print(name + ",salt", salt, f(p + s).hexdigest())
print("salt,plain", salt, "-" )
for mac, f in (("md5", "md5"), ("sha", "sha1"), ("sha224", "sha224"), ("sha256", "sha256"), ("sha384", "sha384"), ("sha512", "sha512")):
    print("pbkdf2,%s,1000,20" % mac, salt, hashlib.pbkdf2_hmac(f, p, s, 1000, 20).hex())
for kind in ("2a", "2b", "2y"):
    print("bcrypt", "-", crypt.crypt(pw, "$%s$04$abcdefghijklmnopqrstuu" % kind))
`
	out, err := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", program).Output()
	if err != nil {
		t.Fatalf("python3 (apt install python3): %v", err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if f[0] == "salt,plain" {
			f[2] = "s4ltGrüße"
			checkHash(t, f[0], "s4ltGrüße 1", f[1], "Grüße 1")
			continue
		}
		checkHash(t, f[0], f[2], strings.TrimPrefix(f[1], "-"), "Grüße 1")
		n++
	}
	if n != 18 {
		t.Errorf("%d hashes compared: %s", n, out)
	}
}

func checkHash(t *testing.T, scheme, stored, salt, password string) {
	t.Helper()
	s, err := parseHashScheme(scheme)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.password(stored, salt)
	if err != nil {
		t.Errorf("%s: %v", scheme, err)
		return
	}
	for given, want := range map[string]bool{password: true, password + "x": false, "": false, stored: stored == password} {
		if !want && strings.HasPrefix(stored, "$2a$12$") {
			continue // each takes seconds; those of less cost try it
		}
		if got := p.Verify([]byte(given)); got != want {
			t.Errorf("%s: password %q is right: %v", scheme, given, got)
		}
	}
	if strings.Contains(p.Stored, password) != (s.name == "plain") && password != scheme {
		t.Errorf("%s: %q", scheme, p.Stored)
	}
	if s.salt == saltNone {
		return
	}
	if other, err := s.password(stored, salt+"x"); err == nil && s.name != "bcrypt" && other.Verify([]byte(password)) {
		t.Errorf("%s: another salt, and the password is right all the same", scheme)
	}
}

func TestHashSchemesRefused(t *testing.T) {
	for _, text := range []string{"", "sha3", "salt,", "salt,pbkdf2", "pbkdf2", "pbkdf2,sha256,0,20", "pbkdf2,sha256,1000,0", "pbkdf2,md4,1000,20", "pbkdf2,sha256,99999999999,20", "a,b,c"} {
		if _, err := parseHashScheme(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	for scheme, stored := range map[string]string{"sha256": "abc", "md5": strings.Repeat("zz", 16), "bcrypt": "$2y$16$rEVsDarhgHYB0TGnDFJzyu", "pbkdf2,sha256,10,20": "00"} {
		s, err := parseHashScheme(scheme)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.password(stored, "salt"); err == nil {
			t.Errorf("%s: %q is taken for a hash", scheme, stored)
		}
	}
	s, _ := parseHashScheme("bcrypt")
	if _, err := s.password("$2a$31$sSS8Eg.ovVzaHzi1nUHYK.HbUIOdlQI0iS22Q5rd5z.JVVYH6sfm6", ""); err == nil {
		t.Error("a hash that takes days is accepted")
	}
}
