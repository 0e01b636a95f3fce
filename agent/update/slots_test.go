package update

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestSlots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if _, _, err := readSlots(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for i := range 10 {
		want := fmt.Appendf(nil, `{"n":%d}`, i)
		if err := writeSlot(path, want); err != nil {
			t.Fatal(err)
		}
		got, _, err := readSlots(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d: %s, %v", i, got, err)
		}
		if info, _ := os.Stat(path); info.Size() != 2*slotSize {
			t.Fatalf("%d bytes", info.Size())
		}
	}
}

// TestSlotsDamaged: whatever is wrong with the copy that is being written, what was there
// before or what is new is read, and the next write mends it.
func TestSlotsDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for i := range 3 {
		if err := writeSlot(path, fmt.Appendf(nil, `"state %d"`, i)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeSlot(path, []byte(`"state 3"`)); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(path)
	at := 0
	for before[at] == after[at] {
		at++
	}
	at = at / slotSize * slotSize
	damages := map[string]func(b []byte){
		"zeros":   func(b []byte) { clear(b) },
		"ones":    func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, len(b))) },
		"json":    func(b []byte) { copy(b, `{"current":"evil"}`) },
		"swapped": func(b []byte) { b[headerSize] ^= 1 },
	}
	for n := 0; n <= slotSize; n += 13 { // the write ended after n bytes
		damages[fmt.Sprint(n, " bytes")] = func(b []byte) { copy(b[n:], before[at+n:at+slotSize]) }
	}
	for name, damage := range damages {
		b := bytes.Clone(after)
		damage(b[at : at+slotSize])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, _, err := readSlots(path)
		if err != nil || string(got) != `"state 2"` && string(got) != `"state 3"` {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if err := writeSlot(path, []byte(`"mended"`)); err != nil {
			t.Fatal(err)
		}
		if got, _, err := readSlots(path); err != nil || string(got) != `"mended"` {
			t.Errorf("%s: not mended: %s, %v", name, got, err)
		}
	}
	for _, garbage := range []string{"", "x", string(bytes.Repeat([]byte{7}, 3*slotSize))} {
		if err := os.WriteFile(path, []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readSlots(path); !errors.Is(err, errState) {
			t.Errorf("%d bytes of garbage: %v", len(garbage), err)
		}
		if err := writeSlot(path, []byte(`"anew"`)); err != nil {
			t.Fatal(err)
		}
		if got, _, err := readSlots(path); err != nil || string(got) != `"anew"` {
			t.Errorf("%s, %v", got, err)
		}
	}
}

// TestSlotsNeedNoRoom: the file is written in place.
func TestSlotsNeedNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := writeSlot(path, []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	first, _ := os.Stat(path)
	for range 5 {
		if err := writeSlot(path, []byte(`2`)); err != nil {
			t.Fatal(err)
		}
	}
	if last, _ := os.Stat(path); !os.SameFile(first, last) {
		t.Error("another file took its place")
	}
}

// TestStateFits: however long its words are.
func TestStateFits(t *testing.T) {
	var s State
	for i := range 50 {
		s.note(WentBack, string(bytes.Repeat([]byte{'v'}, 64)), fmt.Sprint(i, string(bytes.Repeat([]byte{'"'}, 5000))))
	}
	s.Current, s.Previous = string(bytes.Repeat([]byte{'c'}, 77)), string(bytes.Repeat([]byte{'p'}, 77))
	s.Trial = &Trial{Release: s.Current, Boot: string(bytes.Repeat([]byte{'b'}, 40))}
	body, err := s.encode(slotSize - headerSize)
	if err != nil || len(body) > slotSize-headerSize {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
	if b := makeSlot(1, body); len(b) != slotSize {
		t.Errorf("a slot of %d bytes", len(b))
	}
}

func FuzzSlot(f *testing.F) {
	f.Add(makeSlot(7, []byte(`{"current":"v1"}`)))
	f.Add([]byte("holdfast-update 1 1 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, count, ok := parseSlot(b)
		if ok && !bytes.HasPrefix(b, makeSlot(count, body)[:headerSize]) {
			t.Error("taken, and would not be written so")
		}
	})
}
