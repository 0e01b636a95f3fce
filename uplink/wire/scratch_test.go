package wire

import (
	"strings"
	"testing"
)

// TestHeadersInTurn: what the last header leaves behind is never taken for what this one says.
func TestHeadersInTurn(t *testing.T) {
	full := func(change func(*Header)) Header {
		h := testHeader(1)
		h.Alg, h.Kid, h.Version = algHS256, "kid", Version
		change(&h)
		return h
	}
	written := func(change func(*Header)) string { h := full(change); return string(h.appendJSON(nil)) }
	same := func(*Header) {}
	plain := written(same)
	quoted := written(func(h *Header) { h.Topic = `a"b` })
	headers := []string{
		plain,
		written(func(h *Header) { h.Seq, h.Floor, h.Total = 8, 0, maxInteger }),
		written(func(h *Header) { h.Topic = "gw/gw-0042/sc" }), // begins as the last one
		written(func(h *Header) { h.Topic = "gw/gw-0042/scales" }),
		written(func(h *Header) { h.Topic = "gw/Ü" }),
		written(func(h *Header) { h.Topic = "gw/\xff" }),
		written(func(h *Header) { h.Topic = "gw/\x01" }),
		written(func(h *Header) { h.Topic = "" }),
		quoted,
		strings.Replace(quoted, `a\"b`, `a"b`, 1),
		strings.Replace(plain, "scale", `sc\u0061le`, 1),
		strings.Replace(plain, `"seq":7`, `"seq":07`, 1),
		strings.Replace(plain, `"seq":7`, `"seq":-7`, 1),
		strings.Replace(plain, `"seq":7`, `"seq":7.0`, 1),
		strings.Replace(plain, `"seq":7`, `"seq":`, 1),
		strings.Replace(plain, `"seq":7`, `"seq":9007199254740992`, 1),
		strings.Replace(plain, `"seq":7`, `"seq":99999999999999999999999999`, 1),
		strings.Replace(plain, `"n":1`, `"n":2147483648`, 1),
		strings.Replace(plain, `,"seq"`, ` ,"seq"`, 1),
		plain + " ", plain + "}", plain[:len(plain)-1], plain[:len(plain)-2], plain[:40], "", "{}",
	}
	quick := 0
	for _, before := range headers {
		for _, s := range headers {
			var w scratch
			w.parseHeader([]byte(before))
			h, err := w.parseHeader([]byte(s))
			want, wantErr := parseJSONHeader(s)
			if (err == nil) != (wantErr == nil) || err == nil && h != want {
				t.Errorf("after %q\n%q\nis %+v (%v), and alone %+v (%v)", before, s, h, err, want, wantErr)
			}
			if _, ok := parseWritten([]byte(s), &w.last); ok {
				quick++
			}
		}
	}
	if want := 6 * len(headers); quick != want { // what appendJSON wrote without an escape, also an empty topic, which check refuses
		t.Errorf("%d of them were read the quick way, expected %d", quick, want)
	}
}

// TestOpenAllocates: a message of a device that has been heard before is taken apart without any memory of its own.
func TestOpenAllocates(t *testing.T) {
	for _, format := range []Format{JSON, CBOR} {
		m, err := Seal(format, testHeader(1), benchPacks()["256B"], testKey(t, HMACSHA256, 1))
		if err != nil {
			t.Fatal(err)
		}
		var w scratch
		if n := testing.AllocsPerRun(100, func() { _, err = open(m, &w) }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations (%v)", format, n, err)
		}
	}
}

// TestWrittenCOSE: every message that we seal is read the quick way, whatever its numbers and texts.
func TestWrittenCOSE(t *testing.T) {
	var w scratch
	for _, alg := range []string{HMACSHA256, Ed25519} {
		for _, n := range []uint64{1, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32, maxInteger} {
			h := testHeader(1)
			h.Seq, h.Floor, h.Total, h.Mono, h.Topic = n, 0, n, int64(n), strings.Repeat("ü", int(min(n, 300)))
			m, err := Seal(CBOR, h, benchPacks()["256B"], testKey(t, alg, 1))
			if err != nil {
				t.Fatal(err)
			}
			got, ok := openWrittenCOSE(m.Payload, &w)
			if want, err := openAnyCOSE(m.Payload); !ok || err != nil || got.header != want.header {
				t.Errorf("%s, %d: %v, %+v, not %+v (%v)", alg, n, ok, got.header, want.header, err)
			}
			for i := range m.Payload[:len(m.Payload)-1] {
				if _, ok := openWrittenCOSE(m.Payload[:i+1], &w); ok {
					t.Errorf("%s, %d: taken with only %d bytes", alg, n, i+1)
				}
			}
		}
	}
}
