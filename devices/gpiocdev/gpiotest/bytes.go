package gpiotest

import "encoding/binary"

// PutEdge writes an edge as the kernel sends it, for benchmarks: at is CLOCK_MONOTONIC in
// nanoseconds. It returns the edge's size.
func PutEdge(p []byte, at uint64, rising bool, seq uint32) int {
	const size = 48
	clear(p[:size])
	id := uint32(2)
	if rising {
		id = 1
	}
	binary.NativeEndian.PutUint64(p, at)
	binary.NativeEndian.PutUint32(p[8:], id)
	binary.NativeEndian.PutUint32(p[16:], seq)
	binary.NativeEndian.PutUint32(p[20:], seq)
	return size
}
