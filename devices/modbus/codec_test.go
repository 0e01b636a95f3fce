package modbus

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"holdfast/devices"
	"holdfast/devices/octets"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// The examples of V1.1b3 sections 6.1 to 6.6, requests and answers.
var examples = []struct {
	r              request
	question, pdu  string
	data           string
	rtu, rtuAnswer string // for slave 17, CRCs by pymodbus
}{
	{request{readCoils, 0x13, 0x13}, "01 0013 0013", "01 03 CD6B05", "CD6B05", "11 01 0013 0013 8E92", "11 01 03 CD6B05 4012"},
	{request{readDiscretes, 0xC4, 0x16}, "02 00C4 0016", "02 03 ACDB35", "ACDB35", "11 02 00C4 0016 BAA9", "11 02 03 ACDB35 2018"},
	{request{readHoldings, 0x6B, 3}, "03 006B 0003", "03 06 022B00000064", "022B00000064", "11 03 006B 0003 7687", "11 03 06 022B00000064 C8BA"},
	{request{readInputs, 8, 1}, "04 0008 0001", "04 02 000A", "000A", "11 04 0008 0001 B298", "11 04 02 000A F8F4"},
	{request{writeCoil, 0xAC, 0xFF00}, "05 00AC FF00", "05 00AC FF00", "", "11 05 00AC FF00 4E8B", "11 05 00AC FF00 4E8B"},
	{request{writeRegister, 1, 3}, "06 0001 0003", "06 0001 0003", "", "11 06 0001 0003 9A9B", "11 06 0001 0003 9A9B"},
}

func TestExamplesOfTheStandard(t *testing.T) {
	for _, e := range examples {
		if got := e.r.appendPDU(nil); !bytes.Equal(got, unhex(e.question)) {
			t.Errorf("%v: request %x", e.r, got)
		}
		if got := appendRTU(nil, 0x11, e.r); !bytes.Equal(got, unhex(e.rtu)) {
			t.Errorf("%v: frame %x, want %s", e.r, got, e.rtu)
		}
		data, err := e.r.parseAnswer(unhex(e.pdu))
		if err != nil || !bytes.Equal(data, unhex(e.data)) {
			t.Errorf("%v: answer %x, %v", e.r, data, err)
		}
		f := findRTU(unhex(e.rtuAnswer), 0x11, e.r)
		if !bytes.Equal(f.pdu, unhex(e.pdu)) || f.skipped != 0 || f.rest != 0 {
			t.Errorf("%v: found %+v", e.r, f)
		}
		tcp := appendTCP(nil, 0x1501, 0xFF, e.r)
		if want := append(unhex("1501 0000 0006 FF"), unhex(e.question)...); !bytes.Equal(tcp, want) {
			t.Errorf("%v: %x, want %x", e.r, tcp, want)
		}
		m, n, err := parseTCP(tcp)
		if err != nil || n != len(tcp) || m.transaction != 0x1501 || m.unit != 0xFF || !bytes.Equal(m.pdu, unhex(e.question)) {
			t.Errorf("%v: %+v %d %v", e.r, m, n, err)
		}
	}
	if c := crc16([]byte("123456789")); c != 0x4B37 { // the check value of CRC-16/MODBUS
		t.Errorf("CRC %04x", c)
	}
}

func TestExceptions(t *testing.T) {
	r := request{readHoldings, 0, 2}
	_, err := r.parseAnswer(unhex("83 02"))
	var e Exception
	if !errors.As(err, &e) || e != illegalAddress || e.reason() != "exception-2" || !strings.Contains(err.Error(), "illegal data address") {
		t.Error(err)
	}
	if !Exception(0x0B).absent() || Exception(4).absent() || !strings.Contains(Exception(0x77).Error(), "119") {
		t.Error("names of exceptions")
	}
	if !devices.ValidReason(Exception(255).reason()) {
		t.Error("reason")
	}
	for _, other := range []string{"", "83", "8302 00", "84 02", "83 00", "03", "03 04 0000", "03 02 0000", "03 06 000000000000", "04 04 00000000", "03 04 0000000000"} {
		if data, err := r.parseAnswer(unhex(other)); err != errMismatch {
			t.Errorf("%s: %x, %v", other, data, err)
		}
	}
	w := request{writeRegister, 7, 9}
	for _, other := range []string{"06 0007 0008", "06 0006 0009", "05 0007 0009"} {
		if _, err := w.parseAnswer(unhex(other)); err != errMismatch {
			t.Errorf("%s: %v", other, err)
		}
	}
}

