package broker

import (
	"errors"
	"time"

	"holdfast/uplink/wire"
)

// Outcome is what the ledger knows of a message that is offered.
type Outcome int

// The outcomes.
const (
	New       Outcome = iota // never seen: store it
	Duplicate                // stored before: acknowledge it, do not store it again
	Pending                  // an identical one is in a batch not yet stored: acknowledge it with that one
	Conflict                 // other bytes were seen under this identity: store it as well (it is evidence)
)

// Ledger is the account of what every gateway numbered: a pure function of the log,
// but for the count of duplicates, which are not logged. Safe for concurrent use.
type Ledger struct{}

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{} }

// Offer says what to do with a verified message. After New and Conflict the caller
// owes a Commit or an Abort of the same message.
func (l *Ledger) Offer(v *wire.Verified) Outcome { return New }

// Commit enters a stored message: called in log order once stored, and again on
// replay at start. control is the decoded pack of a control message, else nil; at is
// the arrival time that the log record carries.
func (l *Ledger) Commit(v *wire.Verified, control *wire.Pack, p Position, at time.Time) {}

// Abort takes back an Offer: its batch was not stored.
func (l *Ledger) Abort(v *wire.Verified) {}

// Snapshot returns the whole ledger as bytes and the position of the last Commit in it.
func (l *Ledger) Snapshot() ([]byte, Position) { return nil, Position{} }

// Restore replaces the ledger by a snapshot and returns its position: replay goes on
// behind it. Damage is an error and leaves the ledger as it was.
func (l *Ledger) Restore(b []byte) (Position, error) { return Position{}, errors.ErrUnsupported }
