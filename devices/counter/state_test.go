package counter

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// dirs are folders that do not exist yet, as the agent names them.
func dirs(t *testing.T) (card, tmpfs string) {
	return filepath.Join(t.TempDir(), "devices", "meter"), filepath.Join(t.TempDir(), "devices", "meter")
}

func put(t *testing.T, dir string, s state) {
	t.Helper()
	if err := saveState(dir, s, true); err != nil {
		t.Fatal(err)
	}
}

func TestRecall(t *testing.T) {
	at := func(number, count uint64, ended bool) *state {
		return &state{Count: count, Number: number, Ended: ended}
	}
	for name, c := range map[string]struct {
		card, tmpfs *state
		damage      bool // of the card's
		count       uint64
		doubt       string
		found       bool
	}{
		"never counted":                     {nil, nil, false, 0, "", false},
		"stopped":                           {at(9, 100, true), at(8, 100, false), false, 100, notWatched, true},
		"stopped and rebooted":              {at(9, 100, true), nil, false, 100, notWatched, true},
		"killed":                            {at(3, 40, false), at(8, 100, false), false, 100, notWatched, true},
		"killed, no tmpfs":                  {at(3, 40, false), nil, false, 40, countGap, true},
		"power cut":                         {at(3, 40, false), nil, false, 40, countGap, true},
		"the user removed the file":         {nil, at(8, 100, false), false, 0, "", false},
		"damaged":                           {at(3, 40, false), nil, true, 0, countLost, true},
		"damaged, but still in the tmpfs":   {at(3, 40, false), at(8, 100, false), true, 100, notWatched, true},
		"a card from before, a later tmpfs": {at(3, 40, false), at(3, 40, false), false, 40, notWatched, true},
	} {
		t.Run(name, func(t *testing.T) {
			card, tmpfs := dirs(t)
			if c.card != nil {
				put(t, card, *c.card)
			}
			if c.tmpfs != nil {
				put(t, tmpfs, *c.tmpfs)
			}
			if c.damage {
				if err := os.WriteFile(filepath.Join(card, stateFile), []byte(`{"count":41,"lost":0,"ended":false,"number":3,"sum":1}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s, doubt, found, problem := recall(card, tmpfs)
			if s.Count != c.count || doubt != c.doubt || found != c.found || (problem != nil) != c.damage {
				t.Errorf("count %d, %q, found %t, %v", s.Count, doubt, found, problem)
			}
			if _, err := os.Stat(filepath.Join(card, stateFile+".damaged")); (err == nil) != c.damage {
				t.Errorf("kept aside: %v", err)
			}
		})
	}
	if _, doubt, found, err := recall("", ""); found || doubt != "" || err != nil {
		t.Error("nowhere to keep it, but something was found")
	}
}

// TestAPowerCutWhileWriting leaves the one before: what is half there is not looked at.
func TestAPowerCutWhileWriting(t *testing.T) {
	card, _ := dirs(t)
	put(t, card, state{Count: 7, Number: 1})
	if err := os.WriteFile(filepath.Join(card, stateFile+".new"), []byte(`{"cou`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := loadState(card); err != nil || s.Count != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	put(t, card, state{Count: 8, Number: 2})
	if s, err := loadState(card); err != nil || s.Count != 8 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := loadState(filepath.Join(card, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzState: what is read was written so; everything else is refused.
func FuzzState(f *testing.F) {
	f.Add(encodeState(state{Count: 1234, Lost: 5, Ended: true, Number: 77}))
	f.Add([]byte(`{"count":-1}`))
	f.Add(bytes.Repeat([]byte{0}, 200))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := decodeState(in)
		if err != nil {
			return
		}
		again, err := decodeState(encodeState(s))
		if err != nil || again != s || s.Count > maxCount {
			t.Errorf("%+v became %+v: %v", s, again, err)
		}
	})
}

func TestEachBitOfTheStateCounts(t *testing.T) {
	good := encodeState(state{Count: 1234, Lost: 5, Ended: true, Number: 77})
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if s, err := decodeState(bad); err == nil && (s.Count != 1234 || s.Lost != 5 || !s.Ended || s.Number != 77) {
			t.Errorf("bit %d: %s is taken", i, bad)
		}
	}
}
