package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// modules finds the files of kernel modules below a kernel's folder, each behind what it needs.
type modules struct {
	files map[string]string // name, with "_" for "-", → file
	order []string
}

func newModules(root string) (*modules, error) {
	m := &modules{files: map[string]string{}}
	err := filepath.WalkDir(filepath.Join(root, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			m.files[plain(strings.TrimSuffix(d.Name(), ".ko"))] = path
		}
		return err
	})
	if err == nil && len(m.files) == 0 {
		err = fmt.Errorf("%s: no kernel modules (*.ko): run .ci/guest", root)
	}
	return m, err
}

// plain: the kernel takes "-" and "_" in a module's name for the same.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// need adds a module and before it what it depends on.
func (m *modules) need(name string) error {
	file, ok := m.files[plain(name)]
	if !ok {
		return fmt.Errorf("module %s: not in the kernel package", name)
	}
	if slices.Contains(m.order, file) {
		return nil
	}
	info, err := moduleInfo(file)
	if err != nil {
		return err
	}
	for needed := range strings.SplitSeq(info["depends"], ",") {
		if needed == "" {
			continue
		}
		if err := m.need(needed); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	m.order = append(m.order, file)
	return nil
}

// moduleInfo reads the section that modinfo(8) shows.
func moduleInfo(file string) (map[string]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("%s: no section .modinfo: not a kernel module", file)
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	info := map[string]string{}
	for field := range bytes.SplitSeq(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(field), "="); ok {
			info[k] = v
		}
	}
	return info, nil
}
