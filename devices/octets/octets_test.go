package octets

import (
	"encoding/hex"
	"testing"
)

// TestChecks: the check values of the catalogue, over "123456789".
func TestChecks(t *testing.T) {
	for name, want := range map[string]uint32{
		"crc8-maxim-dow": 0xA1, "crc8-nrsc5": 0xF7, "crc16-modbus": 0x4B37, "crc16-ccitt-false": 0x29B1, "crc16-ccitt-xmodem": 0x31C3, "crc16-ccitt-kermit": 0x2189, "crc16-ccitt-x25": 0x906E,
		"crc32": 0xCBF43926, "sum8": 0xDD, "sum16": 0x01DD, "lrc8": 0x23, "xor8": 0x31,
	} {
		if got := Checks[name].Of([]byte("123456789")); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
	if len(Checks) != 12 {
		t.Errorf("%d checks", len(Checks))
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		t      Type
		in     string
		want   float64
		exact  bool
		reason string
	}{
		{"uint8", "FF", 255, true, ""}, {"int8", "FF", -1, true, ""}, {"bcd8", "42", 42, true, ""}, {"bcd8", "4A", 0, false, "not-bcd"},
		{"uint16", "FFFE", 65534, true, ""}, {"int16", "FFFE", -2, true, ""}, {"uint24", "010000", 65536, true, ""}, {"int24", "FFFFFF", -1, true, ""},
		{"uint32", "FFFFFFFF", 4294967295, true, ""}, {"int32", "80000000", -2147483648, true, ""}, {"float32", "43661999", 230.09999, true, ""},
		{"float32", "4366199A", 230.1, true, ""}, {"float64", "3FB999999999999A", 0.1, true, ""}, {"bcd32", "12345678", 12345678, true, ""},
		{"uint64", "0020000000000000", 1 << 53, true, ""}, {"uint64", "0020000000000001", 1 << 53, false, ""}, {"int64", "FFFFFFFFFFFFFFFF", -1, true, ""},
		{"bcd64", "9999999999999999", 1e16, false, ""},
	} {
		b, _ := hex.DecodeString(c.in)
		if len(b) != Sizes[c.t] {
			t.Fatalf("%s has %d bytes", c.t, Sizes[c.t])
		}
		v, exact, reason := Number(c.t, b)
		if v != c.want || exact != c.exact || reason != c.reason {
			t.Errorf("%s %s: %v %v %q", c.t, c.in, v, exact, reason)
		}
	}
	if v := Bits([]byte{0xA5, 0x3C}, 2, 4); v != 0xF {
		t.Errorf("bits: %x", v)
	}
	for _, c := range []struct{ factor, offset, raw, want float64 }{{0.1, 0, 1234, 123.4}, {0.1, -40, 1, -39.9}, {2, 1, 3, 7}, {0.3, 0, 1, 0.3}, {-0.01, 0, 5, -0.05}} {
		if got := NewScale(c.factor, c.offset).Of(c.raw); got != c.want {
			t.Errorf("%v × %v + %v: %v", c.raw, c.factor, c.offset, got)
		}
	}
}
