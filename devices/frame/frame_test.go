package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/octets"
	"holdfast/devices/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// with makes settings that have a port and a field.
func with(change func(*Settings)) *Settings {
	s := defaults()
	s.Port = "/dev/ttyX"
	s.Fields = []Field{{Metric: "v", Type: "bytes"}}
	change(s)
	return s
}

func planOf(t testing.TB, s *Settings) *plan {
	p, problems := s.compile()
	for _, q := range problems {
		if !q.Warning {
			t.Fatalf("%s: %s", q.Key, q.Message)
		}
	}
	return p
}

// cutAll returns the frames in a stream, what is wrong with those that are none, and what was skipped.
func cutAll(p *plan, in []byte, piece int) (out []string) {
	c := p.cutter()
	var skipped uint64
	for len(in) > 0 {
		n := min(piece, len(in))
		skipped += c.bytes(in[:n], func(frame []byte) error {
			content, err := p.checked(frame)
			if err != nil {
				out = append(out, strings.ReplaceAll(err.Error(), " ", "-"))
				return err
			}
			out = append(out, hex.EncodeToString(content))
			return nil
		})
		in = in[n:]
	}
	return append(out, fmt.Sprintf("skipped %d", skipped+c.pause()))
}

func fixed(s *Settings) { s.Framing, s.Length, s.Start, s.Checksum = "fixed", 5, "AA55", "sum8" }
func length(s *Settings) {
	s.Framing, s.LengthAt, s.LengthAdds, s.Start, s.Checksum = "length", 1, 4, "7E", "crc16-modbus"
	s.ChecksumOrder = "little"
}
func slip(s *Settings) {
	s.Framing, s.End, s.Escape = "marks", "C0", "DB"
	s.Escaped = map[string]string{"DC": "C0", "DD": "DB"} // RFC 1055
}
func hdlc(s *Settings) { // RFC 1662: flag 7E, escape 7D, exclusive or 20
	s.Framing, s.Start, s.End, s.Escape, s.EscapeXor, s.Checksum, s.ChecksumOrder = "marks", "7E", "7E", "7D", "20", "crc16-ccitt-x25", "little"
}
func dle(s *Settings) { // DLE STX … DLE ETX, DLE doubled
	s.Framing, s.Start, s.End, s.Escape, s.Checksum = "marks", "10 02", "10 03", "10", "xor8"
}
func stx(s *Settings) { s.Framing, s.Start, s.End = "marks", "02", "03" }

func TestCut(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Settings)
		in   string
		want string
	}{
		{"fixed", fixed, "AA550102 02 AA550304 06", "aa550102 aa550304 skipped 0"},
		{"fixed, noise around", fixed, "00 AA AA550102 02 FF AA550304 06 AA", "aa550102 aa550304 skipped 4"},
		{"fixed, a start inside a frame that is none", fixed, "AA55 AA550102 02", "bad-checksum aa550102 skipped 2"},
		{"fixed, start in the data", fixed, "AA55AA55 FE AA550102 02", "aa55aa55 aa550102 skipped 0"},
		{"length", length, "7E 02 0102 " + crcOf("7E020102") + " 7E 01 05 " + crcOf("7E0105"), "7e020102 7e0105 skipped 0"},
		{"length, one byte wrong", length, "7E 02 0103 " + crcOf("7E020102") + " 7E 01 05 " + crcOf("7E0105"), "bad-checksum 7e0105 skipped 6"},
		{"slip", slip, "C0C0 01 DBDC DBDD 02 C0 03 C0", "01c0db02 03 skipped 0"},
		{"hdlc", hdlc, "FF 7E 3132 7D5E " + hex.EncodeToString(x25("31327E")) + " 7E7E 31 " + hex.EncodeToString(x25("31")) + " 7E", "31327e 31 skipped 1"},
		{"hdlc, a flag between", hdlc, "7E 31 " + hex.EncodeToString(x25("31")) + " 7E 32 " + hex.EncodeToString(x25("32")) + "7E", "31 32 skipped 0"},
		{"dle", dle, "1002 01 1010 03 " + "12" + " 1003 1002 05 05 1003", "011003 05 skipped 0"},
		{"dle, no end", dle, "1002 0102 1002 0505 1003", "05 skipped 2"},
		{"stx", stx, "02 3132 03 33 02 34 03", "3132 34 skipped 1"},
		{"stx, too long", func(s *Settings) { stx(s); s.MaxLength = 3 }, "02 31323334 03 02 34 03", "impossible-length 34 skipped 3"},
		{"text checksum", func(s *Settings) { stx(s); s.Checksum, s.ChecksumText = "xor8", true }, "02 3132 3033 03", "3132 skipped 0"},
	} {
		p := planOf(t, with(c.set))
		in := unhex(t, c.in)
		for _, piece := range []int{len(in), 1, 2, 3} {
			if got := strings.Join(cutAll(p, in, piece), " "); got != c.want {
				t.Errorf("%s, in pieces of %d: %s, want %s", c.name, piece, got, c.want)
			}
		}
	}
}

