package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"holdfast/agent"
)

// handOver gives what root just made to the data directory's owner: the service could
// neither read its key nor write its buffer otherwise. For others it does nothing.
func handOver(cfg agent.Config) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(cfg.DataDir)
	if err != nil {
		return err
	}
	owner, is := info.Sys().(*syscall.Stat_t)
	if !is || owner.Uid == 0 {
		return nil
	}
	give := func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	}
	if err := filepath.WalkDir(cfg.DataDir, give); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.KeyFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(cfg.KeyFile, give) // it may lie elsewhere
}
