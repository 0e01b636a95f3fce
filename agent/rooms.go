package agent

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// rooms are the folders for what a device keeps; not made yet.
type rooms struct {
	state   string // on the card
	runtime string // on a tmpfs; "": there is none
}

// rooms are those of one device. A runtime directory that is not a tmpfs is none: what is
// written there at each reading would wear out a card.
func (c Config) rooms(device string) rooms {
	r := rooms{state: filepath.Join(c.DataDir, "devices", device)}
	var st unix.Statfs_t
	if dir := c.Buffer.RuntimeDir; dir != "" && unix.Statfs(dir, &st) == nil && isTmpfs(st) {
		r.runtime = filepath.Join(dir, "devices", device)
	}
	return r
}
