package modbus

import "encoding/binary"

// The RTU frame: address, PDU, CRC, low byte first (MODBUS over Serial Line V1.02
// sections 2.5.1 and 2.5.1.2). Where a frame ends its content says: the function and the
// byte count give its length. The silence of 3.5 characters that the standard wants there
// cannot be seen through a USB adapter, which hands over bytes in groups of 16 ms.

const (
	maxRTU     = 256 // section 2.5.1
	rtuOverAll = 3   // address and CRC
)

// crcTable is the CRC-16 of section 6.2.2 (polynomial 0xA001, reflected), byte by byte.
var crcTable = func() (table [256]uint16) {
	for i := range table {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		table[i] = c
	}
	return table
}()

func crc16(b []byte) uint16 {
	c := uint16(0xFFFF)
	for _, x := range b {
		c = c>>8 ^ crcTable[byte(c)^x]
	}
	return c
}

// appendRTU appends a frame.
func appendRTU(b []byte, slave byte, r request) []byte {
	start := len(b)
	b = r.appendPDU(append(b, slave))
	return binary.LittleEndian.AppendUint16(b, crc16(b[start:]))
}

// goodRTU says whether b is a whole frame: its CRC is right.
func goodRTU(b []byte) bool {
	n := len(b) - 2
	return n >= 2 && crc16(b[:n]) == binary.LittleEndian.Uint16(b[n:])
}

// found is what a look into received bytes brought.
type found struct {
	pdu     []byte // of the answer; nil: it is not there (yet)
	rest    int    // bytes after it
	skipped int    // bytes before it that belong to no answer
	damaged bool   // something began like the answer and has a wrong CRC
}

// findRTU looks for the answer of slave to r in what was received since the request was
// sent. Noise before it, answers of other slaves and to other requests are passed over.
// That a stranger's bytes pass for the answer takes five bytes of accident: address,
// function, byte count and CRC must all fit.
func findRTU(b []byte, slave byte, r request) found {
	var f found
	for i := range b {
		if b[i] != slave {
			continue
		}
		n := r.frameLength(b[i+1:])
		if n == 0 || i+n > len(b) {
			continue
		}
		frame := b[i : i+n]
		if !goodRTU(frame) {
			f.damaged = true
			continue
		}
		pdu := frame[1 : n-2]
		if _, err := r.parseAnswer(pdu); err == errMismatch {
			continue
		}
		return found{pdu: pdu, rest: len(b) - i - n, skipped: i}
	}
	return f
}

// frameLength is how long a frame is whose PDU begins with pdu, if it answers r; 0: it
// does not, or this is too little to say.
func (r request) frameLength(pdu []byte) int {
	switch {
	case len(pdu) == 0:
		return 0
	case pdu[0] == byte(r.function)|exceptionBit:
		return exceptionPDUSize + rtuOverAll
	case pdu[0] != byte(r.function):
		return 0
	case r.function.writes():
		return r.answerLength() + rtuOverAll
	case len(pdu) < 2 || int(pdu[1]) != r.dataBytes():
		return 0
	}
	return r.answerLength() + rtuOverAll
}
