package buffer

import "os"

// abandon ends a store as a killed process does, as far as one process can: its files
// stay as they are now, which a copy keeps while Badger closes.
func (s *store) abandon() {
	dir := s.db.Opts().Dir
	keep := dir + ".keep"
	copyTree(dir, keep)
	_ = s.db.Close()
	removeAll(dir)
	rename(keep, dir)
}

func removeAll(dir string)     { _ = os.RemoveAll(dir) }
func rename(from, to string)   { _ = os.Rename(from, to) }
func copyTree(from, to string) { _ = os.CopyFS(to, os.DirFS(from)) }
