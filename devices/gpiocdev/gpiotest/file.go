package gpiotest

import (
	"bytes"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"

	"holdfast/devices"
)

// The structs of linux/gpio.h, as C lays them out.
type (
	chipInfo struct { // gpiochip_info
		Name, Label [32]byte
		Lines       uint32
	}
	attribute struct { // gpio_v2_line_config_attribute
		ID, Pad     uint32
		Value, Mask uint64
	}
	lineRequest struct { // gpio_v2_line_request
		Offsets       [64]uint32
		Consumer      [32]byte
		Flags         uint64
		NumAttrs      uint32
		Pad           [5]uint32
		Attrs         [10]attribute
		NumLines, Buf uint32
		Pad2          [5]uint32
		Fd            int32
	}
	values struct{ Bits, Mask uint64 } // gpio_v2_line_values
	event  struct {                    // gpio_v2_line_event
		Timestamp                uint64
		ID, Offset, Seq, LineSeq uint32
		Pad                      [6]uint32
	}
)

// flag is a bit of enum gpio_v2_line_flag.
func (r *request) flag(bit int) bool { return r.ask.Flags>>bit&1 != 0 }

const (
	activeLow, input, output, rising, falling, pullUp, pullDown, biasOff = 1, 2, 3, 4, 5, 8, 9, 10
	known                                                                = 1<<13 - 1 - 1 // all but USED
)

type chipFile struct {
	k *Kernel
	c *chip
}

func (f *chipFile) Ioctl(cmd uint, arg []byte) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if int(cmd>>16&0x3fff) != len(arg) || cmd>>8&0xff != 0xB4 {
		return unix.EINVAL
	}
	switch cmd & 0xff {
	case 0x01:
		var info chipInfo
		copy(info.Label[:], f.c.label)
		info.Lines = uint32(len(f.c.lines))
		encode(arg, info)
		return nil
	case 0x07:
		return f.request(arg)
	}
	return unix.EINVAL
}

func (f *chipFile) request(arg []byte) error {
	r := &request{k: f.k}
	decode(arg, &r.ask)
	a := &r.ask
	if a.NumLines != 1 || a.Pad != [5]uint32{} || a.Pad2 != [5]uint32{} || int(a.Offsets[0]) >= len(f.c.lines) ||
		a.Flags&^known != 0 || r.flag(input) == r.flag(output) || (r.flag(rising) || r.flag(falling)) && !r.flag(input) {
		return unix.EINVAL
	}
	l := f.c.lines[a.Offsets[0]]
	switch {
	case l.busy || l.request != nil:
		return unix.EBUSY
	case l.noIRQ && (r.flag(rising) || r.flag(falling)):
		return unix.ENXIO
	}
	r.line, l.request = l, r
	l.pullUp, l.pullDown = r.flag(pullUp), r.flag(pullDown)
	if a.Buf == 0 {
		a.Buf = 16
	}
	a.Buf = min(a.Buf, 1024) // GPIO_V2_LINES_MAX * 16
	for _, at := range a.Attrs[:a.NumAttrs] {
		if at.ID == 2 && at.Mask&1 != 0 && r.flag(output) { // GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES
			l.high = at.Value&1 != 0 != r.flag(activeLow)
		}
	}
	f.k.fd++
	f.k.asked++
	f.k.files[f.k.fd] = r
	r.fd, a.Fd = f.k.fd, int32(f.k.fd)
	encode(arg, a)
	return nil
}

func (*chipFile) Read([]byte) (int, error) { return 0, unix.EINVAL }
func (*chipFile) Wait() error              { return unix.EINVAL }
func (*chipFile) Close() error             { return nil }

// request is a line that is ours.
type request struct {
	k      *Kernel
	ask    lineRequest
	fd     int
	line   *line
	queue  []event
	seq    uint32
	gone   bool // with its chip
	closed bool
}

// interrupt is edge_irq_handler and edge_irq_thread. high: as the latter finds it.
func (l *line) interrupt(high bool, at devices.Instant) {
	r := l.request
	if r == nil {
		return
	}
	active := high != r.flag(activeLow)
	switch both := r.flag(rising) && r.flag(falling); {
	case both:
	case active && !r.flag(rising), !active && !r.flag(falling):
		return
	}
	id := uint32(2)
	if active {
		id = 1
	}
	r.seq++
	if len(r.queue) == int(r.ask.Buf) {
		r.queue = r.queue[1:] // kfifo_skip: the oldest goes
	}
	r.queue = append(r.queue, event{Timestamp: uint64(at - Suspended), ID: id, Offset: r.ask.Offsets[0], Seq: r.seq, LineSeq: r.seq})
}

func (r *request) Ioctl(cmd uint, arg []byte) error {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	switch {
	case r.closed:
		return os.ErrClosed
	case r.gone:
		return unix.ENODEV
	case len(arg) != 16:
		return unix.EINVAL
	}
	var v values
	decode(arg, &v)
	if v.Mask != 1 {
		return unix.EINVAL
	}
	switch cmd {
	case 0xC010B40E:
		v.Bits = 0
		if r.line.high != r.flag(activeLow) {
			v.Bits = 1
		}
	case 0xC010B40F:
		if !r.flag(output) {
			return unix.EPERM
		}
		r.line.high = v.Bits&1 != 0 != r.flag(activeLow)
	default:
		return unix.EINVAL
	}
	encode(arg, v)
	return nil
}

func (r *request) Read(p []byte) (int, error) {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	const size = 48
	switch {
	case r.closed:
		return 0, os.ErrClosed
	case r.gone:
		return 0, unix.ENODEV
	case len(p) < size:
		return 0, unix.EINVAL
	case len(r.queue) == 0:
		return 0, unix.EAGAIN
	}
	n := min(len(p)/size, len(r.queue))
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, r.queue[:n]); err != nil {
		panic(err)
	}
	r.queue = r.queue[n:]
	return copy(p, b.Bytes()), nil
}

func (r *request) Wait() error {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	for len(r.queue) == 0 && !r.gone && !r.closed {
		r.k.change.Wait()
	}
	if r.closed {
		return os.ErrClosed
	}
	return nil
}

func (r *request) Close() error {
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	r.closed = true
	r.line.request = nil
	delete(r.k.files, r.fd)
	r.k.change.Broadcast()
	return nil
}
