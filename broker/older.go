package broker

import (
	"fmt"
	"maps"
)

// This file is about a disk that was put back to what it held before. Its node has forgotten what it acknowledged for
// the logs of all, and whom it voted for: with another node that lags it could elect away what a quorum had stored. The
// disk itself cannot know. So every node says in its beats which entry of each group is the last that was agreed and is
// on its disk, synced, and the others note it. A life that began with less than the same store had in an earlier one is told, and gives its copy up as a
// damaged one (heal.go). No clock takes part.

// diskBeat is what a node says of its disk.
type diskBeat struct {
	Life  uint64            `json:"life"`            // random, of this start
	Began map[string]uint64 `json:"began,omitempty"` // by group: the last entry that was there then
	Last  map[string]uint64 `json:"last,omitempty"`  // and the last that is agreed now
	AsIs  bool              `json:"as_is,omitempty"` // an administrator has said that it is to be used

	Older map[string]string `json:"older,omitempty"` // node → id of its store, which had more in an earlier life
}

// beat is what this node says.
func (d *disk) beat() *diskBeat {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &diskBeat{Life: d.life, Began: d.began, Last: d.now, AsIs: d.forced, Older: maps.Clone(d.older)}
}

// begin is the beginning of a life: with what is in the groups' logs, and of that what was noted as agreed. The end of a group's log
// may never have been: the next leader, which does not have it, cuts it off, and whoever had heard of it would take that for loss.
func (d *disk) begin(there, agreed map[string]uint64) {
	d.began, d.now, d.older = map[string]uint64{}, map[string]uint64{}, map[string]string{}
	maps.Copy(d.began, there)
	for group, entry := range agreed {
		if last, has := there[group]; has {
			d.now[group] = min(entry, last)
		}
	}
}

// noteDisk sees what another node says of its disk, and of this one's.
func (b *Broker) noteDisk(m beat) {
	if !m.Starting {
		b.steady.hear(m.Node, m.Incarnation, m.Clock, b.opening.Load())
	}
	if m.Disk == nil {
		return
	}
	if m.Disk.Older[b.cfg.Node.Name] == b.id.ID {
		b.spoil(fmt.Errorf("%w: it was put back to an earlier state, because node %s has seen it with more", errStoreDamaged, m.Node))
	}
	if stream, had := b.disk.heard(m); stream != "" {
		b.log.Error("a node has come back with a disk of an earlier state: it gives its copy of the logs up, and makes it anew", "node", m.Node,
			"group", stream, "had", had, "has", m.Disk.Began[stream])
	}
}

// heard notes what a node has, and says where it began with less than it had in an earlier life of the same store.
func (d *disk) heard(m beat) (older string, had uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.mark.Others[m.Node]
	if d.older[m.Node] == m.ID && !m.Disk.AsIs {
		return "", 0 // it was told, and goes on saying what it has
	}
	delete(d.older, m.Node)
	if was.ID == m.ID && !m.Disk.AsIs {
		for stream, n := range was.Last {
			began, there := m.Disk.Began[stream]
			if was.Life != m.Disk.Life && there && began < n { // where it is not there, its own mark judges: replicas move
				d.older[m.Node] = m.ID
				return stream, n
			}
		}
	}
	last := maps.Clone(m.Disk.Last)
	if was.ID == m.ID && was.Life != m.Disk.Life && last != nil { // what was agreed once stays so, also before the new life has noted it
		for group, n := range was.Last {
			if _, there := m.Disk.Began[group]; there && !m.Disk.AsIs {
				last[group] = max(last[group], n)
			}
		}
	}
	d.mark.Others[m.Node] = storedThere{ID: m.ID, Life: m.Disk.Life, Last: last}
	return "", 0
}
