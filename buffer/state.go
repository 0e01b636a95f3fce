package buffer

import (
	"os"
	"slices"
	"sync"
	"time"
)

// Buffer is an open store. All methods may be called concurrently; one goroutine
// seals for one device.
type Buffer struct {
	env     Env
	offline bool // for the tools: no keeper, nothing is made or moved
	opening Opening
	disk    *disk
	lock    *os.File
	changed chan struct{}
	kick    chan struct{}
	stop    chan struct{}
	stopped chan struct{}

	// card is held by whoever writes to the card; taken before mu.
	card       sync.Mutex
	ring       *ring
	headFile   *slots
	dropFile   *slots
	dropsSaved uint64
	headDirty  bool
	headFailed bool          // the card did not take the last one
	headAt     time.Duration // boot time of the last write
	writer     *store
	writing    *segment // the segment that writer writes

	// stores guards which Badger is open; taken before mu, after card.
	stores  sync.RWMutex
	reader  blockReader
	reading *segment
	cache   blockCache

	mu        sync.Mutex // all below; never held while the card works
	cfg       Config
	closed    bool
	epoch     string
	opened    bool // the epoch has its opening message
	announced bool // and it was acknowledged
	devices   map[string]*device
	next      uint64     // position of the next message
	acked     ranges     // every position below next that is not held
	held      uint64     // messages
	base      uint64     // position of tail[0]
	tail      []*message // what no segment holds; nil: not held
	visible   uint64     // Read stops here
	unsafe    uint64     // below it nothing in the tail is without a sync
	gen       *generation
	nextTurn  time.Duration // boot time until which the keeper sleeps, if nobody wakes it

	segments       []*segment
	repairing      bool   // what is set aside is not given up for room
	disabled       string // why segments cannot be used
	drops          dropState
	intent         intent
	shown          map[uint64]bool // ids of what the last call of Drops returned and no message reports
	dropsJournaled uint64          // version of drops that the journal has
	reported       map[uint64]int  // Drop id: held messages that report it
	closing        map[string]int  // epoch: held messages that close it
	old            []EpochEnd
	quarantine     []quarantined
	kept           map[string]int // files of control messages, and how many in them are held
	unsealed       []Raw

	journal     *journal
	journalDead bool // the head says that the journal proves nothing

	waiting   int // readings taken or sealed, neither acknowledged nor synced
	rawCount  int // raws taken and not sealed
	rawNo     uint64
	dueRaw    uint64 // raws up to this number are asked for
	want      bool   // a commit is wanted now
	bytesDisk int64  // as last measured
	reserve   int64  // stays free of MaxBytes, as last measured
	tailBytes int64

	powered     uint64        // powered-on seconds at poweredAt
	poweredAt   time.Duration // boot time
	wallSeen    time.Time
	stats       Stats
	lastCardErr error
	stuck       bool // segments take nothing, and it was told
}

// device is what is known of one device in this epoch.
type device struct {
	Numbers
	raws  []raw
	queue []*message // of this epoch, in the tail, by number; may start with some that left
}

// raw is a reading taken and not sealed.
type raw struct {
	no    uint64
	n     int
	taken time.Duration // boot time
	data  []byte
	live  int
}

// generation is one commit that Appends wait for together.
type generation struct {
	done chan struct{}
	err  error
}

func newGeneration() *generation { return &generation{done: make(chan struct{})} }

// notify wakes the one that waits for Changed.
func (b *Buffer) notify() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// wake makes the keeper look.
func (b *Buffer) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

func (b *Buffer) poweredOn(now time.Duration) uint64 {
	return b.powered + uint64(max(0, now-b.poweredAt)/time.Second)
}

func (b *Buffer) device(name string) *device {
	d := b.devices[name]
	if d == nil {
		d = &device{}
		b.devices[name] = d
	}
	return d
}

// hold puts a message at the end of the tail. mu is held.
func (b *Buffer) hold(m *message) {
	if len(b.tail) == 0 {
		b.base = m.pos
	}
	for b.base+uint64(len(b.tail)) < m.pos {
		b.tail = append(b.tail, nil)
	}
	b.tail = append(b.tail, m)
	b.tailBytes += int64(messageSize(m))
	b.next = max(b.next, m.pos+1)
	b.held++
	if m.epoch == b.epoch {
		d := b.device(m.device)
		at := len(d.queue)
		for at > 0 && d.queue[at-1] != nil && d.queue[at-1].seq > m.seq {
			at-- // one that moved
		}
		d.queue = slices.Insert(d.queue, at, m)
	}
	b.noteControl(m.receipts, m.closes, 1)
}

func (b *Buffer) noteControl(receipts []uint64, closes string, n int) {
	for _, id := range receipts {
		b.reported[id] += n
		if b.reported[id] <= 0 {
			delete(b.reported, id)
		}
	}
	if closes != "" {
		b.closing[closes] += n
	}
}

// inTail returns the message at pos if the tail holds it. mu is held.
func (b *Buffer) inTail(pos uint64) *message {
	if pos < b.base || pos-b.base >= uint64(len(b.tail)) {
		return nil
	}
	return b.tail[pos-b.base]
}

// leaveTail forgets the tail's hold on a message: acknowledged, or in a segment now.
func (b *Buffer) leaveTail(m *message) {
	if b.inTail(m.pos) != m {
		return
	}
	b.tail[m.pos-b.base] = nil
	b.tailBytes -= int64(messageSize(m))
	if !m.synced {
		b.waiting -= m.n
		m.synced = true
	}
	b.journal.live -= int64(m.live)
	m.live = 0
	if m.rec != nil {
		b.ring.done(m.rec)
		m.rec = nil
	}
	b.unkeep(m)
	i := 0
	for i < len(b.tail) && b.tail[i] == nil {
		i++
	}
	b.base += uint64(i)
	b.tail = b.tail[i:]
	if len(b.tail) == 0 {
		b.tail, b.base = nil, b.next
	}
	if m.epoch == b.epoch {
		b.device(m.device).trim(b)
	}
}

// trim forgets the messages at the front of the queue that left the tail.
func (d *device) trim(b *Buffer) {
	for len(d.queue) > 0 && b.inTail(d.queue[0].pos) != d.queue[0] {
		d.queue[0] = nil
		d.queue = d.queue[1:]
	}
}

// segmentOf finds the segment whose range has pos. mu is held.
func (b *Buffer) segmentOf(pos uint64) *segment {
	for _, s := range b.segments {
		if pos >= s.First && pos <= s.Last {
			return s
		}
	}
	return nil
}

// numbers are the last numbers of each device in this epoch.
func (b *Buffer) numbers() map[string]Numbers {
	out := make(map[string]Numbers, len(b.devices))
	for name, d := range b.devices {
		if d.Seq > 0 {
			out[name] = d.Numbers
		}
	}
	return out
}
