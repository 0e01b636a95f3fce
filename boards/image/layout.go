package main

import (
	"encoding/binary"
	"fmt"
)

// A card has the same three partitions at the same places on every board and in every version, so that a card in the
// field gets a new system by writing over the first two alone: the data partition, which has grown, stays as it is.
const (
	mebi   = 1 << 20
	sector = 512
	align  = 4 * mebi // what cards erase at once

	bootPartition = 1
	rootPartition = 2
	dataPartition = 3
)

// partition is a place on the card.
type partition struct {
	start, size int64 // bytes
	kind        byte  // of the partition table
}

var layout = []partition{
	{align, 128 * mebi, 0x0c},            // FAT32, which the firmware reads
	{align + 128*mebi, 320 * mebi, 0x83}, // squashfs
	{align + 448*mebi, 64 * mebi, 0x83},  // ext4; usr/lib/holdfast/grow makes it larger
}

// imageSize is where the last one ends.
func imageSize() int64 {
	last := layout[len(layout)-1]
	return last.start + last.size
}

// diskID makes the names by which root and the other partitions are found: "HFLD". It is the same on all cards; two
// of them in one computer are one too many.
const diskID = 0x48464c44

// partUUID is the kernel's name of a partition of such a table (block/partitions/msdos.c).
func partUUID(n int) string { return fmt.Sprintf("%08x-%02x", diskID, n) }

// table is the first sector: the boot ROM of a Raspberry Pi 3 knows no other kind.
func table() []byte {
	b := make([]byte, sector)
	binary.LittleEndian.PutUint32(b[440:], diskID)
	for i, p := range layout {
		e := b[446+16*i:]
		copy(e, []byte{0, 0xfe, 0xff, 0xff, p.kind, 0xfe, 0xff, 0xff}) // no cylinders: beyond what they can say
		binary.LittleEndian.PutUint32(e[8:], uint32(p.start/sector))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.size/sector))
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}
