package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// The tags of RFC 9052 section 2, as the one byte that begins a message.
const (
	tagMac0  = 0xc0 | 17 // COSE_Mac0
	tagSign1 = 0xc0 | 18 // COSE_Sign1
)

// Algorithms of COSE: RFC 9053 sections 2.2 and 3.1, RFC 9864.
const (
	coseEdDSA   = -8
	coseEd25519 = -19
	coseHS256   = 5
)

// cborEncoder writes deterministically (RFC 8949 section 4.2.1).
var cborEncoder = func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constant options
	}
	return mode
}()

// cborDecoder refuses what two readers could understand differently, and what costs
// more than its bytes.
var cborDecoder = func() cbor.DecMode {
	simple, err := cbor.NewSimpleValueRegistryFromDefaults(
		cbor.WithRejectedSimpleValue(22), cbor.WithRejectedSimpleValue(23)) // null, undefined
	if err != nil {
		panic(err)
	}
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  maxEntries,
		MaxMapPairs:       32, // the header has 15, a record with all tags 22
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		SimpleValues:      simple,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
	}.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	return mode
}()

// coseParts is COSE_Sign1 and COSE_Mac0 alike (RFC 9052 sections 4.2 and 6.2).
type coseParts struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

// coseHeader is the protected header. The registered labels are those of RFC 9052
// section 3.1; alg is an integer and kid a byte string there.
type coseHeader struct {
	Alg     int64  `cbor:"1,keyasint"`
	Kid     []byte `cbor:"4,keyasint"`
	Version uint32 `cbor:"v"`
	Gateway string `cbor:"gw"`
	Device  string `cbor:"dev"`
	Epoch   string `cbor:"epoch"`
	Seq     uint64 `cbor:"seq"`
	Floor   uint64 `cbor:"floor"`
	N       uint32 `cbor:"n"`
	Total   uint64 `cbor:"total"`
	Topic   string `cbor:"topic"`
	Boot    string `cbor:"boot"`
	Mono    uint64 `cbor:"mono"`
	Clock   string `cbor:"clock"`
	Type    string `cbor:"type"`
}

// mapOfAll begins a map of as many pairs as the header has labels. Together with no
// unknown and no double label it means that every label is there.
const mapOfAll = 0xa0 | 15

func sealCBOR(h Header, entries []entry, k *PrivateKey) (Message, error) {
	payload, err := encodeSenMLCBOR(entries)
	if err != nil {
		return Message{}, err
	}
	ch := coseHeader{
		Kid: []byte(h.Kid), Version: uint32(h.Version), Gateway: h.Gateway, Device: h.Device, Epoch: h.Epoch,
		Seq: h.Seq, Floor: h.Floor, N: uint32(h.N), Total: h.Total, Topic: h.Topic, Boot: h.Boot,
		Mono: uint64(h.Mono), Clock: h.Clock, Type: h.Type,
	}
	tag := byte(tagSign1)
	ch.Alg = coseEdDSA
	if h.Alg == algHS256 {
		tag, ch.Alg = tagMac0, coseHS256
	}
	protected, err := cborEncoder.Marshal(ch)
	if err != nil {
		return Message{}, err
	}
	signature := k.sign(toBeSigned(tag, protected, payload))

	b := make([]byte, 0, coseSize(protected, payload, signature))
	b = append(b, tag, 0x84)
	b = appendBytes(b, protected)
	b = append(b, 0xa0) // nothing is unprotected
	b = appendBytes(b, payload)
	b = appendBytes(b, signature)
	return Message{Topic: h.Topic, ContentType: ContentTypeCOSE, Payload: b}, nil
}

// toBeSigned is Sig_structure (RFC 9052 section 4.4) or MAC_structure (section 6.3),
// external_aad empty.
func toBeSigned(tag byte, protected, payload []byte) []byte {
	return appendToBeSigned(make([]byte, 0, len(protected)+len(payload)+32), tag, protected, payload)
}

