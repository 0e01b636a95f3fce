// Package buffer keeps sealed messages until the uplink has their PUBACK.
//
// # What it promises
//
// A message for which Append returned survives kill -9 at any moment, and so does
// a reading for which Take returned. At the latest Config.CommitInterval after its
// first reading was taken, or when Config.CommitCount readings wait, a message is
// acknowledged or synced to the card: a power cut costs at most that interval. What
// is acknowledged sooner is never written to the card at all. With an interval of
// zero a message is synced before it can be read. A message leaves only when it is
// acknowledged, quarantined, or dropped with a record of the drop that itself waits
// for delivery. No number is given twice for different bytes, power cut included.
// What lies under the data directory never exceeds Config.MaxBytes, and what is
// acknowledged frees its space. No order depends on a wall clock.
//
// # How
//
// Four layers, each message in the first that will do: the journal, a checksummed
// file on tmpfs, which a dead process leaves behind for the next; the ring, a small
// preallocated file rewritten in place, for small commits; segments, each its own
// small Badger store that takes large blocks, is never compacted, and is removed as
// a directory when its last message is acknowledged. The head, two alternating
// checksummed slots, keeps the epoch and the numbers.
//
// # What it will not do
//
// It does not know what a message means, signs nothing, and sends nothing. It does
// not repeat a number after a power cut: it opens a new epoch instead, and tells the
// agent through Opened. It does not repair damage in place: a damaged store is set
// aside whole, its bytes kept for Repair.
package buffer

import (
	"errors"
	"io"
	"log/slog"
	"time"
)

// What lies under the data directory has a format, which is raised when a program of the
// format before could not read it. A program of another format that finds it would set it
// aside as damaged, so updates ask for these numbers (agent/update). A new format is first
// read, and written only by a later version: until then there is a way back.
const (
	FormatOldest = 1 // the oldest that is read
	FormatNewest = 1 // the newest that is read
	FormatWrites = 1 // what is written
)

// Number is what a message is known by, besides its gateway and device.
type Number struct {
	Epoch string // 16 hex digits, random per epoch of the gateway
	Seq   uint64 // counts messages of this device in this epoch, from 1
	Total uint64 // readings of this device in this epoch, this message included
	Floor uint64 // lowest seq of this device still held (or dropped with no receipt delivered)
}

// Meta is what the buffer must know of a message besides its bytes.
type Meta struct {
	Device   string
	Readings int      // readings in the message (n)
	Raws     int      // how many records taken for this device, oldest first, it replaces
	Control  bool     // never evicted
	Receipts []uint64 // ids of the Drops that this message reports
	Closes   string   // the old epoch that this message closes
	Opens    bool     // this message opens the epoch
}

// Config is the [buffer] table of the agent's configuration, composed by the agent.
type Config struct {
	DataDir        string        // on the card
	RuntimeDir     string        // on tmpfs; "" or not a tmpfs: the journal is kept under DataDir
	MaxBytes       int64         // everything of the buffer's under DataDir, in disk blocks
	MaxAge         time.Duration // powered-on time; 0: no limit. A segment (at most 8 MiB) goes whole, when its youngest message is so old
	WhenFull       string        // WhenFullDropOldest (also ""), WhenFullDropNewest, WhenFullBlock
	CommitInterval time.Duration // 0: each message synced before it can be read
	CommitCount    int           // readings; 0: no limit
	MachineID      string        // of the board; a change opens a new epoch
}

// What to do when MaxBytes is reached.
const (
	WhenFullDropOldest = "drop-oldest"
	WhenFullDropNewest = "drop-newest"
	WhenFullBlock      = "block"
)

// MinMaxBytes is the smallest Config.MaxBytes that Open takes.
const MinMaxBytes = 1 << 20

// Env is what the buffer needs of the world, so that tests can hand in another.
type Env struct {
	Log    *slog.Logger
	Now    func() time.Duration // time since boot, suspend included (CLOCK_BOOTTIME)
	Wall   func() time.Time     // only kept for LastWall, orders nothing
	BootID string               // changes with each boot of the machine
	Rand   io.Reader
	KeyID  string // of the signing key; a change opens a new epoch
}

// Numbers are the last numbers of a device in an epoch.
type Numbers struct {
	Seq   uint64 `json:"seq"`
	Total uint64 `json:"total"`
}

// Causes of a new epoch, as Opening.Cause says them.
const (
	CauseFirst          = "first"           // nothing was here
	CausePowerCut       = "power-cut"       // another boot, and the last run did not end cleanly
	CauseJournalLost    = "journal-lost"    // same boot, the journal is gone
	CauseJournalDamaged = "journal-damaged" // same boot, the journal proves nothing
	CauseHeadDamaged    = "head-damaged"    // both copies of the head are unreadable
	CauseKeyRotation    = "key-rotation"    // Env.KeyID changed
	CauseBoardChanged   = "board-changed"   // Config.MachineID changed
	CauseReadOnly       = "read-only"       // the data directory cannot be written
)

