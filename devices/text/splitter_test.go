package text

import (
	"bytes"
	"testing"
)

// FuzzSplitter: no line is longer than it may be or has a delimiter in it, and what is kept is bounded.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\r\nbb\n\n"), "\n", uint8(3))
	f.Add([]byte("aaaaaaaaaaaaaaaaab\r\r\n"), "\r\n", uint8(1))
	f.Add(bytes.Repeat([]byte("abab"), 100), "abc", uint8(9))
	f.Fuzz(func(t *testing.T, in []byte, delimiter string, piece uint8) {
		if delimiter == "" || len(delimiter) > 16 {
			return
		}
		s := Splitter{Delimiter: []byte(delimiter), TrimCR: delimiter == "\n", Max: 16}
		for n := int(piece) + 1; len(in) > 0; in = in[min(n, len(in)):] {
			s.Feed(in[:min(n, len(in))], func(line []byte, long bool) {
				if len(line) > s.Max || bytes.Contains(line, s.Delimiter) || long && line != nil {
					t.Errorf("a line that is none: %q", line)
				}
			})
			if cap(s.buf) > 128 {
				t.Fatalf("%d bytes are kept", cap(s.buf))
			}
		}
	})
}