func appendToBeSigned(b []byte, tag byte, protected, payload []byte) []byte {
	context := "Signature1"
	if tag == tagMac0 {
		context = "MAC0"
	}
	b = append(b, 0x84)
	b = append(b, 0x60|byte(len(context)))
	b = append(b, context...)
	b = appendBytes(b, protected)
	b = append(b, 0x40)
	return appendBytes(b, payload)
}

// coseSize is the length of a message with these parts: tag, array, empty map, and
// three byte strings with the shortest head.
func coseSize(parts ...[]byte) int {
	size := 3
	for _, p := range parts {
		switch n := len(p); {
		case n < 24:
			size += 1 + n
		case n < 1<<8:
			size += 2 + n
		case n < 1<<16:
			size += 3 + n
		default:
			size += 5 + n
		}
	}
	return size
}

// appendBytes appends a byte string with the shortest head (RFC 8949 section 3).
func appendBytes(b, s []byte) []byte {
	const major = 2 << 5
	switch n := len(s); {
	case n < 24:
		b = append(b, major|byte(n))
	case n < 1<<8:
		b = append(b, major|24, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return append(b, s...)
}

func openCOSE(m Message, w *scratch) (opened, error) {
	if m.JWS != "" {
		return opened{}, errors.New("a COSE message with a JWS beside it")
	}
	if len(m.Payload) == 0 || m.Payload[0] != tagSign1 && m.Payload[0] != tagMac0 {
		return opened{}, errors.New("neither a tagged COSE_Sign1 nor a tagged COSE_Mac0")
	}
	if s, ok := openWrittenCOSE(m.Payload, w); ok {
		return s, nil
	}
	return openAnyCOSE(m.Payload)
}

// openAnyCOSE takes a message apart that is spelled in any way that is allowed.
func openAnyCOSE(b []byte) (opened, error) {
	tag := b[0]
	var parts coseParts
	if err := cborDecoder.Unmarshal(b[1:], &parts); err != nil {
		return opened{}, fmt.Errorf("COSE: %w", err)
	}
	if !bytes.Equal(parts.Unprotected, []byte{0xa0}) {
		return opened{}, errors.New("COSE: the unprotected header is not empty")
	}
	if len(b) != coseSize(parts.Protected, parts.Payload, parts.Signature) {
		// These bytes are not signed: a second spelling would be another message with the same signature.
		return opened{}, errors.New("COSE: a length is not written in the shortest way")
	}
	h, err := parseCOSEHeader(tag, parts.Protected)
	if err != nil {
		return opened{}, fmt.Errorf("COSE protected header: %w", err)
	}
	return opened{
		header:    h,
		payload:   parts.Payload,
		signed:    toBeSigned(tag, parts.Protected, parts.Payload),
		signature: parts.Signature,
	}, nil
}

func parseCOSEHeader(tag byte, b []byte) (Header, error) {
	if len(b) == 0 || b[0] != mapOfAll {
		return Header{}, fmt.Errorf("not a map of the %d fields of version 1", len(labels))
	}
	var ch coseHeader
	if err := cborDecoder.Unmarshal(b, &ch); err != nil {
		return Header{}, err
	}
	var alg string
	switch {
	case tag == tagSign1 && ch.Alg == coseEdDSA:
		alg = algEdDSA
	case tag == tagSign1 && ch.Alg == coseEd25519:
		alg = algEd25519
	case tag == tagMac0 && ch.Alg == coseHS256:
		alg = algHS256
	default:
		return Header{}, fmt.Errorf("alg %d with tag %d", ch.Alg, tag&0x1f)
	}
	// What does not fit becomes negative, or is no longer Version: check refuses it.
	return Header{
		Alg: alg, Kid: string(ch.Kid), Version: int(ch.Version), Gateway: ch.Gateway, Device: ch.Device,
		Epoch: ch.Epoch, Seq: ch.Seq, Floor: ch.Floor, N: int(ch.N), Total: ch.Total, Topic: ch.Topic, Boot: ch.Boot,
		Mono: int64(ch.Mono), Clock: ch.Clock, Type: ch.Type,
	}, nil
}
