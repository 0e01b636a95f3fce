package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// storeMark is data_dir/store.mark: what the store of a cluster's node had when this was last noted, at most a second
// before the node ended. What has been on this disk and is not any more was damaged. It lies outside the store, and
// without it only the checksums judge.
type storeMark struct {
	ID      string                 `json:"id"` // of the store
	Streams map[string]extent      `json:"streams,omitempty"`
	Terms   map[string]uint64      `json:"terms,omitempty"`   // the highest of each group that votes
	Entries map[string]uint64      `json:"entries,omitempty"` // of these: the last that is agreed and was synced here
	Files   map[string]fileMark    `json:"files,omitempty"`   // after a stop in order: what there was, exactly
	Damaged string                 `json:"damaged,omitempty"` // what was found while the node ran
	Others  map[string]storedThere `json:"others,omitempty"`  // what the other nodes' stores had
}

// fileMark is what a file was when nobody wrote it any more.
type fileMark struct {
	Size int64  `json:"size"`
	Sum  uint32 `json:"sum,omitempty"` // CRC32C of one that has no checksum in it
}

// storedThere is what another node has said that its disk has.
type storedThere struct {
	ID   string            `json:"id"`
	Life uint64            `json:"life"`
	Last map[string]uint64 `json:"last"` // entry by group
}

const storeMarkFile = "store.mark"

// readStoreMark returns an empty mark where there is none that can be read.
func readStoreMark(dir string) (m storeMark, err error) {
	data, err := optional(filepath.Join(dir, storeMarkFile))
	if err != nil {
		return m, fmt.Errorf("read what the store had: %w", err)
	}
	sum, text, _ := strings.Cut(string(data), "\n")
	if sum != fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli)) || json.Unmarshal([]byte(text), &m) != nil {
		return storeMark{}, nil
	}
	return m, nil
}

// write replaces the mark; synced: also a power cut finds it.
func (m storeMark) write(dir string, synced bool) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("note what the store has: %w", err)
	}
	data := append(fmt.Appendf(nil, "%08x\n", crc32.Checksum(text, castagnoli)), text...)
	file := filepath.Join(dir, storeMarkFile)
	if synced {
		err = writeSynced(file, data)
	} else if err = os.WriteFile(file+".new", data, 0o600); err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("note what the store has: %w", err)
	}
	return nil
}

// judge says what a scan lacks of what is noted, or nil.
func (m storeMark) judge(scan storeScan, dir string) error {
	for name, had := range m.Streams {
		has, there := scan.streams[name]
		switch {
		case !there:
			return damagedf("the stream %s is gone", name)
		case !scan.partly && has.Holes > had.Holes:
			return damagedf("the stream %s lacks %d slots in its middle", name, has.Holes-had.Holes)
		}
	}
	for name, had := range m.Terms {
		if has, there := scan.terms[name]; !there || has < had {
			return damagedf("what was promised in the group %s is gone: its term is %d, and was %d", name, has, had)
		}
	}
	for name, had := range m.Entries {
		if has, there := scan.entries[name]; there && has < had {
			return damagedf("what was agreed in the group %s is gone: it ends at entry %d, and had %d", name, has, had)
		}
	}
	if len(m.Files) == 0 {
		return nil
	}
	now, err := markFiles(dir)
	if err != nil {
		return err
	}
	for name, had := range m.Files {
		if has, there := now[name]; !there || has != had {
			return damagedf("the file %s is not what it was when the node stopped: %d bytes in place of %d", filepath.Join(dir, name), has.Size, had.Size)
		}
	}
	return nil
}

// markFiles looks at all files of a store that nobody writes and whose loss the engine would not tell.
func markFiles(dir string) (map[string]fileMark, error) {
	out := map[string]fileMark{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		mark := fileMark{}
		switch name := d.Name(); {
		case strings.HasSuffix(name, ".blk") && filepath.Base(filepath.Dir(path)) != "msgs": // what the engine still removes
			return nil
		case strings.HasSuffix(name, ".blk"):
			st, err := d.Info()
			if err != nil {
				return err
			}
			mark.Size = st.Size()
		case name == "tav.idx" || name == "peers.idx":
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			mark = fileMark{int64(len(data)), crc32.Checksum(data, castagnoli)}
		default:
			return nil
		}
		name, err := filepath.Rel(dir, path)
		out[name] = mark
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look at the store's files: %w", err)
	}
	return out, nil
}

// extents is what this node's own replicas have, by the word of its own engine.
func (e *engine) extents() (map[string]extent, error) {
	srv := e.server()
	if srv == nil {
		return nil, errEngine
	}
	acc, err := srv.JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	if err != nil {
		return nil, fmt.Errorf("look at the streams: %w", err)
	}
	out := map[string]extent{}
	for _, d := range acc.Streams {
		if d.State.Msgs > 0 {
			out[d.Name] = extent{d.State.FirstSeq, d.State.LastSeq, uint64(d.State.NumDeleted)}
		}
	}
	return out, nil
}

// agreed is the last entry of each group that the nodes have agreed on and that this one has on its disk. The engine syncs the
// log of a group with each write, which it does not do for the streams that are made of it.
func (e *engine) agreed() (map[string]uint64, error) {
	srv := e.server()
	if srv == nil {
		return nil, errEngine
	}
	out := map[string]uint64{}
	for _, account := range []string{"", "$G"} { // the system's own: who is a member; and that of the streams
		status := srv.Raftz(&server.RaftzOptions{AccountFilter: account})
		if status == nil {
			continue
		}
		for _, groups := range *status {
			for name, g := range groups {
				out[name] = min(g.Committed, g.PIndex)
			}
		}
	}
	return out, nil
}

// sameAs says that there is nothing new to note.
func (m storeMark) sameAs(o storeMark) bool {
	return m.ID == o.ID && m.Damaged == o.Damaged && maps.Equal(m.Streams, o.Streams) && maps.Equal(m.Terms, o.Terms) && maps.Equal(m.Entries, o.Entries) &&
		maps.EqualFunc(m.Others, o.Others, func(a, b storedThere) bool { return a.ID == b.ID && a.Life == b.Life && maps.Equal(a.Last, b.Last) })
}

// clone is a copy that does not change with the original.
func (m storeMark) clone() storeMark {
	m.Streams, m.Terms, m.Entries = maps.Clone(m.Streams), maps.Clone(m.Terms), maps.Clone(m.Entries)
	others := map[string]storedThere{}
	for node, o := range m.Others {
		o.Last = maps.Clone(o.Last)
		others[node] = o
	}
	m.Others = others
	return m
}
