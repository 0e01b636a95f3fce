package guest

import (
	"fmt"
	"io"
)

// Archive writes an initramfs: cpio in the "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst
// in the kernel's source).
type Archive struct {
	w     io.Writer
	inode int
	err   error
}

// NewArchive begins one on w.
func NewArchive(w io.Writer) *Archive { return &Archive{w: w} }

// The kinds of entries, as in stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

// Dir adds a folder; its parent must have been added before.
func (a *Archive) Dir(name string) { a.entry(name, typeDir|0o755, 0, 0, nil) }

// File adds a file; its folder must have been added before.
func (a *Archive) File(name string, perm int, data []byte) { a.entry(name, typeFile|perm, 0, 0, data) }

// Device adds a character device.
func (a *Archive) Device(name string, major, minor int) {
	a.entry(name, typeChar|0o600, major, minor, nil)
}

// Close ends the archive and says what went wrong on the way.
func (a *Archive) Close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

func (a *Archive) entry(name string, mode, major, minor int, data []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	// Magic; then 8 hexadecimal digits each: inode, mode, uid, gid, links, time, size, device of the
	// archive, device of the entry, length of the name with its NUL, checksum (none).
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0) + name + "\x00"
	a.padded([]byte(head))
	a.padded(data)
}

// padded writes and fills up to 4 bytes: a head with its name too ends there.
func (a *Archive) padded(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(append(b, make([]byte, (4-len(b)%4)%4)...))
	}
}
