package auth

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// The hashes that HashPassword makes.
const (
	HashBcrypt = "bcrypt"
	HashArgon2 = "argon2id"
)

// Bounds of what a hash in a file may cost whoever logs in, in processor and memory.
const (
	bcryptMost    = 16 // 4 s on a server's core
	bcryptLonger  = 72 // bytes of a password that bcrypt does not look at any more
	argonMemory   = 256 << 10
	argonTime     = 16
	argonParallel = 16
)

// What HashPassword uses: bcrypt as its users know it, argon2id as RFC 9106 section 4 recommends where memory counts.
const (
	bcryptCost      = 10
	argonMakeTime   = 3
	argonMakeMemory = 64 << 10 // KiB
	argonMakeLanes  = 4
	argonSalt       = 16
	argonLength     = 32
)

// HashPassword makes the hash of a password that ParseHash reads.
func HashPassword(kind string, password []byte, random io.Reader) (string, error) {
	switch {
	case len(password) == 0:
		return "", errors.New("the password is empty")
	case kind == HashBcrypt && len(password) > bcryptLonger:
		return "", fmt.Errorf("bcrypt looks at the first %d bytes of a password only, this one has %d: use argon2id", bcryptLonger, len(password))
	case kind == HashBcrypt:
		hash, err := bcrypt.GenerateFromPassword(password, bcryptCost)
		if err != nil {
			return "", fmt.Errorf("hash the password: %w", err)
		}
		return string(hash), nil
	case kind == HashArgon2:
		salt := make([]byte, argonSalt)
		if _, err := io.ReadFull(random, salt); err != nil {
			return "", fmt.Errorf("no randomness for the salt: %w", err)
		}
		sum := argon2.IDKey(password, salt, argonMakeTime, argonMakeMemory, argonMakeLanes, argonLength)
		return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMakeMemory, argonMakeTime, argonMakeLanes,
			base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum)), nil
	}
	return "", fmt.Errorf("%q is no hash: there are %s and %s", kind, HashBcrypt, HashArgon2)
}

// ParseHash reads a stored hash, $2a$… or $argon2id$…
func ParseHash(stored string) (*Password, error) {
	switch {
	case strings.HasPrefix(stored, "$2"):
		cost, err := bcrypt.Cost([]byte(stored))
		switch {
		case err != nil:
			return nil, errors.New("it is not a whole bcrypt hash")
		case cost > bcryptMost:
			return nil, fmt.Errorf("bcrypt cost %d takes a login many seconds; at most %d", cost, bcryptMost)
		}
		return &Password{Stored: stored, Verify: func(password []byte) bool {
			return bcrypt.CompareHashAndPassword([]byte(stored), password) == nil
		}}, nil
	case strings.HasPrefix(stored, "$argon2id$"):
		return parseArgon(stored)
	case strings.HasPrefix(stored, "$argon2"):
		return nil, errors.New("of the argon2 hashes only argon2id is taken")
	}
	return nil, errors.New(`it is no hash of bcrypt ("$2a$…") or argon2id ("$argon2id$…"); holdfast-broker user passwd NAME makes one`)
}

// parseArgon reads the form that the argon2 command and most libraries write.
func parseArgon(stored string) (*Password, error) {
	bad := errors.New("it is not a whole argon2id hash")
	parts := strings.Split(stored, "$") // "", argon2id, v=19, m=…, salt, sum
	if len(parts) != 6 {
		return nil, bad
	}
	var version int
	var memory, time uint32
	var lanes uint8
	if n, err := fmt.Sscanf(parts[2], "v=%d", &version); n != 1 || err != nil || version != argon2.Version {
		return nil, bad
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &lanes); n != 3 || err != nil || memory == 0 || time == 0 || lanes == 0 {
		return nil, bad
	}
	if memory > argonMemory || time > argonTime || lanes > argonParallel {
		return nil, fmt.Errorf("argon2id with %d KiB, %d passes, %d lanes is too much for a login: at most %d, %d and %d", memory, time, lanes, argonMemory, argonTime, argonParallel)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil || len(salt) < 8 {
		return nil, bad
	}
	sum, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(sum) < 16 || len(sum) > 128 {
		return nil, bad
	}
	return &Password{Stored: stored, Verify: func(password []byte) bool {
		return subtle.ConstantTimeCompare(argon2.IDKey(password, salt, time, memory, lanes, uint32(len(sum))), sum) == 1
	}}, nil
}
