// Package uplink carries what the buffer holds to an MQTT 5 broker.
//
// It promises that a message is acknowledged to its Source only after a PUBACK
// that says success, that the broker's Receive Maximum is respected, and that an
// outage of any kind ends by itself. It keeps nothing: packet ids live in memory.
// It does not know what a message means; the Source's blobs are opaque to it and
// are opened by the function it is given.
package uplink

// Source is where the uplink reads from: the buffer. Positions start at 1, grow by
// one per message and are never reused.
type Source interface {
	// Bounds returns the lowest position not yet acknowledged and the position that
	// the next message will get (equal: nothing waits).
	Bounds() (first, next uint64)
	// Read yields the unacknowledged messages at or after from, in order, until yield
	// returns false or there is none; it returns the position to go on from. A blob is
	// valid only during its call of yield.
	Read(from uint64, yield func(pos uint64, blob []byte) bool) (next uint64, err error)
	// Ack forgets messages: their PUBACK came. Any order, duplicates allowed.
	Ack(positions []uint64) error
	// Quarantine takes a poison message out of the line and keeps it, bounded; it
	// ends in a drop receipt with this reason when it has to go.
	Quarantine(pos uint64, reason string) error
	// Changed yields after Bounds may have grown (coalesced; one receiver).
	Changed() <-chan struct{}
}
