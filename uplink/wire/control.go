package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Numbers is how far a device had come in an epoch.
type Numbers struct {
	Seq   uint64 `json:"seq"`
	Total uint64 `json:"total"`
}

// Open is the first message of an epoch.
type Open struct {
	PrevEpoch   string             `json:"prev_epoch,omitempty"`  // "" for the first ever
	Cause       string             `json:"cause"`                 // "first", "power-cut", "journal-damaged", "reboot", "key-rotation", "board-changed", …
	Boot        string             `json:"boot"`                  //
	Durable     map[string]Numbers `json:"durable,omitempty"`     // by device: last numbers of PrevEpoch known to be durable
	Uncertain   bool               `json:"uncertain,omitempty"`   // messages beyond Durable may have been sent
	Endorsement *Endorsement       `json:"endorsement,omitempty"` // a new key, vouched for by the old one
}

// Anchor ties the monotonic time of a boot to UTC.
type Anchor struct {
	Boot       string `json:"boot"`
	Mono       int64  `json:"mono"`        // µs since boot
	UTC        string `json:"utc"`         // RFC 3339, the same instant
	ErrorBound int64  `json:"error_bound"` // µs either way
}

// Drop is the receipt for readings that were discarded.
type Drop struct {
	Ranges []DropRange `json:"ranges"`
}

// DropRange is a run of messages that will never come.
type DropRange struct {
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	First    uint64 `json:"first"` // seq
	Last     uint64 `json:"last"`  // seq, inclusive
	Readings uint64 `json:"readings"`
	Reason   string `json:"reason"`
}

// Close says that nothing more of an old epoch will come.
type Close struct {
	Epoch     string             `json:"epoch"`
	Durable   map[string]Numbers `json:"durable,omitempty"`   // by device: the last numbers
	Uncertain bool               `json:"uncertain,omitempty"` // numbers beyond Durable may have been used
}

// ControlPack makes the pack of a control message: one text record named typ (TypeOpen
// and so on) whose value is the JSON of body.
func ControlPack(gateway string, base time.Time, typ string, body any) (Pack, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return Pack{}, fmt.Errorf("control message %s: %w", typ, err)
	}
	text := string(b)
	return Pack{
		Gateway: gateway,
		Device:  ControlDevice,
		Base:    base,
		Records: []Record{{Name: typ, VS: &text}},
	}, nil
}

// ParseControl reads the body of a control message into a pointer to Open, Anchor,
// Drop or Close, whichever the header's type says. Fields that body does not have are
// ignored: a newer gateway may say more. It wraps ErrMalformed.
func ParseControl(p Pack, body any) error {
	if p.Device != ControlDevice || len(p.Records) != 1 || p.Records[0].VS == nil {
		return malformed(errors.New("not a control message"))
	}
	if err := json.Unmarshal([]byte(*p.Records[0].VS), body); err != nil {
		return malformed(fmt.Errorf("control message %s: %w", p.Records[0].Name, err))
	}
	return nil
}
