package gpiocdev

import (
	"bytes"
	"encoding/binary"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
)

// The ioctls of the GPIO character device, v2 ABI (linux/gpio.h). The third and fourth
// digit are the size of the argument (linux/ioctl.h).
const (
	getChipInfo = 0x8044B401 // _IOR(0xB4, 0x01, struct gpiochip_info)
	getLine     = 0xC250B407 // _IOWR(0xB4, 0x07, struct gpio_v2_line_request)
	getValues   = 0xC010B40E // _IOWR(0xB4, 0x0E, struct gpio_v2_line_values)
	setValues   = 0xC010B40F // _IOWR(0xB4, 0x0F, struct gpio_v2_line_values)
)

// size is how long the argument of an ioctl is.
func size(request uint) int { return int(request >> 16 & 0x3fff) }

// enum gpio_v2_line_flag.
const (
	flagActiveLow    = 1 << 1
	flagInput        = 1 << 2
	flagOutput       = 1 << 3
	flagRising       = 1 << 4
	flagFalling      = 1 << 5
	flagPullUp       = 1 << 8
	flagPullDown     = 1 << 9
	flagBiasDisabled = 1 << 10
)

// Where things stand. All of the structs are laid out alike on 32 and 64 bits (their
// 64-bit members are aligned to 8); a test asks the C compiler.
const (
	nameSize = 32 // GPIO_MAX_NAME_SIZE

	chipLabel = 32 // struct gpiochip_info: name, label, lines
	chipLines = 64

	reqConsumer = 256 // struct gpio_v2_line_request: offsets[64], consumer, config, num_lines, event_buffer_size, padding, fd
	reqConfig   = 288
	reqLines    = 560
	reqBuffer   = 564
	reqFd       = 588

	confAttrs = 8 // struct gpio_v2_line_config: flags, num_attrs, padding, attrs[10]
	confAttr  = 32
	attrValue = 8 // struct gpio_v2_line_config_attribute: id, padding, value, mask
	attrMask  = 16

	eventSize = 48 // struct gpio_v2_line_event: timestamp_ns, id, offset, seqno, line_seqno, padding
	eventID   = 8
	eventSeq  = 20
)

const (
	attrOutputValues = 2 // GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES
	risingEdge       = 1 // GPIO_V2_LINE_EVENT_RISING_EDGE
	fallingEdge      = 2 // GPIO_V2_LINE_EVENT_FALLING_EDGE
)

var native = binary.NativeEndian

// encodeRequest is a request for one line. high: where an output begins.
func encodeRequest(offset uint32, consumer string, flags uint64, high bool) []byte {
	b := make([]byte, size(getLine))
	native.PutUint32(b, offset)
	copy(b[reqConsumer:reqConsumer+nameSize-1], consumer)
	conf := b[reqConfig:]
	native.PutUint64(conf, flags)
	if flags&flagOutput != 0 {
		native.PutUint32(conf[confAttrs:], 1)
		attr := conf[confAttr:]
		native.PutUint32(attr, attrOutputValues)
		if high {
			native.PutUint64(attr[attrValue:], 1)
		}
		native.PutUint64(attr[attrMask:], 1)
	}
	native.PutUint32(b[reqLines:], 1)
	native.PutUint32(b[reqBuffer:], queue)
	return b
}

// requestFd is the descriptor that the kernel put into a request.
func requestFd(b []byte) int { return int(int32(native.Uint32(b[reqFd:]))) }

// encodeValues is struct gpio_v2_line_values of one line.
func encodeValues(high bool) []byte {
	b := make([]byte, size(getValues))
	if high {
		native.PutUint64(b, 1)
	}
	native.PutUint64(b[8:], 1)
	return b
}

func valueBit(b []byte) gpio.Level { return native.Uint64(b)&1 != 0 }

// decodeEvent reads struct gpio_v2_line_event. boot is CLOCK_BOOTTIME − CLOCK_MONOTONIC: the
// kernel's timestamps do not know of suspend. false: neither edge, so from a kernel that
// knows more than we do.
func decodeEvent(b []byte, boot time.Duration) (Event, bool) {
	id := native.Uint32(b[eventID:])
	e := Event{At: devices.Instant(native.Uint64(b)) + boot, Level: id == risingEdge, Seq: native.Uint32(b[eventSeq:])}
	return e, (id == risingEdge || id == fallingEdge) && e.At >= 0
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