// Opening says how the buffer opened. If New, the epoch has no opening message yet:
// the agent seals one from this and appends it with Meta.Opens.
type Opening struct {
	Epoch     string
	New       bool
	PrevEpoch string             // "" for the first
	Cause     string             // why the epoch was opened
	Durable   map[string]Numbers // last numbers of PrevEpoch that are known to be held or sent
	Uncertain bool               // PrevEpoch may have numbers beyond Durable
	OldEpochs []EpochEnd         // epochs before this that have no delivered close message
	SetAside  []string           // what was found damaged by this Open and moved to aside/
	Warnings  []string           // what an operator should know, in plain words
}

// EpochEnd is an old epoch, and the last numbers known of it.
type EpochEnd struct {
	Epoch     string             `json:"epoch"`
	Durable   map[string]Numbers `json:"durable"`
	Uncertain bool               `json:"uncertain"` // it may have had numbers beyond Durable
}

// Raw is a reading, or a few, taken but not sealed.
type Raw struct {
	Device   string
	Readings int
	Data     []byte
}

// Drop is a range of numbers that was given up, with no delivered receipt yet. A
// message of the range may have been delivered: received beats dropped.
type Drop struct {
	ID       uint64 `json:"id"`
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	First    uint64 `json:"first"` // seq
	Last     uint64 `json:"last"`  // seq
	Readings uint64 `json:"readings"`
	Reason   string `json:"reason"`
}

// Reasons of a Drop, besides what Quarantine was given.
const (
	ReasonMaxBytes = "max-bytes"
	ReasonMaxAge   = "max-age"
	ReasonDiskFull = "disk-full"
	ReasonDamaged  = "store-damaged"
)

// Stats is the buffer's state for status and metrics. Counters count since Open.
type Stats struct {
	Epoch         string        `json:"epoch"`
	Messages      uint64        `json:"messages"`       // held and unacknowledged
	Readings      uint64        `json:"readings"`       // in them; exact to a block
	Raws          int           `json:"raws"`           // taken and not sealed
	JournalBytes  int64         `json:"journal_bytes"`  // size of the journal
	JournalTmpfs  bool          `json:"journal_tmpfs"`  // false: on the card, see RuntimeDir
	Volatile      uint64        `json:"volatile"`       // messages that only the journal holds
	RingMessages  uint64        `json:"ring_messages"`  // messages in the ring
	Segments      int           `json:"segments"`       // Badger stores
	DiskBytes     int64         `json:"disk_bytes"`     // what MaxBytes bounds
	MaxBytes      int64         `json:"max_bytes"`      //
	Oldest        time.Duration `json:"oldest"`         // powered-on age of the oldest message
	Drops         int           `json:"drops"`          // ranges with no delivered receipt
	Quarantined   int           `json:"quarantined"`    // messages in quarantine
	AsideBytes    int64         `json:"aside_bytes"`    // damaged stores kept for Repair
	Appended      uint64        `json:"appended"`       // messages
	Acked         uint64        `json:"acked"`          // messages
	Dropped       uint64        `json:"dropped"`        // messages
	Commits       uint64        `json:"commits"`        // synced writes to the card
	CommitBytes   uint64        `json:"commit_bytes"`   // bytes of them
	CommitErrors  uint64        `json:"commit_errors"`  //
	LastError     string        `json:"last_error"`     // of the card, "" once it works again
	StoreDisabled string        `json:"store_disabled"` // why segments cannot be used, "" if they can
	SegmentsAside uint64        `json:"segments_aside"` // set aside since Open
	Drained       int           `json:"epochs_drained"` // old epochs that wait for a close message
	OldEpochs     int           `json:"epochs_old"`     // old epochs not closed
}

// Errors that callers tell apart.
var (
	ErrDropped = errors.New("buffer full: message dropped, a receipt will say so")
	ErrNumber  = errors.New("not the next number of this device")
	ErrReceipt = errors.New("a receipt reports what the last call of Drops returned, once")
	ErrClosed  = errors.New("buffer closed")
	ErrLocked  = errors.New("another process uses this data directory")
	// ErrVolatile comes from Take: the reading is held, but in memory only. It survives
	// kill -9 once the message that replaces it was appended.
	ErrVolatile = errors.New("the journal does not take it: only memory holds it")

	ErrCard = errors.New("neither the journal nor the card takes it")
)
