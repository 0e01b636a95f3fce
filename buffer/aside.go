package buffer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// asideNote lies beside what was set aside.
type asideNote struct {
	Reason  string      `json:"reason"`
	Settled [][2]uint64 `json:"settled"` // positions that were acknowledged or dropped before
}

// setAside moves something damaged to aside/, its bytes and the reason kept.
func (b *Buffer) setAside(path, reason string, settled ranges) (string, error) {
	dir := filepath.Join(b.disk.root, "aside")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	base := strings.TrimPrefix(filepath.Base(path), "dead-")
	to := filepath.Join(dir, base)
	for i := 1; ; i++ {
		if _, err := os.Lstat(to); os.IsNotExist(err) {
			break
		}
		to = filepath.Join(dir, fmt.Sprintf("%s.%d", base, i))
	}
	if err := os.Rename(path, to); err != nil {
		return "", fmt.Errorf("set aside %s: %w", path, err)
	}
	writeNote(to, asideNote{reason, settled.pairs(maxAckSpans)})
	b.mu.Lock()
	b.stats.SegmentsAside++
	b.mu.Unlock()
	b.env.Log.Error("damaged, set aside; its bytes are kept for buffer repair", "path", to, "reason", reason)
	return to, nil
}

func writeNote(path string, n asideNote) {
	if body, err := json.Marshal(n); err == nil {
		_ = os.WriteFile(path+".reason", append(body, '\n'), 0o600) // only a help: Repair goes without
	}
}

func readNote(path string) asideNote {
	var n asideNote
	body, err := os.ReadFile(path + ".reason")
	if err != nil || json.Unmarshal(body, &n) != nil {
		return asideNote{}
	}
	return n
}

// dropAside removes the oldest set-aside store to keep max_bytes, as long as they take more
// than spare: what is in line comes before what is damaged. It says whether there was one.
func (b *Buffer) dropAside(spare int64) bool {
	all := asideStores(b.disk.root)
	if len(all) == 0 || b.repairing || usage(filepath.Join(b.disk.root, "aside")) < spare {
		return false
	}
	b.env.Log.Warn("set-aside store removed to keep max_bytes", "path", all[0])
	os.Remove(all[0] + ".reason")
	return os.RemoveAll(all[0]) == nil
}

func (b *Buffer) quota() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cfg.MaxBytes
}

// asideStores lists what was set aside; segments sort by age.
func asideStores(root string) []string {
	entries, _ := os.ReadDir(filepath.Join(root, "aside"))
	var out []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".reason") {
			out = append(out, filepath.Join(root, "aside", e.Name()))
		}
	}
	sort.Strings(out)
	return out
}