func crcOf(s string) string {
	b, _ := hex.DecodeString(s)
	return hex.EncodeToString(binary.LittleEndian.AppendUint16(nil, uint16(octets.Checks["crc16-modbus"].Of(b))))
}

// x25 is the checksum of RFC 1662, escaped.
func x25(s string) (out []byte) {
	b, _ := hex.DecodeString(s)
	for _, c := range binary.LittleEndian.AppendUint16(nil, uint16(octets.Checks["crc16-ccitt-x25"].Of(b))) {
		if c == 0x7E || c == 0x7D {
			out = append(out, 0x7D, c^0x20)
		} else {
			out = append(out, c)
		}
	}
	return out
}

func TestLayout(t *testing.T) {
	tenth := 0.1
	s := with(func(s *Settings) {
		fixed(s)
		s.Length, s.Checksum, s.Start = 16, "none", "01"
		s.Fields = []Field{
			{Metric: "a", At: 1, Type: "int16", Scale: &tenth, Offset: 1, Unit: "Cel"}, {Metric: "b", At: 1, Type: "uint16", Order: "little"},
			{Metric: "c", At: 3, Type: "bits", Bit: 7}, {Metric: "d", At: 3, Type: "bits", Bit: 4, Width: 3}, {Metric: "e", At: 3, Type: "bits", Size: 2, Bit: 4, Width: 8},
			{Metric: "f", At: 5, Type: "float32"}, {Metric: "g", At: 9, Type: "text", Size: 4}, {Metric: "h", At: 13, Type: "bcd8"}, {Metric: "i", At: 14, Type: "bytes"},
		}
	})
	var got []string
	for _, r := range planOf(t, s).layout.readings(unhex(t, "01 FFF6 B5A0 4366199A 41422000 1A 0102"), 1) {
		v := fmt.Sprint(r.Value.Num)
		switch r.Value.Kind {
		case devices.KindText:
			v = fmt.Sprintf("%q", r.Value.Text)
		case devices.KindBool:
			v = fmt.Sprint(r.Value.Bool)
		case devices.KindBytes:
			v = fmt.Sprintf("%x", r.Value.Bytes)
		case devices.KindNone:
			v = r.Reason
		}
		got = append(got, r.Metric+"="+v+r.Unit)
	}
	if want := `a=0Cel b=63231 c=true d=3 e=90 f=230.1 g="AB" h=not-bcd i=0102`; strings.Join(got, " ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, " "), want)
	}
}

func scale(l *drivertest.Line) *Settings {
	s := with(fixed)
	s.Port, s.Checksum, s.Length = l.Path, "crc16-ccitt-false", 6
	s.Fields = []Field{{Metric: "weight", At: 2, Type: "uint16", Unit: "g"}}
	return s
}

func weighed(n uint16) string {
	b := binary.BigEndian.AppendUint16([]byte{0xAA, 0x55}, n)
	return string(binary.BigEndian.AppendUint16(b, uint16(octets.Checks["crc16-ccitt-false"].Of(b))))
}

