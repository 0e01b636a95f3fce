package wire

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// Voucher is a signing key's word for the key of a TLS certificate: both belong to one gateway. It goes with a request for
// a certificate, and proves that whoever asks holds the signing key as well.
type Voucher struct {
	JWK json.RawMessage `json:"jwk"` // the public signing key
	JWS string          `json:"jws"` // detached, by that key
}

// voucherType keeps a voucher apart from what else a key signs.
const voucherType = "holdfast-enrolment"

// Vouch signs that the gateway's TLS key, given as its SubjectPublicKeyInfo (DER), belongs to who has this signing key.
// An HMAC key cannot: whoever is to verify it would need its secret.
func Vouch(k *PrivateKey, gateway string, tlsKey []byte) (*Voucher, error) {
	if k.public.Secret() {
		return nil, errors.New("an HMAC key cannot be handed in at enrolment, its secret would have to travel: use `holdfast-broker device add` with the key file")
	}
	if !validName(gateway) || len(tlsKey) == 0 {
		return nil, fmt.Errorf("vouch for a key of gateway %q: not valid", clip(gateway))
	}
	return &Voucher{JWK: k.public.JWK(), JWS: signDetached(typedHeader(k, voucherType), vouched(gateway, tlsKey), k)}, nil
}

// vouched is the payload. It is made from the parts, so there is no second spelling of it.
func vouched(gateway string, tlsKey []byte) []byte {
	sum := sha256.Sum256(tlsKey)
	b := appendString([]byte(`{"gw":`), gateway)
	b = appendString(append(b, `,"spki":`...), b64.EncodeToString(sum[:]))
	return append(b, '}')
}

// VerifyVoucher checks a voucher for this gateway and this TLS key, and returns the signing key that is handed in. Its
// errors are those of Verify.
func VerifyVoucher(v Voucher, gateway string, tlsKey []byte) (PublicKey, error) {
	key, err := ParsePublicKey(v.JWK)
	if err != nil {
		return PublicKey{}, malformed(fmt.Errorf("voucher: %w", err))
	}
	if key.Secret() || !validName(gateway) {
		return PublicKey{}, malformed(errors.New("voucher: not of an Ed25519 key of a gateway"))
	}
	d, err := splitDetached(v.JWS, vouched(gateway, tlsKey), &scratch{})
	if err != nil {
		return PublicKey{}, malformed(fmt.Errorf("voucher: %w", err))
	}
	alg, kid, err := parseTypedHeader(string(d.header), voucherType)
	if err != nil {
		return PublicKey{}, malformed(fmt.Errorf("voucher header: %w", err))
	}
	if err := key.verify(alg, kid, d.signed, d.signature); err != nil {
		return PublicKey{}, fmt.Errorf("voucher: %w", err)
	}
	return key, nil
}
