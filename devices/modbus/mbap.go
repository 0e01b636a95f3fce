package modbus

import (
	"encoding/binary"
	"fmt"
)

// The MBAP header: transaction, protocol (0), length of what follows, unit (MODBUS
// Messaging on TCP/IP Implementation Guide V1.0b section 3.1.3).

const mbapSize = 7

// appendTCP appends a request.
func appendTCP(b []byte, transaction uint16, unit byte, r request) []byte {
	b = binary.BigEndian.AppendUint16(b, transaction)
	b = append(b, 0, 0, 0, 6, unit) // the unit and a PDU of 5 bytes
	return r.appendPDU(b)
}

// message is one that came whole.
type message struct {
	transaction uint16
	unit        byte
	pdu         []byte // a part of what was parsed
}

// parseTCP takes the first message off b. n is its size, 0 if it is not whole yet. An
// error means that the stream is lost: where the next message begins nobody can say.
func parseTCP(b []byte) (m message, n int, err error) {
	if len(b) < mbapSize {
		return m, 0, nil
	}
	protocol, length := binary.BigEndian.Uint16(b[2:]), int(binary.BigEndian.Uint16(b[4:]))
	if protocol != 0 {
		return m, 0, fmt.Errorf("protocol identifier %d: this is not Modbus", protocol)
	}
	if length < 2 || length > maxPDU+1 {
		return m, 0, fmt.Errorf("a message of %d bytes: want 2 to %d", length, maxPDU+1)
	}
	if len(b) < mbapSize-1+length {
		return m, 0, nil
	}
	n = mbapSize - 1 + length
	return message{transaction: binary.BigEndian.Uint16(b), unit: b[6], pdu: b[mbapSize:n]}, n, nil
}
