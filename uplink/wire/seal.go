package wire

import (
	"errors"
	"fmt"
)

// Seal signs a pack. It fills in the header's Alg, Kid and Version and takes the rest
// as given; Gateway, Device and N must be those of the pack. It refuses what a strict
// reader of RFC 8428 could not read back: NaN and infinite numbers, invalid UTF-8,
// names outside the alphabet, and a time before 1978-07-04 (2^28 s), which a reader
// would take as relative to now (section 4.5.3).
func Seal(f Format, h Header, p Pack, k *PrivateKey) (Message, error) {
	m, err := seal(f, h, p, k)
	if err != nil {
		return Message{}, fmt.Errorf("seal %s/%s %d: %w", clip(h.Gateway), clip(h.Device), h.Seq, err)
	}
	return m, nil
}

func seal(f Format, h Header, p Pack, k *PrivateKey) (Message, error) {
	h.Alg, h.Kid, h.Version = k.Alg(), k.Kid(), Version
	if err := h.check(); err != nil {
		return Message{}, err
	}
	if err := h.matches(p); err != nil {
		return Message{}, err
	}
	entries, err := flatten(p)
	if err != nil {
		return Message{}, err
	}
	switch f {
	case JSON:
		return sealJSON(h, appendSenMLJSON(nil, entries), k)
	case CBOR:
		return sealCBOR(h, entries, k)
	}
	return Message{}, fmt.Errorf("format %q is neither %q nor %q", string(f), JSON, CBOR)
}

// matches says whether a header and a pack speak of the same readings.
func (h *Header) matches(p Pack) error {
	if h.Gateway != p.Gateway || h.Device != p.Device {
		return fmt.Errorf("header is of %s/%s, pack of %s/%s", h.Gateway, h.Device, clip(p.Gateway), clip(p.Device))
	}
	if h.N != len(p.Records) {
		return fmt.Errorf("header counts %d readings, the pack has %d", h.N, len(p.Records))
	}
	if h.Type != TypeData && len(p.Tags) > 0 {
		return errors.New("the gateway's own messages have no tags")
	}
	if h.Type != TypeData && (len(p.Records) != 1 || p.Records[0].Name != h.Type || p.Records[0].VS == nil) {
		return fmt.Errorf("a message of type %s has one text record of that name", h.Type)
	}
	return nil
}
