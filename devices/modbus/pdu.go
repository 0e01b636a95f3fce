package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// function is a function code (MODBUS Application Protocol V1.1b3 section 5.1).
type function byte

const (
	readCoils     function = 0x01 // section 6.1
	readDiscretes function = 0x02 // 6.2
	readHoldings  function = 0x03 // 6.3
	readInputs    function = 0x04 // 6.4
	writeCoil     function = 0x05 // 6.5
	writeRegister function = 0x06 // 6.6
)

// bits says whether the function is about single bits.
func (f function) bits() bool { return f == readCoils || f == readDiscretes || f == writeCoil }

func (f function) writes() bool { return f == writeCoil || f == writeRegister }

// The greatest quantities of one request (sections 6.1 to 6.4).
const (
	maxReadBits      = 2000
	maxReadRegisters = 125
)

const (
	maxPDU       = 253  // section 4.1
	exceptionBit = 0x80 // of the function code in an exception response (section 7)
)

// request is one question to a slave.
type request struct {
	function function
	address  uint16 // as on the wire, from 0 (section 4.4)
	quantity uint16 // of bits or registers; of a write: the value
}

func (r request) String() string {
	if r.function.writes() {
		return fmt.Sprintf("function %d, address %d, value %#04x", r.function, r.address, r.quantity)
	}
	return fmt.Sprintf("function %d, address %d, quantity %d", r.function, r.address, r.quantity)
}

// appendPDU appends the request's PDU: function, address, quantity or value, big-endian
// (section 4.2).
func (r request) appendPDU(b []byte) []byte {
	b = append(b, byte(r.function))
	b = binary.BigEndian.AppendUint16(b, r.address)
	return binary.BigEndian.AppendUint16(b, r.quantity)
}

// dataBytes is how many bytes of data the answer to a read must have.
func (r request) dataBytes() int {
	if r.function.bits() {
		return (int(r.quantity) + 7) / 8
	}
	return 2 * int(r.quantity)
}

// answerLength is the length of the PDU of a good answer.
func (r request) answerLength() int {
	if r.function.writes() {
		return 5 // the echo of the request
	}
	return 2 + r.dataBytes()
}

// Exception is an answer that says why there is no other (section 7).
type Exception byte

// The codes that the driver acts on.
const (
	illegalAddress   Exception = 0x02
	illegalValue     Exception = 0x03
	gatewayNoPath    Exception = 0x0A // section 7: a gateway speaks for a slave that it
	gatewayNoAnswer  Exception = 0x0B // cannot reach, or that does not answer it
	exceptionPDUSize           = 2
)

var exceptionNames = map[Exception]string{
	0x01: "illegal function", 0x02: "illegal data address", 0x03: "illegal data value", 0x04: "server device failure",
	0x05: "acknowledge", 0x06: "server device busy", 0x08: "memory parity error",
	0x0A: "gateway path unavailable", 0x0B: "gateway target device failed to respond",
}

func (e Exception) Error() string {
	name := exceptionNames[e]
	if name == "" {
		name = "a code that the standard does not know"
	}
	return fmt.Sprintf("exception %d (%s)", byte(e), name)
}

// reason is the word for it in a bad reading.
func (e Exception) reason() string { return fmt.Sprintf("exception-%d", byte(e)) }

// absent says whether the code speaks for a slave that was not reached.
func (e Exception) absent() bool { return e == gatewayNoPath || e == gatewayNoAnswer }

// errMismatch: this is no answer to the request.
var errMismatch = errors.New("not the answer to this request")

// parseAnswer judges a PDU: the data of a read, nothing of a write, an Exception, or
// errMismatch for what answers something else or is malformed. Data is a part of pdu.
func (r request) parseAnswer(pdu []byte) (data []byte, err error) {
	if len(pdu) == exceptionPDUSize && pdu[0] == byte(r.function)|exceptionBit {
		if pdu[1] == 0 { // no code of section 7; 0 would say "no error"
			return nil, errMismatch
		}
		return nil, Exception(pdu[1])
	}
	if len(pdu) != r.answerLength() || pdu[0] != byte(r.function) {
		return nil, errMismatch
	}
	if r.function.writes() {
		if binary.BigEndian.Uint16(pdu[1:]) != r.address || binary.BigEndian.Uint16(pdu[3:]) != r.quantity {
			return nil, errMismatch
		}
		return nil, nil
	}
	if int(pdu[1]) != r.dataBytes() {
		return nil, errMismatch
	}
	return pdu[2:], nil
}