// frame closes a frame with its CRC.
func frame(s string) []byte {
	b := unhex(s)
	return binary.LittleEndian.AppendUint16(b, crc16(b))
}

// TestFindRTU: the answer is found among noise, and nothing else passes for it.
func TestFindRTU(t *testing.T) {
	r := request{readHoldings, 0, 1}
	answer := frame("11 03 02 1234")
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		in      []byte
		whole   bool
		skipped int
		rest    int
		damaged bool
	}{
		"alone":                   {answer, true, 0, 0, false},
		"after noise":             {join([]byte{0, 0xFF, 0x11}, answer), true, 3, 0, false},
		"before noise":            {join(answer, []byte{0xFF}), true, 0, 1, false},
		"half":                    {answer[:6], false, 0, 0, false},
		"nothing":                 {nil, false, 0, 0, false},
		"after another slave's":   {join(frame("12 03 02 1111"), answer), true, 7, 0, false},
		"another slave's":         {frame("12 03 02 1234"), false, 0, 0, false},
		"after another function":  {join(frame("11 04 02 1111"), answer), true, 7, 0, false},
		"after another quantity":  {join(frame("11 03 04 11111111"), answer), true, 9, 0, false},
		"after a request's echo":  {join(appendRTU(nil, 0x11, r), answer), true, 8, 0, false},
		"a bit wrong":             {append(clone(answer[:6]), answer[6]^1), false, 0, 0, true},
		"a bit wrong, then right": {join(answer[:6], []byte{answer[6] ^ 1}, answer), true, 7, 0, false},
		"an exception":            {frame("11 83 06"), true, 0, 0, false},
		"a broken exception":      {append(frame("11 83 06")[:4], 0), false, 0, 0, true},
		"exception of another":    {frame("11 84 06"), false, 0, 0, false},
		"exception without code":  {frame("11 83 00"), false, 0, 0, false},
		"the head of the answer":  {join([]byte{0x11, 0x03}, answer), true, 2, 0, false},
	} {
		f := findRTU(c.in, 0x11, r)
		if (f.pdu != nil) != c.whole || f.skipped != c.skipped || f.rest != c.rest || f.damaged != c.damaged {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestParseTCP(t *testing.T) {
	whole := unhex("0001 0000 0005 01 03 02 1234")
	for n := range whole {
		if _, size, err := parseTCP(whole[:n]); size != 0 || err != nil {
			t.Errorf("%d bytes: %d, %v", n, size, err)
		}
	}
	if _, n, err := parseTCP(append(clone(whole), 9, 9)); n != len(whole) || err != nil {
		t.Error(n, err)
	}
	for _, bad := range []string{"0001 0001 0005 01 03 02 1234", "0001 0000 0001 01", "0001 0000 00FF 01", "4854 5450 2F31 2E"} {
		if _, _, err := parseTCP(unhex(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestValues(t *testing.T) {
	nan := devices.Value{}
	for _, c := range []struct {
		kind    valueType
		raw     string
		change  func(*point)
		want    devices.Value
		quality string
	}{
		{"uint16", "FFFE", nil, devices.Number(65534), ""},
		{"int16", "FFFE", nil, devices.Number(-2), ""},
		{"uint32", "00010000", nil, devices.Number(65536), ""},
		{"uint32", "00010000", func(p *point) { p.littleWords = true }, devices.Number(1), ""},
		{"uint32", "01020304", func(p *point) { p.littleBytes = true }, devices.Number(0x02010403), ""},
		{"uint32", "01020304", func(p *point) { p.littleBytes, p.littleWords = true, true }, devices.Number(0x04030201), ""},
		{"int32", "FFFFFFFF", nil, devices.Number(-1), ""},
		{"uint64", "0000000000000100", nil, devices.Number(256), ""},
		{"uint64", "0001000200030004", func(p *point) { p.littleWords = true }, devices.Number(0x0004000300020001), ""},
		{"uint64", "FFFFFFFFFFFFFFFF", nil, devices.Number(1 << 64), "rounded"},
		{"int64", "8000000000000000", nil, devices.Number(math.MinInt64), "rounded"},
		{"int64", "FFFFFFFFFFFFFFFF", nil, devices.Number(-1), ""},
		{"uint64", "0020000000000000", nil, devices.Number(1 << 53), ""},
		{"float32", "4366199A", nil, devices.Number(230.1), ""},
		{"float32", "CC2B8000", nil, devices.Number(-44957696), ""},
		{"float32", "199A4366", func(p *point) { p.littleWords = true }, devices.Number(230.1), ""},
		{"float32", "7FC00000", nil, nan, "not-finite"},
		{"float32", "7F800000", nil, nan, "not-finite"},
		{"float64", "3FB999999999999A", nil, devices.Number(0.1), ""},
		{"float64", "7FEFFFFFFFFFFFFF", func(p *point) { p.scale = octets.NewScale(10, 0) }, nan, "not-finite"},
		{"bcd16", "1234", nil, devices.Number(1234), ""},
		{"bcd16", "12A4", nil, nan, "not-bcd"},
		{"bcd32", "12345678", nil, devices.Number(12345678), ""},
		{"bcd64", "9999999999999999", nil, devices.Number(9999999999999999), "rounded"},
		{"int16", "04D2", func(p *point) { p.scale = octets.NewScale(0.1, 0) }, devices.Number(123.4), ""},
		{"int16", "04D2", func(p *point) { p.scale = octets.NewScale(2, -4) }, devices.Number(2464), ""},
		{typeBits, "8001", func(p *point) { p.bit, p.width = 15, 1 }, devices.Bool(true), ""},
		{typeBits, "8001", func(p *point) { p.bit, p.width = 1, 1 }, devices.Bool(false), ""},
		{typeBits, "0560", func(p *point) { p.bit, p.width = 4, 4 }, devices.Number(6), ""},
		{typeBits, "FFFF", func(p *point) { p.bit, p.width = 0, 16 }, devices.Number(65535), ""},
		{typeString, "4142432020000000", nil, devices.Text("ABC"), ""},
		{typeString, "42410043", func(p *point) { p.littleBytes = true }, devices.Text("ABC"), ""},
		{typeString, "00000000", nil, devices.Text(""), ""},
		{typeString, "FF41", nil, nan, "undecodable"},
	} {
		raw := unhex(c.raw)
		p := &point{metric: "m", function: readHoldings, size: uint16(len(raw) / 2), kind: c.kind, scale: octets.NewScale(1, 0)}
		if c.change != nil {
			c.change(p)
		}
		r := p.decode(append([]byte{9, 9}, raw...), 1, 5)
		got := r.Value
		if got.Kind != c.want.Kind || got.Num != c.want.Num || got.Text != c.want.Text || got.Bool != c.want.Bool || r.Reason != c.quality || r.At != 5 {
			t.Errorf("%s %s: %+v %s, want %+v %s", c.kind, c.raw, got, r.Reason, c.want, c.quality)
		}
		if err := devices.Validate(r); err != nil {
			t.Errorf("%s %s: %v", c.kind, c.raw, err)
		}
	}
	coil := &point{metric: "c", function: readCoils, size: 1, kind: typeBool}
	for i, want := range []bool{true, false, true, true, false, false, true, true, true, true} { // CD 6B, section 6.1
		if r := coil.decode(unhex("CD6B"), i, 0); r.Value.Bool != want {
			t.Errorf("coil %d: %v", i, r.Value.Bool)
		}
	}
}

// FuzzRTU: whatever is received, nothing panics; what passes for the answer has the
// request's shape and a right CRC, and stands where it is said to stand.
func FuzzRTU(f *testing.F) {
	for _, e := range examples {
		f.Add(unhex(e.rtuAnswer), byte(0x11), byte(e.r.function), e.r.address, e.r.quantity)
	}
	f.Add(frame("11 83 02"), byte(0x11), byte(3), uint16(0), uint16(1))
	f.Add(append([]byte{0, 0x11}, frame("11 03 02 1234")...), byte(0x11), byte(3), uint16(0), uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, slave, fn byte, address, quantity uint16) {
		r := request{function(fn%6 + 1), address, quantity}
		if !r.function.writes() {
			r.quantity = quantity%maxReadRegisters + 1
		}
		got := findRTU(in, slave, r)
		if got.pdu == nil {
			return
		}
		whole := in[got.skipped : len(in)-got.rest]
		if whole[0] != slave || !goodRTU(whole) || !bytes.Equal(whole[1:len(whole)-2], got.pdu) {
			t.Fatalf("%x is not a frame of %d", whole, slave)
		}
		data, err := r.parseAnswer(got.pdu)
		if err == errMismatch {
			t.Fatalf("%x does not answer %v", got.pdu, r)
		}
		if err == nil && !r.function.writes() && len(data) != r.dataBytes() {
			t.Fatalf("%d bytes answer %v", len(data), r)
		}
	})
}

// FuzzTCP: a stream is cut into messages the same way however it is split, without a panic.
func FuzzTCP(f *testing.F) {
	f.Add(unhex("0001 0000 0005 01 03 02 1234 0002 0000 0003 01 83 02"))
	f.Add(unhex("0001 0001 0005"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for len(in) > 0 {
			m, n, err := parseTCP(in)
			if err != nil || n == 0 {
				return
			}
			if n < mbapSize+1 || n > len(in) || len(m.pdu) != n-mbapSize || len(m.pdu) > maxPDU {
				t.Fatalf("%d bytes, a PDU of %d", n, len(m.pdu))
			}
			if _, short, _ := parseTCP(in[:n-1]); short != 0 {
				t.Fatal("a message that is not whole was taken")
			}
			_, _ = request{readHoldings, 0, 1}.parseAnswer(m.pdu)
			in = in[n:]
		}
	})
}

// FuzzValue: every register content becomes a reading that the agent takes.
func FuzzValue(f *testing.F) {
	f.Add(unhex("4366199A00000000"), byte(0), byte(0), 1.0, 0.0)
	f.Add(unhex("7FC0000000000000"), byte(1), byte(3), 0.1, -40.0)
	f.Add([]byte("ABCDEFGH"), byte(12), byte(1), 1.0, 0.0)
	kinds := []valueType{"float32", "float64", "uint16", "int16", "bcd16", "uint32", "int32", "bcd32", "uint64", "int64", "bcd64", typeBits, typeString}
	f.Fuzz(func(t *testing.T, raw []byte, kind, how byte, scale, offset float64) {
		p := &point{metric: "m", function: readHoldings, kind: kinds[int(kind)%len(kinds)], littleWords: how&1 != 0, littleBytes: how&2 != 0,
			scale: octets.NewScale(scale, offset), bit: uint(how % 16), width: 1}
		switch p.kind {
		case typeBits:
			p.size = 1
		case typeString:
			p.size = uint16(min(len(raw)/2, maxReadRegisters))
		default:
			p.size = uint16(sizes[p.kind])
		}
		if len(raw) < 2*int(p.size) {
			return
		}
		if err := devices.Validate(p.decode(raw, 0, 1)); err != nil {
			t.Fatal(err)
		}
	})
}
