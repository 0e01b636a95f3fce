package agent

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/devices"
	"holdfast/uplink/wire"
)

// Identity is who a gateway is: its name and the key that proves it.
type Identity struct {
	Gateway  string
	Key      *wire.PrivateKey
	Previous *wire.PrivateKey // the key that Key replaced, until the broker heard of it; nil: none
	Created  bool             // Key was made just now: the broker does not know it
}

// OpenIdentity loads the identity that cfg names. What does not exist yet is made and
// kept; what is damaged or readable by others is an error, never replaced. random nil:
// crypto/rand.
func OpenIdentity(cfg Config, random io.Reader) (Identity, error) {
	if random == nil {
		random = rand.Reader
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("gateway.data_dir: %w", err)
	}
	id := Identity{Gateway: cfg.GatewayID}
	var err error
	if id.Gateway == "" {
		if id.Gateway, err = keptID(cfg.DataDir, random); err != nil {
			return Identity{}, err
		}
	}
	if why := badName(id.Gateway); why != "" {
		return Identity{}, fmt.Errorf("gateway.id %s", why)
	}
	if id.Key, id.Created, err = openKey(cfg, random); err != nil {
		return Identity{}, err
	}
	id.Previous, err = openPrevious(cfg.keyPath(), id.Key)
	return id, err
}

// RotateIdentity replaces the signing key. The running agent keeps the old one; its
// next start opens an epoch signed by both. Previous is the key replaced.
func RotateIdentity(cfg Config, random io.Reader) (Identity, error) {
	if random == nil {
		random = rand.Reader
	}
	id, err := OpenIdentity(withAlgorithmOfKey(cfg), random)
	if err != nil {
		return Identity{}, err
	}
	id.Previous, id.Key, err = rotateKey(cfg, random)
	return id, err
}

// withAlgorithmOfKey: rotation is also the way from one algorithm to the other.
func withAlgorithmOfKey(cfg Config) Config {
	if key, err := loadKey(cfg.keyPath()); err == nil {
		cfg.Algorithm = map[string]string{"EdDSA": wire.Ed25519, "HS256": wire.HMACSHA256}[key.Alg()]
	}
	return cfg
}

// appID makes the gateway's id another than any other program's on this machine
// (machine-id(5): the id itself must not be told to others).
var appID = [16]byte{0x6b, 0x1f, 0x0d, 0x52, 0x83, 0xc4, 0x4e, 0x0a, 0x9d, 0x27, 0x51, 0xee, 0x3b, 0x96, 0x70, 0xd8}

// keptID returns the id of the first run, made from the machine id then. A card that
// moves to another board keeps it.
func keptID(dataDir string, random io.Reader) (string, error) {
	path := filepath.Join(dataDir, "gateway-id")
	b, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(b))
		if !devices.ValidName(id) {
			return "", fmt.Errorf("%s: %q is not a gateway id: write the right one into it, or set gateway.id", path, id)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("gateway id: %w", err)
	}
	id, err := machineHash("/etc/machine-id", random)
	if err != nil {
		return "", fmt.Errorf("gateway id: %w", err)
	}
	return id, replaceFile(path, id+"\n")
}

// machineHash is sd_id128_get_machine_app_specific(3): HMAC-SHA256 of the application's
// id keyed by the machine's, cut to a version 4 UUID. Without a machine id it is random.
func machineHash(file string, random io.Reader) (string, error) {
	var sum [32]byte
	b, _ := os.ReadFile(file)
	if machine, err := hex.DecodeString(strings.TrimSpace(string(b))); err == nil && len(machine) == 16 {
		mac := hmac.New(sha256.New, machine)
		mac.Write(appID[:])
		mac.Sum(sum[:0])
	} else if _, err := io.ReadFull(random, sum[:]); err != nil {
		return "", err
	}
	sum[6] = sum[6]&0x0f | 0x40
	sum[8] = sum[8]&0x3f | 0x80
	return hex.EncodeToString(sum[:16]), nil
}
