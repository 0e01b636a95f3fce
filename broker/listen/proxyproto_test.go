package listen

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// proxyHeaders are the headers of the specification and what is not one.
var proxyHeaders = []struct{ name, header, client, err string }{
	{"v1 TCP4", "PROXY TCP4 192.0.2.7 10.0.0.1 49153 1883\r\n", "192.0.2.7:49153", ""},
	{"v1 TCP6", "PROXY TCP6 2001:db8::7 2001:db8::1 49153 1883\r\n", "[2001:db8::7]:49153", ""},
	{"v1 the longest", "PROXY UNKNOWN" + strings.Repeat(" ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 2) + " 65535 65535\r\n", "", ""},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", ""},
	{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7:1", ""},
	{"v1 wrong family", "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", "", "is no address of TCP4"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "", "is no address of TCP6"},
	{"v1 no port", "PROXY TCP4 192.0.2.7 10.0.0.1 49153\r\n", "", "malformed PROXY v1 line"},
	{"v1 port", "PROXY TCP4 192.0.2.7 10.0.0.1 65536 1\r\n", "", "out of range"},
	{"v1 destination", "PROXY TCP4 192.0.2.7 x 1 1\r\n", "", "malformed PROXY v1 line"},
	{"v1 UDP", "PROXY UDP4 192.0.2.7 10.0.0.1 1 1\r\n", "", "malformed PROXY v1 line"},
	{"v1 two spaces", "PROXY  TCP4 192.0.2.7 10.0.0.1 1 1\r\n", "", "malformed PROXY v1 line"},
	{"v1 unknown without a space", "PROXY UNKNOWNX\r\n", "", "malformed PROXY v1 line"},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 100) + "\r\n", "", "more than 107 bytes"},
	{"v1 cut", "PROXY TCP4 192.0.2.7", "", "EOF"},
	{"v2 TCP4", v2Header(0x21, 0x11, inet4...), "192.0.2.7:49153", ""},
	{"v2 UDP4", v2Header(0x21, 0x12, inet4...), "192.0.2.7:49153", ""},
	{"v2 TCP6", v2Header(0x21, 0x21, inet6...), "[2001:db8::7]:49153", ""},
	{"v2 TLVs", v2Header(0x21, 0x11, slices.Concat(inet4, tlvs)...), "192.0.2.7:49153", ""},
	{"v2 local", v2Header(0x20, 0x00), "", ""},
	{"v2 local with addresses", v2Header(0x20, 0x11, inet4...), "", ""},
	{"v2 unspecified", v2Header(0x21, 0x00, tlvs...), "", ""},
	{"v2 unix", v2Header(0x21, 0x31, make([]byte, 216)...), "", ""},
	{"v2 version 3", v2Header(0x31, 0x11, inet4...), "", "version and command 0x31"},
	{"v2 command", v2Header(0x22, 0x11, inet4...), "", "version and command 0x22"},
	{"v2 family", v2Header(0x21, 0x41, inet4...), "", "address family 0x41"},
	{"v2 short", v2Header(0x21, 0x21, inet4...), "", "too short for its addresses"},
	{"v2 long", v2Header(0x21, 0x11, make([]byte, 5000)...), "", "5000 bytes; at most 4096"},
	{"v2 cut", v2Header(0x21, 0x11, inet4...)[:20], "", "unexpected EOF"},
	{"nothing", "", "", "EOF"},
	{"MQTT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", "", `no PROXY header: it begins with "\x10\f\x00\x04MQ"`},
	{"HTTP", "GET /mqtt HTTP/1.1\r\n\r\n", "", `no PROXY header: it begins with "GET /m"`},
	{"signature that goes wrong", proxySignature[:8] + "xxxxxxxxxxx", "", "no PROXY header"},
}

// TestProxyHeader: what each says, and that not a byte behind it is taken, however it comes.
func TestProxyHeader(t *testing.T) {
	for _, c := range proxyHeaders {
		for way, through := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
			in := strings.NewReader(c.header)
			r := io.MultiReader(in, strings.NewReader(""))
			if c.err == "" {
				r = io.MultiReader(in, strings.NewReader("\x10rest"))
			}
			r = through(r)
			got, err := readProxyHeader(r)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s, %s: %v, want %q", c.name, way, err, c.err)
				}
				continue
			}
			client := ""
			if got.IsValid() {
				client = got.String()
			}
			rest, _ := io.ReadAll(r)
			if err != nil || client != c.client || string(rest) != "\x10rest" {
				t.Errorf("%s, %s: %q, %v, rest %q; want %q", c.name, way, client, err, rest, c.client)
			}
		}
	}
	if _, err := readProxyHeader(strings.NewReader("\x10\x0c\x00\x04MQTT")); !errors.Is(err, errNoProxyHeader) {
		t.Errorf("a short packet: %v", err)
	}
}

// FuzzProxyHeader: no panic, no more bytes taken than the header has, and what is taken for one
// says the same again.
func FuzzProxyHeader(f *testing.F) {
	for _, c := range proxyHeaders {
		f.Add([]byte(c.header))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		got, err := readProxyHeader(in)
		taken := len(data) - in.Len()
		if taken > proxyV2Head+proxyV2Max || len(data) > 0 && data[0] == 'P' && taken > proxyV1Max {
			t.Fatalf("%d bytes taken of %s", taken, hex.EncodeToString(data))
		}
		if err != nil {
			return
		}
		again, err := readProxyHeader(bytes.NewReader(data[:taken]))
		if err != nil || again != got {
			t.Fatalf("%v, then %v, %v", got, again, err)
		}
		if a := got.Addr(); got.IsValid() && (a.Is4In6() || a.Zone() != "") {
			t.Fatalf("address %v", a)
		}
	})
}
