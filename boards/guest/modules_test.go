package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestModulesOrder: what a module needs comes before it, and once.
func TestModulesOrder(t *testing.T) {
	root := t.TempDir()
	for name, needs := range map[string]string{"usb-core": "", "serial_base": "usb-core", "ftdi": "usb_core,serial-base"} {
		module(t, filepath.Join(root, "lib/modules/6.1/kernel", name+".ko"), needs)
	}
	m, err := newModules(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ftdi", "serial-base"} {
		if err := m.need(name); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for _, f := range m.order {
		order = append(order, strings.TrimSuffix(filepath.Base(f), ".ko"))
	}
	if got := strings.Join(order, " "); got != "usb-core serial_base ftdi" {
		t.Errorf("got %s", got)
	}
	if err := m.need("absent"); err == nil || !strings.Contains(err.Error(), "absent: not in the kernel package") {
		t.Errorf("a module that is not there: %v", err)
	}
	if _, err := newModules(t.TempDir()); err == nil {
		t.Error("no modules, and no error")
	}
}

// module writes the least of a kernel module: an ELF file with a section .modinfo.
func module(t *testing.T, file, needs string) {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	info := "license=GPL\x00depends=" + needs + "\x00"
	var out bytes.Buffer
	head := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_AARCH64), Version: 1, Ehsize: 64, Shoff: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01") // 64 bits, little-endian, version 1
	const data = 64 + 3*64
	for _, part := range []any{head, elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: data, Size: uint64(len(info))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: data + uint64(len(info)), Size: uint64(len(names))},
		[]byte(info + names),
	} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
