package broker

import (
	"fmt"
	"syscall"
)

// room refuses to write where the disk has no room left. It looks before the engine does,
// because the engine's store is read-only after it has failed once.
func (e *engine) room() error { return e.roomAbove(e.cfg.reserve) }

// roomToBegin lets the first record of a run into the reserve: a broker that is started on a full
// disk must serve, or nothing ever makes room.
func (e *engine) roomToBegin() error { return e.roomAbove(e.cfg.reserve / 16) }

func (e *engine) roomAbove(reserve int64) error {
	free, err := freeBytes(e.cfg.dir)
	if err != nil {
		return fmt.Errorf("look for free space in %s: %w", e.cfg.dir, err)
	}
	if free < reserve {
		return fmt.Errorf("%w: %d bytes free on the disk of %s, %d are kept in reserve", errStoreFull, free, e.cfg.dir, reserve)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
