package auth

import (
	"bytes"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// hashScheme is how the passwords of a table are stored, written as EMQX 4 writes it: "plain", "sha256",
// "salt,sha256" (the salt goes before the password), "sha256,salt" (behind it), "bcrypt", "salt,bcrypt",
// "pbkdf2,sha256,1000,20" (mac function, iterations, length of the key).
type hashScheme struct {
	text       string // as it was written
	name       string // plain, md5, sha, sha256, bcrypt, pbkdf2
	salt       saltPlace
	digest     func() hash.Hash // of all but plain and bcrypt
	iterations int              // of pbkdf2
	length     int              // of pbkdf2: of the key in bytes
}

type saltPlace uint8

const (
	saltNone saltPlace = iota
	saltBefore
	saltBehind
)

// Bounds of what a stored hash may cost to check: more than this is a mistake, or an attack on the broker by whoever may write the table.
const (
	maxIterations = 10_000_000
	maxKeyLength  = 1024
)

var digests = map[string]func() hash.Hash{
	"md5": md5.New, "sha": sha1.New, "sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New,
}

// parseHashScheme reads EMQX's password_hash.
func parseHashScheme(text string) (s hashScheme, err error) {
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	switch {
	case len(parts) == 2 && parts[0] == "salt":
		s.name, s.salt = parts[1], saltBefore
	case len(parts) == 2 && parts[1] == "salt":
		s.name, s.salt = parts[0], saltBehind
	case len(parts) == 4 && parts[0] == "pbkdf2":
		s, err = pbkdf2Scheme(parts[1], parts[2], parts[3])
		s.text = text
		return s, err
	case len(parts) == 1:
		s.name = parts[0]
	}
	s.text, s.digest = text, digests[s.name]
	switch s.name {
	case "plain", "md5", "sha", "sha256", "bcrypt":
		return s, nil
	}
	return s, fmt.Errorf(`%q is not a way to store passwords: plain, md5, sha, sha256 or bcrypt, with "salt," before or ",salt" behind it, or pbkdf2 as "pbkdf2,sha256,1000,20"`, text)
}

func pbkdf2Scheme(mac, iterations, length string) (s hashScheme, err error) {
	s = hashScheme{name: "pbkdf2", salt: saltBefore, digest: digests[mac]}
	if s.digest == nil {
		return s, fmt.Errorf("pbkdf2 with %q is not possible: md5, sha, sha224, sha256, sha384 or sha512 (md4 and ripemd160 are not built in)", mac)
	}
	if s.iterations, err = strconv.Atoi(iterations); err != nil || s.iterations < 1 || s.iterations > maxIterations {
		return s, fmt.Errorf("pbkdf2 with %q iterations: 1 to %d", iterations, maxIterations)
	}
	if s.length, err = strconv.Atoi(length); err != nil || s.length < 1 || s.length > maxKeyLength {
		return s, fmt.Errorf("pbkdf2 with a key of %q bytes: 1 to %d", length, maxKeyLength)
	}
	return s, nil
}

// weak says that a stolen table gives away the passwords at once or nearly so.
func (s hashScheme) weak() bool { return s.name != "bcrypt" && s.name != "pbkdf2" }

// password is what a stored hash asks of a client. An error says that the table holds something else than the scheme:
// then nobody can be let in.
func (s hashScheme) password(stored, salt string) (*Password, error) {
	p := &Password{Stored: fmt.Sprintf("%s %q %q", s.text, salt, stored)}
	switch s.name {
	case "plain":
		p.Fast = true
		p.Verify = func(password []byte) bool { return same([]byte(stored), s.salted(password, salt)) }
	case "bcrypt":
		// The salt of bcrypt is "$2b$10$" and 22 characters, and begins the hash. EMQX hashes with the salt of the other column.
		if s.salt != saltNone && (len(salt) < 29 || !strings.HasPrefix(stored, salt[:29])) {
			p.Verify = func([]byte) bool { return false }
			return p, nil
		}
		return bcryptPassword(stored)
	case "pbkdf2":
		want, err := s.hex(stored, s.length)
		if err != nil {
			return nil, err
		}
		p.Verify = func(password []byte) bool {
			key, err := pbkdf2.Key(s.digest, string(password), []byte(salt), s.iterations, s.length)
			return err == nil && same(want, key)
		}
	default:
		want, err := s.hex(stored, s.digest().Size())
		if err != nil {
			return nil, err
		}
		p.Fast = true
		p.Verify = func(password []byte) bool {
			h := s.digest()
			h.Write(s.salted(password, salt))
			return same(want, h.Sum(nil))
		}
	}
	return p, nil
}

func (s hashScheme) salted(password []byte, salt string) []byte {
	switch s.salt {
	case saltBefore:
		return append([]byte(salt), password...)
	case saltBehind:
		return append(bytes.Clone(password), salt...)
	}
	return password
}

func (s hashScheme) hex(stored string, size int) ([]byte, error) {
	sum, err := hex.DecodeString(stored)
	if err != nil || len(sum) != size {
		return nil, fmt.Errorf("what is stored is not %d hexadecimal digits, so it was not made with %q; set password_hash to what made it", 2*size, s.text)
	}
	return sum, nil
}

func same(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// bcryptPassword reads $2a$, $2b$ and $2y$, which are one algorithm.
func bcryptPassword(stored string) (*Password, error) {
	if !strings.HasPrefix(stored, "$2") || len(stored) != 60 {
		return nil, errors.New("what is stored is not a bcrypt hash ($2a$, $2b$ or $2y$, 60 characters in all)")
	}
	return ParseHash(stored)
}
