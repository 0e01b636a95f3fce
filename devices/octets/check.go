package octets

import (
	"hash/crc32"
	"math/bits"
)

// Check is a checksum: how many bytes it has, and what it is of some.
type Check struct {
	Size int
	Of   func([]byte) uint32
}

// Checks are the checksums by name. CRCs are named as in the catalogue of parametrised CRC
// algorithms (reveng.sourceforge.io), whose check values the tests have.
var Checks = map[string]Check{
	"sum8":               {1, func(b []byte) uint32 { return sum(b) & 0xFF }},
	"sum16":              {2, func(b []byte) uint32 { return sum(b) & 0xFFFF }},
	"lrc8":               {1, func(b []byte) uint32 { return -sum(b) & 0xFF }}, // with the bytes it adds up to 0
	"xor8":               {1, xor},
	"crc8-maxim-dow":     {1, crc8{reflected: true}.of}, // 1-Wire
	"crc8-nrsc5":         {1, crc8{init: 0xFF}.of},      // Sensirion
	"crc16-modbus":       {2, crc16{poly: 0x8005, init: 0xFFFF, reflected: true}.of},
	"crc16-ccitt-false":  {2, crc16{poly: 0x1021, init: 0xFFFF}.of}, // CRC-16/IBM-3740
	"crc16-ccitt-xmodem": {2, crc16{poly: 0x1021}.of},
	"crc16-ccitt-kermit": {2, crc16{poly: 0x1021, reflected: true}.of}, // what ITU-T calls CRC-16/CCITT
	"crc16-ccitt-x25":    {2, crc16{poly: 0x1021, init: 0xFFFF, reflected: true, out: 0xFFFF}.of},
	"crc32":              {4, crc32.ChecksumIEEE}, // CRC-32/ISO-HDLC
}

func sum(b []byte) (n uint32) {
	for _, c := range b {
		n += uint32(c)
	}
	return n
}

func xor(b []byte) (n uint32) {
	for _, c := range b {
		n ^= uint32(c)
	}
	return n
}

// crc8 is a CRC of 8 bits with the polynomial 0x31, bit by bit.
type crc8 struct {
	init      byte
	reflected bool // the least significant bit first
}

func (c crc8) of(b []byte) uint32 {
	r := c.init
	for _, x := range b {
		if c.reflected {
			x = bits.Reverse8(x)
		}
		r ^= x
		for range 8 {
			high := r >> 7
			r = r<<1 ^ high*0x31
		}
	}
	if c.reflected {
		r = bits.Reverse8(r)
	}
	return uint32(r)
}

// crc16 is a CRC of 16 bits, bit by bit: frames are short.
type crc16 struct {
	poly, init, out uint16
	reflected       bool // the least significant bit first
}

func (c crc16) of(b []byte) uint32 {
	r, poly := c.init, c.poly
	if c.reflected {
		poly = bits.Reverse16(poly)
	}
	for _, x := range b {
		if c.reflected {
			r ^= uint16(x)
		} else {
			r ^= uint16(x) << 8
		}
		for range 8 {
			switch {
			case c.reflected && r&1 == 1:
				r = r>>1 ^ poly
			case c.reflected:
				r >>= 1
			case r&0x8000 != 0:
				r = r<<1 ^ poly
			default:
				r <<= 1
			}
		}
	}
	return uint32(r ^ c.out)
}
