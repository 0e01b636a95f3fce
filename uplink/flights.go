package uplink

// Packet identifiers (§2.2.1) are split: publishing uses those from 1 up to the
// window, the last ones are kept for SUBSCRIBE and its like.
const (
	maxWindow     = 65535 - reservedIDs
	reservedIDs   = 16
	firstReserved = maxWindow + 1
)

// flight is a message between its first PUBLISH and its PUBACK.
type flight struct {
	pos        uint64
	next, prev uint16 // packet ids; 0: none
	used       bool
	sent       bool // on this connection
	backlog    bool // of the backlog lane
}

// flights are the messages in flight in the order in which they were first sent,
// which is the order to send them again (§4.6), and the free packet ids, of which the
// one free for longest is taken next. It is not safe for concurrent use.
type flights struct {
	slots       []flight // by packet id; 0 is unused
	free        []uint16 // a ring
	freeAt      int
	freeLen     int
	first, last uint16
	unsent      uint16 // the first not sent on this connection; 0: none
	len         int
	wire        int // sent on this connection
	backlog     int // of the backlog lane, sent or not
}

func newFlights(window int) *flights {
	f := &flights{slots: make([]flight, window+1), free: make([]uint16, window), freeLen: window}
	for i := range f.free {
		f.free[i] = uint16(i + 1)
	}
	return f
}

// add takes a free packet id for a message that is being sent now. It returns 0 if
// there is none. All earlier flights must have been sent.
func (f *flights) add(pos uint64, backlog bool) uint16 {
	if f.freeLen == 0 {
		return 0
	}
	id := f.free[f.freeAt]
	f.freeAt = (f.freeAt + 1) % len(f.free)
	f.freeLen--
	f.slots[id] = flight{pos: pos, prev: f.last, used: true, sent: true, backlog: backlog}
	if f.last != 0 {
		f.slots[f.last].next = id
	} else {
		f.first = id
	}
	f.last = id
	f.len++
	f.wire++
	if backlog {
		f.backlog++
	}
	return id
}

// get returns the flight with that packet id, nil if there is none.
func (f *flights) get(id uint16) *flight {
	if id == 0 || int(id) >= len(f.slots) || !f.slots[id].used {
		return nil
	}
	return &f.slots[id]
}

// remove frees the packet id.
func (f *flights) remove(id uint16) {
	s := f.get(id)
	if s == nil {
		return
	}
	if s.prev != 0 {
		f.slots[s.prev].next = s.next
	} else {
		f.first = s.next
	}
	if s.next != 0 {
		f.slots[s.next].prev = s.prev
	} else {
		f.last = s.prev
	}
	if f.unsent == id {
		f.unsent = s.next
	}
	if s.sent {
		f.wire--
	}
	if s.backlog {
		f.backlog--
	}
	f.len--
	*s = flight{}
	f.free[(f.freeAt+f.freeLen)%len(f.free)] = id
	f.freeLen++
}

// reconnected marks all of them as to be sent again.
func (f *flights) reconnected() {
	for id := f.first; id != 0; id = f.slots[id].next {
		f.slots[id].sent = false
	}
	f.unsent, f.wire = f.first, 0
}

// resend marks the first unsent one as sent and returns its packet id.
func (f *flights) resend() uint16 {
	id := f.unsent
	f.slots[id].sent = true
	f.unsent = f.slots[id].next
	f.wire++
	return id
}

// alone returns the one message on the wire, if it is one.
func (f *flights) alone() (pos uint64, yes bool) {
	if f.wire != 1 {
		return 0, false
	}
	for id := f.first; id != 0; id = f.slots[id].next {
		if f.slots[id].sent {
			return f.slots[id].pos, true
		}
	}
	return 0, false
}

// each calls do for all of them, in order.
func (f *flights) each(do func(id uint16, s *flight)) {
	for id := f.first; id != 0; {
		next := f.slots[id].next
		do(id, &f.slots[id])
		id = next
	}
}
