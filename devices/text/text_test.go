package text

import (
	"testing"

	"holdfast/devices/drivertest"
)

// What lines become is tested through the driver serial-line.

// Values, as MESSAGE.md decides: what would not come back as it was written is text.
func TestUndeclaredValues(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0": "-0", "12.50": "12.5", "+3": "3", "-.5": "-0.5", "5.": "5", "1e3": "1000", "0.001": "0.001",
		"00123": `"00123"`, "007.5": `"007.5"`, "-01": `"-01"`, "0x10": `"0x10"`, "1_000": `"1_000"`, "1,5": `"1,5"`,
		"NaN": `"NaN"`, "inf": `"inf"`, "Infinity": `"Infinity"`, "1e999": `"1e999"`, "e5": `"e5"`, ".": `"."`, "+": `"+"`, "-": `"-"`,
		"9007199254740992": "9.007199254740992e+15", "9007199254740993": `"9007199254740993"`, "-9007199254740994": `"-9007199254740994"`,
		"18446744073709551616": `"18446744073709551616"`, "1 2": `"1 2"`, "٣": `"٣"`,
	} {
		m := metric{name: "m"}
		if got := drivertest.Show(m.reading(in, rawText, 0)); got != "m="+want {
			t.Errorf("%q is %s, want m=%s", in, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for in, want := range map[string]string{
		"00123": "123", "007.5": "7.5", "9007199254740993": "9.007199254740992e+15 uncertain:rounded",
		"NaN": " bad:not-a-number", "inf": " bad:not-a-number", "1e999": " bad:not-a-number", "0x1p4": " bad:not-a-number",
		"": " bad:empty", "abc": " bad:not-a-number", "1_0": " bad:not-a-number", "--1": " bad:not-a-number",
	} {
		m := metric{name: "m", kind: asNumber}
		if got := drivertest.Show(m.reading(in, rawText, 0)); got != "m="+want {
			t.Errorf("%q is %s, want m=%s", in, got, want)
		}
	}
}

// A line whose head is missing must not pass for a whole one.
func TestBeginsWithLetters(t *testing.T) {
	for pattern, want := range map[string]bool{
		`^n=(?P<n>\d+)$`: true, `^ST,GS,(?P<w>.*)$`: true, `\An=(?P<n>.)`: true, `^(?P<w>\d+)$`: false, `n=(?P<n>\d+)`: false,
		`^[a-z]=(?P<n>.)`: false, `^n?=(?P<n>.)`: false, `^1;(?P<n>.)`: false, `^ n=(?P<n>.)`: false, `^a|b(?P<n>.)`: false, `^`: false, `(`: false,
	} {
		if got := beginsWithLetters(pattern); got != want {
			t.Errorf("%q: %v, want %v", pattern, got, want)
		}
	}
}
