// Package buffer keeps sealed messages until the uplink has their PUBACK.
package buffer

import "context"

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

var _ = context.Background
