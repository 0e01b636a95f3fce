package wire

import (
	"encoding/json"
	"errors"
)

// Endorsement is the old key's word for the new one, in the Open of the new epoch.
type Endorsement struct {
	JWK json.RawMessage `json:"jwk"` // the new public key
	JWS string          `json:"jws"` // detached, by the old key
}

// Endorse vouches with the old key for the new one: from this epoch of this gateway on.
func Endorse(old *PrivateKey, gateway, epoch string, new PublicKey) (*Endorsement, error) {
	return nil, errors.New("not yet")
}

// VerifyEndorsement checks the old key's word and returns the new key and the kid of
// the old one.
func VerifyEndorsement(e Endorsement, gateway, epoch string, keys Keys) (key PublicKey, oldKid string, err error) {
	return PublicKey{}, "", errors.New("not yet")
}
