package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/buffer"
)

// A gateway that is given another name is another gateway to the broker: its numbers
// begin anew (see KeyID in openBuffer), and its ledger must not be told to expect
// what an epoch under the old name still owes. The data directory remembers the name
// in gateway-id and the epochs under earlier names in gateway-id.old, one per line.

// causeRenamed is the cause of the epoch that a new name opens.
const causeRenamed = "renamed"

// settleName notes the name and returns the epochs that were under another.
func settleName(dataDir, gateway string, o buffer.Opening) (others map[string]bool, err error) {
	path := filepath.Join(dataDir, "gateway-id")
	last, err := readLines(path)
	if err != nil {
		return nil, err
	}
	list, err := readLines(path + ".old")
	if err != nil {
		return nil, err
	}
	renamed := len(last) == 1 && last[0] != gateway
	if renamed {
		list = append(list, o.PrevEpoch)
		for _, e := range o.OldEpochs {
			list = append(list, e.Epoch)
		}
		if err := replaceFile(path+".old", strings.Join(list, "\n")+"\n"); err != nil {
			return nil, err
		}
	}
	if renamed || len(last) != 1 {
		if err := replaceFile(path, gateway+"\n"); err != nil {
			return nil, err
		}
	}
	others = map[string]bool{}
	for _, e := range list {
		others[e] = e != ""
	}
	return others, nil
}

func readLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("gateway id: %w", err)
	}
	return strings.Fields(string(b)), nil
}

// replaceFile writes a small file whole or not at all.
func replaceFile(path, text string) error {
	tmp, err := writeTemp(path, []byte(text))
	if err == nil {
		err = errors.Join(os.Rename(tmp, path), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
