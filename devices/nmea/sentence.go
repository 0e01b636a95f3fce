package nmea

import (
	"bytes"
	"errors"
	"strings"
)

// maxSentence is how long a sentence may be, without its line end. The standard says 82
// characters with it (IEC 61162-1 section 7.3); receivers with more digits exceed that.
const maxSentence = 256

// sentence is "$" talker, type, fields and checksum (IEC 61162-1 section 7.3).
type sentence struct {
	talker string   // two letters: "GP", "GN"; "P" and no more for a proprietary one
	kind   string   // three letters: "GGA"
	fields []string // behind the address
}

var (
	errNone     = errors.New("not a sentence")
	errChecksum = errors.New("bad checksum")
)

// parse reads a line. Bytes before the last "$" are noise: what was sent while the receiver
// was switched on. checksum: a sentence without one is refused.
func parse(line []byte, checksum bool) (sentence, error) {
	i := bytes.LastIndexByte(line, '$')
	if i < 0 {
		return sentence{}, errNone
	}
	body, sum, given := bytes.Cut(line[i+1:], []byte("*"))
	sum = bytes.TrimRight(sum, " \r")
	switch {
	case given && !sumIs(body, sum), !given && checksum:
		return sentence{}, errChecksum
	}
	for _, c := range body {
		if c < ' ' || c > '~' { // IEC 61162-1 section 7.1
			return sentence{}, errNone
		}
	}
	fields := strings.Split(string(body), ",")
	s := sentence{fields: fields[1:]}
	switch address := fields[0]; {
	case strings.HasPrefix(address, "P"):
		s.talker, s.kind = "P", address[1:]
	case len(address) == 5:
		s.talker, s.kind = address[:2], address[2:]
	default:
		return sentence{}, errNone
	}
	return s, nil
}

// sumIs says whether sum is the exclusive or of body, in two hexadecimal digits
// (IEC 61162-1 section 7.2.3.5).
func sumIs(body, sum []byte) bool {
	if len(sum) != 2 {
		return false
	}
	var x byte
	for _, c := range body {
		x ^= c
	}
	const digits = "0123456789ABCDEF"
	upper := bytes.ToUpper(sum)
	return upper[0] == digits[x>>4] && upper[1] == digits[x&15]
}

// field returns a field, or "" if the sentence is shorter.
func (s *sentence) field(i int) string {
	if i >= len(s.fields) {
		return ""
	}
	return strings.TrimSpace(s.fields[i])
}

// navigation says whether the talker is a satellite receiver: GPS, GLONASS, Galileo, BeiDou,
// QZSS, NavIC, or several together (GN).
func (s *sentence) navigation() bool {
	switch s.talker {
	case "GP", "GN", "GL", "GA", "GB", "BD", "GQ", "GI":
		return true
	}
	return false
}
