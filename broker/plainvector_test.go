package broker

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
)

// slowVector is a vector as encoding/json reads it.
func slowVector(data []byte) (out vector, err error) {
	err = json.Unmarshal(data, (*[]cursor)(&out))
	return out, err
}

// TestPlainVector: what a vector is written as is read without encoding/json, unless a name or a number is out of the ordinary.
func TestPlainVector(t *testing.T) {
	for _, k := range []struct {
		v     vector
		plain bool
	}{
		{vector{{"n1", 12, 0}, {"n2", 1, 7}}, true},
		{vector{{"", 5, 3}}, true},
		{vector{{"a b-c.d~", 9_999_999_999_999_999_999, 999_999_999}}, true},
		{vector{}, false},
		{vector{{"n1", math.MaxUint64, 0}}, false},
		{vector{{"n1", 1, math.MaxUint32}}, false},
		{vector{{`n"1`, 1, 0}, {`n\1`, 1, 0}, {"nö", 1, 0}, {"<", 1, 0}}, false},
	} {
		data, err := json.Marshal(k.v)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := plainVector(data); ok != k.plain {
			t.Errorf("%s: read as plain: %v", data, ok)
		}
		var got vector
		if err := json.Unmarshal(data, &got); err != nil || !slices.Equal(got, k.v) {
			t.Errorf("%s: %v, %v", data, got, err)
		}
	}
}

// FuzzPlainVector: what is read without encoding/json is read as encoding/json reads it.
func FuzzPlainVector(f *testing.F) {
	for _, s := range []string{`[{"node":"n1","batch":12,"index":3},{"node":"n2","batch":1}]`, `[{"batch":7}]`, `[]`, `[{"batch":07}]`, `[{"batch":1},]`,
		`[{"node":"a\u0062","batch":1}]`, `[{"node":"n","batch":1,"index":4294967296}]`, `[ {"batch":1} ]`, `[{"node":"n","batch":1}]x`, `[{"node":"","batch":0}]`,
		`["node":"","batch":0}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := plainVector(data)
		if !ok {
			return
		}
		if want, err := slowVector(data); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, and encoding/json says %v, %v", data, got, want, err)
		}
	})
}
