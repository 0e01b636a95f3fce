package counter

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

// state is what a counter keeps.
type state struct {
	Count  uint64 `json:"count"`
	Lost   uint64 `json:"lost"`
	Ended  bool   `json:"ended"`  // written when the device stopped: there was nothing behind it
	Number uint64 `json:"number"` // of this writing, on the card and in the runtime directory together
	Sum    uint32 `json:"sum"`    // CRC-32 (IEEE) of the others
}

const (
	stateFile = "count.json"
	maxState  = 4096 // bytes of it: it has about 100
)

func (s state) sum() uint32 {
	return crc32.ChecksumIEEE(fmt.Appendf(nil, "%d %d %t %d", s.Count, s.Lost, s.Ended, s.Number))
}

// encodeState is the file's content.
func encodeState(s state) []byte {
	s.Sum = s.sum()
	b, _ := json.Marshal(s) // numbers and a truth value
	return append(b, '\n')
}

// decodeState reads it.
func decodeState(b []byte) (state, error) {
	var s state
	if len(b) > maxState {
		return s, fmt.Errorf("%d bytes are too many", len(b))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, err
	}
	if s.Sum != s.sum() {
		return state{}, errors.New("the checksum is wrong")
	}
	if s.Count > maxCount {
		return state{}, fmt.Errorf("the count %d is too large", s.Count)
	}
	return s, nil
}

// loadState reads the state in dir; fs.ErrNotExist: there is none.
func loadState(dir string) (state, error) {
	name := filepath.Join(dir, stateFile)
	b, err := os.ReadFile(name)
	if err != nil {
		return state{}, err
	}
	s, err := decodeState(b)
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// saveState replaces the state in dir as a whole: a power cut leaves the one before or this
// one. durable: it is on the card when this returns.
func saveState(dir string, s state, durable bool) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dir, stateFile)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(encodeState(s))
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	if !durable {
		return nil
	}
	// The folder, and the one that has it: either may be new.
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)), syncDir(filepath.Dir(filepath.Dir(dir))))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// setAside keeps a state that cannot be read for whoever can.
func setAside(dir string) error {
	name := filepath.Join(dir, stateFile)
	return os.Rename(name, name+".damaged")
}

// recall is where the count goes on, and why it may be wrong: "" if there never was one. The
// state of the runtime directory is newer, if it is of this boot and of what is on the card.
func recall(stateDir, runtimeDir string) (s state, doubt string, found bool, problem error) {
	if stateDir == "" {
		return state{}, "", false, nil
	}
	card, err := loadState(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, "", false, nil // also if there is one at runtime: who removes the file wants to begin anew
	}
	if err != nil {
		problem = errors.Join(err, setAside(stateDir))
	}
	recent, recentErr := state{}, fs.ErrNotExist
	if runtimeDir != "" {
		recent, recentErr = loadState(runtimeDir)
	}
	switch {
	case recentErr == nil && (err != nil || recent.Number >= card.Number):
		return recent, notWatched, true, problem
	case err != nil:
		return state{}, countLost, true, problem
	case card.Ended:
		return card, notWatched, true, nil
	}
	return card, countGap, true, nil
}
