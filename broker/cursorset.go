package broker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// cursorSet is many positions. On disk it is short where they are neighbours, as what is in hand of a
// group mostly is: {"node": [[batch, first index, last index], …]}.
type cursorSet []cursor

// maxRun bounds what one run on disk may stand for: no batch has more records.
const maxRun = 1 << 20

// MarshalJSON writes the positions in the order of the logs, each once.
func (s cursorSet) MarshalJSON() ([]byte, error) {
	all := slices.Clone(s)
	slices.SortFunc(all, cursor.compare)
	out := map[string][][]uint64{}
	for _, c := range slices.Compact(all) {
		runs := out[c.Node]
		if n := len(runs); n > 0 && runs[n-1][0] == c.Batch && runs[n-1][2]+1 == uint64(c.Index) {
			runs[n-1][2]++
			continue
		}
		out[c.Node] = append(runs, []uint64{c.Batch, uint64(c.Index), uint64(c.Index)})
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads also the plain list of before.
func (s *cursorSet) UnmarshalJSON(data []byte) error {
	*s = nil
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return json.Unmarshal(data, (*[]cursor)(s))
	}
	var in map[string][][3]uint64
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	for node, runs := range in {
		for _, r := range runs {
			if r[2] < r[1] || r[2]-r[1] >= maxRun || r[2] > 1<<32-1 || len(*s) > maxRun {
				return fmt.Errorf("a run of positions %d/%d-%d", r[0], r[1], r[2])
			}
			for i := r[1]; i <= r[2]; i++ {
				*s = append(*s, cursor{node, r[0], uint32(i)})
			}
		}
	}
	slices.SortFunc(*s, cursor.compare)
	return nil
}
