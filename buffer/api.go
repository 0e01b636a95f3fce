package buffer

import (
	"context"
	"time"
)

// Buffer is an open store. All methods may be called concurrently; one goroutine
// seals for one device.
type Buffer struct{}

// Open opens or creates the store. Damage never fails it: see Opened.
func Open(cfg Config, env Env) (*Buffer, error) { return nil, ErrClosed }

// Opened says how the buffer opened.
func (b *Buffer) Opened() Opening { return Opening{} }

// Take journals raw readings before they are batched; it copies raw. due asks for
// everything to be sealed now, because CommitCount readings wait.
func (b *Buffer) Take(device string, readings int, raw []byte) (due bool, err error) {
	return false, ErrClosed
}

// Unsealed returns the raw readings that a dead process left, in order. They stay
// taken: the messages that replace them count them in Meta.Raws.
func (b *Buffer) Unsealed() []Raw { return nil }

// Next gives the number of the device's next message. It is final with Append; until
// then it is given again.
func (b *Buffer) Next(device string, readings int) (Number, error) { return Number{}, ErrClosed }

// Append keeps a sealed message; it copies blob. When it returns nil the message
// survives kill -9. ErrDropped: the buffer is full, the number is used and a Drop recorded.
func (b *Buffer) Append(ctx context.Context, num Number, meta Meta, blob []byte) (pos uint64, err error) {
	return 0, ErrClosed
}

// Full says that nothing more should be taken (WhenFullBlock).
func (b *Buffer) Full() bool { return false }

// Drops returns the ranges given up that no held message reports.
func (b *Buffer) Drops() []Drop { return nil }

// Drained returns the old epochs of which nothing is held and that no held message closes.
func (b *Buffer) Drained() []EpochEnd { return nil }

// LastWall returns the greatest wall time that was kept, for a lower bound of the clock.
func (b *Buffer) LastWall() time.Time { return time.Time{} }

// Bounds returns the lowest position not acknowledged and the next one to be given.
func (b *Buffer) Bounds() (first, next uint64) { return 0, 0 }

// Read yields unacknowledged messages at or after from, in order, until yield returns
// false or there is none; it returns the position to go on from. A blob is valid only
// during its call of yield.
func (b *Buffer) Read(from uint64, yield func(pos uint64, blob []byte) bool) (next uint64, err error) {
	return from, ErrClosed
}

// Ack forgets messages. Any order, duplicates allowed.
func (b *Buffer) Ack(positions []uint64) error { return ErrClosed }

// Quarantine takes a message out of the line and keeps it, bounded; when it has to go
// it becomes a Drop with this reason.
func (b *Buffer) Quarantine(pos uint64, reason string) error { return ErrClosed }

// Changed yields after Bounds may have grown (coalesced; one receiver).
func (b *Buffer) Changed() <-chan struct{} { return nil }

// Sync commits everything to the card.
func (b *Buffer) Sync(ctx context.Context) error { return ErrClosed }

// Stats returns a snapshot.
func (b *Buffer) Stats() Stats { return Stats{} }

// Reload takes new bounds (MaxBytes, MaxAge, WhenFull, CommitInterval, CommitCount).
func (b *Buffer) Reload(cfg Config) error { return ErrClosed }

// Close commits what is in memory, marks the end as clean and frees the directory.
func (b *Buffer) Close(ctx context.Context) error { return ErrClosed }

// Held is a message as the offline tools show it.
type Held struct {
	Pos      uint64 `json:"pos"`
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	Seq      uint64 `json:"seq"`
	Total    uint64 `json:"total"`
	Readings int    `json:"readings"`
	Control  bool   `json:"control"`
	State    string `json:"state"` // "waiting", "quarantined", "aside"
	Where    string `json:"where"` // "journal", "ring", "segment", or the path of a set-aside store
	Blob     []byte `json:"-"`
}

// Report is what Repair did.
type Report struct {
	Stores    int      `json:"stores"`    // set-aside stores read
	Found     int      `json:"found"`     // intact messages in them
	Restored  int      `json:"restored"`  // put back in line
	Known     int      `json:"known"`     // acknowledged or held already
	Damaged   int      `json:"damaged"`   // damaged blocks
	Remaining []string `json:"remaining"` // stores kept because something in them is unreadable
}

// Inspect returns the state of a data directory that no agent uses at the moment.
// runtimeDir may be "".
func Inspect(dataDir, runtimeDir string) (Stats, error) { return Stats{}, ErrClosed }

// Export yields every message of a data directory that no agent uses, set-aside and
// quarantined ones included, until yield returns false. A blob is valid only during
// its call of yield.
func Export(dataDir, runtimeDir string, yield func(Held) bool) error { return ErrClosed }

// Repair salvages messages from the set-aside stores and puts those not acknowledged
// back in line. No agent may use the directory.
func Repair(cfg Config, env Env) (Report, error) { return Report{}, ErrClosed }
