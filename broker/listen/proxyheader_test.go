package listen

import (
	"net"
	"slices"
)

// v2Header is a PROXY v2 header: command, family and what follows the length.
func v2Header(command, family byte, body ...byte) string {
	return proxySignature + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + string(body)
}

var (
	inet4 = []byte{192, 0, 2, 7, 10, 0, 0, 1, 0xC0, 0x01, 0x07, 0x5B} // 192.0.2.7:49153 to 10.0.0.1:1883
	inet6 = slices.Concat(net.ParseIP("2001:db8::7").To16(), net.ParseIP("2001:db8::1").To16(), []byte{0xC0, 0x01, 0x07, 0x5B})
	// TLVs: PP2_TYPE_AUTHORITY "a", PP2_TYPE_NOOP of two bytes
	tlvs = []byte{0x02, 0, 1, 'a', 0x04, 0, 2, 0, 0}
)
