package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

// wide is how long a line of the files may be: a port, with all that is said of it, is one line.
const wide = 160

// layout writes JSON for people who review it: what fits on a line is on one.
func layout(data []byte) ([]byte, error) {
	var b bytes.Buffer
	d := json.NewDecoder(bytes.NewReader(data))
	if err := value(&b, d, 0); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// value writes the decoder's next value.
func value(b *bytes.Buffer, d *json.Decoder, depth int) error {
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return err
	}
	if len(raw)+depth <= wide || raw[0] != '[' && raw[0] != '{' {
		b.Write(raw)
		return nil
	}
	in := json.NewDecoder(bytes.NewReader(raw))
	if _, err := in.Token(); err != nil {
		return err
	}
	b.WriteByte(raw[0])
	for i := 0; in.More(); i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n" + strings.Repeat(" ", depth+1))
		if raw[0] == '{' {
			key, err := in.Token()
			if err != nil {
				return err
			}
			name, err := json.Marshal(key)
			if err != nil {
				return err
			}
			b.Write(name)
			b.WriteString(": ")
		}
		if err := value(b, in, depth+1); err != nil {
			return err
		}
	}
	b.WriteString("\n" + strings.Repeat(" ", depth))
	b.WriteByte(raw[len(raw)-1])
	return nil
}
