package broker

import "bytes"

// plainVector reads a vector that is not empty, as json.Marshal writes it, with plain names. False: it is anything else.
func plainVector(data []byte) (out vector, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte("["))
	for ok {
		var c cursor
		if c, rest, ok = plainCursor(rest); !ok {
			break
		}
		out = append(out, c)
		if string(rest) == "]" {
			return out, true
		}
		rest, ok = bytes.CutPrefix(rest, []byte(","))
	}
	return nil, false
}

func plainCursor(data []byte) (c cursor, rest []byte, ok bool) {
	if rest, ok = bytes.CutPrefix(data, []byte("{")); !ok {
		return c, nil, false
	}
	if name, named := bytes.CutPrefix(rest, []byte(`"node":"`)); named {
		end := bytes.IndexByte(name, '"')
		if end < 0 || bytes.ContainsFunc(name[:end], func(r rune) bool { return r < ' ' || r > '~' || r == '\\' }) {
			return c, nil, false
		}
		c.Node = string(name[:end])
		if rest, ok = bytes.CutPrefix(name[end+1:], []byte(",")); !ok {
			return c, nil, false
		}
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`"batch":`)); !ok {
		return c, nil, false
	}
	if c.Batch, rest, ok = plainNumber(rest, 19); !ok {
		return c, nil, false
	}
	if index, has := bytes.CutPrefix(rest, []byte(`,"index":`)); has {
		var n uint64
		if n, rest, ok = plainNumber(index, 9); !ok {
			return c, nil, false
		}
		c.Index = uint32(n)
	}
	rest, ok = bytes.CutPrefix(rest, []byte("}"))
	return c, rest, ok
}

// plainNumber reads a number of so many digits at most.
func plainNumber(data []byte, digits int) (n uint64, rest []byte, ok bool) {
	at := 0
	for ; at < len(data) && data[at] >= '0' && data[at] <= '9'; at++ {
		if at == digits {
			return 0, nil, false
		}
		n = 10*n + uint64(data[at]-'0')
	}
	return n, data[at:], at == 1 || at > 1 && data[0] != '0'
}