// TestPort: damage is told and costs nothing else; a pause ends what has no end.
func TestPort(t *testing.T) {
	l := drivertest.NewLine(t)
	s := scale(l)
	s.Gap = time.Second
	s.Match, s.MatchAt = "00", 2 // other frames are for somebody else
	b := drivertest.Start(t, Driver{}, s, stream.MaxWait)
	count := func(name string, n uint64) {
		t.Helper()
		b.Wait(t, fmt.Sprint(name, " ", n), func(_ []devices.Reading, c map[string]uint64) bool { return c[name] == n })
	}
	l.Send(weighed(7) + weighed(0x100) + weighed(8))
	count("frames_ok", 2)
	count("frames_ignored", 1)
	broken := []byte(weighed(9))
	broken[3]++
	l.Send(string(broken) + weighed(10) + weighed(11)[:4])
	count("frames_ok", 3)
	count("checksum_errors", 1)
	count("bytes", 34)
	b.Clock.Advance(2 * time.Second)
	l.Send(weighed(12))
	count("frames_ok", 4)
	count("frames_torn", 1)
	var got []string
	for _, r := range b.Readings() {
		got = append(got, fmt.Sprint(r.Value.Num, r.Reason))
	}
	if want := []string{"7", "8", "0bad-checksum", "10", "12"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestContract(t *testing.T) {
	bad := map[string]func(*Settings){
		"no port":                func(s *Settings) { s.Port = "" },
		"framing":                func(s *Settings) { s.Framing = "lines" },
		"no length":              func(s *Settings) { s.Length = 0 },
		"length beyond the most": func(s *Settings) { s.Length = 300 },
		"start no bytes":         func(s *Settings) { s.Start = "AG" },
		"nothing to begin with":  func(s *Settings) { s.Start, s.Checksum = "", "none" },
		"checksum":               func(s *Settings) { s.Checksum = "crc7" },
		"checksum order":         func(s *Settings) { s.ChecksumOrder = "middle" },
		"end of a length":        func(s *Settings) { s.End = "03" },
		"no end":                 func(s *Settings) { stx(s); s.Length, s.End = 0, "" },
		"long mark":              func(s *Settings) { stx(s); s.Length, s.Start = 0, "02 03" },
		"the escape as a mark":   func(s *Settings) { slip(s); s.Length, s.Start, s.End = 0, "", "DB" },
		"xor without an escape":  func(s *Settings) { stx(s); s.Length, s.EscapeXor = 0, "20" },
		"escaped no byte":        func(s *Settings) { slip(s); s.Length, s.Start = 0, ""; s.Escaped = map[string]string{"DC": "C0C0"} },
		"length size":            func(s *Settings) { length(s); s.LengthSize = 3 },
		"length order":           func(s *Settings) { length(s); s.LengthOrder = "" },
		"negative gap":           func(s *Settings) { s.Gap = -1 },
		"max_length":             func(s *Settings) { s.MaxLength = 1 << 20 },
		"match":                  func(s *Settings) { s.Match = "0" },
		"no field":               func(s *Settings) { s.Fields = nil },
		"field without a name":   func(s *Settings) { s.Fields[0].Metric = "" },
		"field twice":            func(s *Settings) { s.Fields = append(s.Fields, s.Fields[0]) },
		"field type":             func(s *Settings) { s.Fields[0].Type = "int" },
		"field outside":          func(s *Settings) { s.Fields[0].At = 5 },
		"field before":           func(s *Settings) { s.Fields[0].At = -1 },
		"field unit":             func(s *Settings) { s.Fields[0].Unit = "k g" },
		"field order":            func(s *Settings) { s.Fields[0].Order = "up" },
		"field size":             func(s *Settings) { s.Fields[0].Size = 2 },
		"bits outside":           func(s *Settings) { s.Fields[0].Type, s.Fields[0].Bit = "bits", 8 },
		"bits of a number":       func(s *Settings) { s.Fields[0].Bit = 1 },
	}
	changes := map[string]func(devices.Settings){}
	for name, f := range bad {
		changes[name] = func(s devices.Settings) { f(s.(*Settings)) }
	}
	drivertest.Run(t, drivertest.Contract{
		Driver: Driver{},
		Make: func(t *testing.T) drivertest.Fixture {
			l := drivertest.NewLine(t)
			n := uint16(0)
			return drivertest.Fixture{
				Settings: scale(l), Step: stream.MaxWait, Lose: l.Unplug, Return: l.Plug,
				Feed: func() { n++; l.Send(weighed(n)) },
				Flood: func(stop func() bool) {
					for !stop() {
						if _, err := unix.Write(l.Fd, []byte(weighed(n))); err != nil {
							return
						}
					}
				},
				Within: time.Second, Reasons: []string{"port-lost"},
			}
		},
		Bad: changes,
	})
}

// FuzzFrames: the pieces in which bytes come change nothing, what is kept is bounded, and every reading is valid.
func FuzzFrames(f *testing.F) {
	sets := []func(*Settings){fixed, length, slip, hdlc, dle, stx}
	for i, in := range []string{"AA550102 02 AA5503", "7E 02 0102 0000 7E01", "C001DBDCC0", "7E3132", "1002011010030210", "0231320302"} {
		b, _ := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		f.Add(b, uint8(i), uint8(2))
	}
	f.Fuzz(func(t *testing.T, in []byte, which, piece uint8) {
		s := with(sets[int(which)%len(sets)])
		if len(in) > 4096 {
			return
		}
		s.MaxLength = 64
		s.Fields = []Field{{Metric: "a", Type: "uint8"}, {Metric: "b", At: 1, Type: "text"}, {Metric: "c", At: 2, Type: "bcd8"}}
		p := planOf(t, s)
		whole := cutAll(p, in, len(in)+1)
		if got := cutAll(p, in, int(piece)+1); !slices.Equal(got, whole) {
			t.Fatalf("pieces of %d: %q, whole: %q", int(piece)+1, got, whole)
		}
		c := p.cutter()
		c.bytes(in, func(frame []byte) error {
			if len(frame) > s.MaxLength {
				t.Errorf("a frame of %d bytes", len(frame))
			}
			if bytes.Contains(frame, []byte{0xFF}) {
				return errors.New("none")
			}
			for _, r := range p.layout.readings(frame, 1) {
				if err := devices.Validate(r); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		if n := c.pause(); n > 64 {
			t.Errorf("%d bytes are kept", n)
		}
	})
}
