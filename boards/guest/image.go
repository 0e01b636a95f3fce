package guest

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
)

// Image is the initramfs of one board.
type Image struct {
	Board    Board
	Init     string   // file: cmd/guest-init, built for the board
	Programs []string // files that the guest has in /bin
	Card     bool     // it has the first disk, an ext4, as /card
}

// write makes the initramfs at path.
func (i Image) write(s Store, path string) (err error) {
	m, err := newModules(s.kernel(i.Board.Debian))
	if err != nil {
		return err
	}
	needed := i.Board.Modules
	if i.Card {
		needed = append([]string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}, needed...)
	}
	for _, name := range needed {
		if err := m.need(name); err != nil {
			return err
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	a := NewArchive(w)
	for _, dir := range []string{"dev", "proc", "sys", "bin", "modules.d", "etc"} {
		a.Dir(dir)
	}
	a.Device("dev/console", 5, 1)
	a.File("etc/machine-id", 0o444, []byte("0123456789abcdef0123456789abcdef\n"))
	if err := add(a, "init", i.Init); err != nil {
		return err
	}
	for _, p := range i.Programs {
		if err := add(a, "bin/"+filepath.Base(p), p); err != nil {
			return err
		}
	}
	var list strings.Builder
	for _, file := range m.order {
		name := "modules.d/" + filepath.Base(file)
		list.WriteString("/" + name + "\n")
		if err := add(a, name, file); err != nil {
			return err
		}
	}
	a.File("modules", 0o444, []byte(list.String()))
	if err := a.Close(); err != nil {
		return err
	}
	return w.Flush()
}

func add(a *Archive, name, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	a.File(name, 0o755, data)
	return nil
}
