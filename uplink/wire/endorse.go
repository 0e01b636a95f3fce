package wire

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Endorsement is the old key's word for the new one. It travels in the Open of the
// epoch that the new key signs: that epoch is signed by both keys.
type Endorsement struct {
	JWK json.RawMessage `json:"jwk"` // the new public key
	JWS string          `json:"jws"` // detached, by the old key
}

// endorsementType keeps the two uses of a key apart: a message header has no "typ",
// an endorsement must have this one.
const endorsementType = "holdfast-endorsement"

// Endorse vouches with the old key for the new one, from this epoch of this gateway
// on. A new HMAC key cannot be endorsed: the broker would need its secret.
func Endorse(old *PrivateKey, gateway, epoch string, key PublicKey) (*Endorsement, error) {
	if key.Secret() {
		return nil, errors.New("an HMAC key cannot be announced over the wire, its secret would have to travel: " +
			"use `holdfast-broker device add` with the key file")
	}
	if !validName(gateway) || !validEpoch(epoch) || key.kid == "" {
		return nil, fmt.Errorf("endorse %s for gateway %q, epoch %q: not valid", key, clip(gateway), clip(epoch))
	}
	return &Endorsement{JWK: key.JWK(), JWS: signDetached(typedHeader(old, endorsementType), endorsed(gateway, epoch, key), old)}, nil
}

// typedHeader is the header of what a key signs that is no message.
func typedHeader(k *PrivateKey, typ string) []byte {
	header := appendString([]byte(`{"alg":`), k.Alg())
	header = appendString(append(header, `,"kid":`...), k.Kid())
	header = appendString(append(header, `,"typ":`...), typ)
	return append(header, '}')
}

// endorsed is the payload that the old key signs. It is made from the parts, so there
// is no second spelling of it.
func endorsed(gateway, epoch string, key PublicKey) []byte {
	b := appendString([]byte(`{"epoch":`), epoch)
	b = appendString(append(b, `,"gw":`...), gateway)
	b = append(b, `,"jwk":{"crv":"Ed25519","kty":"OKP","x":`...) // the members of RFC 7638
	b = appendString(b, b64.EncodeToString(key.ed))
	return append(b, '}', '}')
}

// VerifyEndorsement checks the old key's word, for this gateway and this epoch, and
// returns the new key and the kid of the old one. Its errors are those of Verify.
func VerifyEndorsement(e Endorsement, gateway, epoch string, keys Keys) (key PublicKey, oldKid string, err error) {
	key, err = ParsePublicKey(e.JWK)
	if err != nil {
		return PublicKey{}, "", malformed(fmt.Errorf("endorsement: %w", err))
	}
	if key.Secret() || !validName(gateway) || !validEpoch(epoch) {
		return PublicKey{}, "", malformed(errors.New("endorsement: not of an Ed25519 key for an epoch of a gateway"))
	}
	d, err := splitDetached(e.JWS, endorsed(gateway, epoch, key), &scratch{})
	if err != nil {
		return PublicKey{}, "", malformed(fmt.Errorf("endorsement: %w", err))
	}
	alg, kid, err := parseTypedHeader(string(d.header), endorsementType)
	if err != nil {
		return PublicKey{}, "", malformed(fmt.Errorf("endorsement header: %w", err))
	}
	old, err := keys.Key(gateway, kid)
	if err != nil {
		return PublicKey{}, "", fmt.Errorf("endorsement: key %q of gateway %s: %w", clip(kid), gateway, err)
	}
	if err := old.verify(alg, kid, d.signed, d.signature); err != nil {
		return PublicKey{}, "", fmt.Errorf("endorsement: %w", err)
	}
	return key, kid, nil
}

// parseTypedHeader reads {"alg","kid","typ"}: all three, no other, in any order.
func parseTypedHeader(s, typ string) (alg, kid string, err error) {
	sc := scanner{s: s}
	if !sc.take('{') {
		return "", "", sc.fail("expected an object")
	}
	values := map[string]string{}
	for more := true; more; {
		label, err := sc.name()
		if err != nil {
			return "", "", err
		}
		if _, twice := values[label]; twice || label != "alg" && label != "kid" && label != "typ" {
			return "", "", fmt.Errorf("%q does not belong there", clip(label))
		}
		if values[label], err = sc.str(); err != nil {
			return "", "", err
		}
		if more, err = sc.next('}'); err != nil {
			return "", "", err
		}
	}
	if len(values) != 3 || values["typ"] != typ || !validKid(values["kid"]) {
		return "", "", errors.New("alg, kid and typ are not what belongs there")
	}
	return values["alg"], values["kid"], sc.end()
}

// VerifyRotation verifies the opening message of an epoch that a new key signs and
// the old one endorses: both signatures must be good. It returns the new key, to be
// registered, and the kid of the old one, to be retired. keys must know the old key
// only.
func VerifyRotation(m Message, keys Keys) (v Verified, key PublicKey, oldKid string, err error) {
	h, err := Inspect(m)
	if err != nil {
		return v, key, "", err
	}
	if h.Type != TypeOpen {
		return v, key, "", fmt.Errorf("%w: %q, and a message of type %s introduces no key", ErrUnknownKey, clip(h.Kid), h.Type)
	}
	p, err := Decode(m)
	if err != nil {
		return v, key, "", err
	}
	var open Open
	if err := ParseControl(p, &open); err != nil {
		return v, key, "", err
	}
	if open.Endorsement == nil {
		return v, key, "", fmt.Errorf("%w: %q, and no known key endorses it", ErrUnknownKey, clip(h.Kid))
	}
	key, oldKid, err = VerifyEndorsement(*open.Endorsement, h.Gateway, h.Epoch, keys)
	if err != nil {
		return v, PublicKey{}, "", err
	}
	v, err = Verify(m, NewKeySet(key))
	if err != nil {
		return Verified{}, PublicKey{}, "", err
	}
	return v, key, oldKid, nil
}
