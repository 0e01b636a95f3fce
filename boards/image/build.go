package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/boards"
)

// input is what an image is made of.
type input struct {
	firmware, kernel, settings, root string
	wants                            []boards.Want
	epoch                            time.Time // of every file
}

// build writes the image, whole or not at all.
func build(b board, in input, to string) error {
	work, err := os.MkdirTemp(filepath.Dir(to), ".image") // beside the image: there is room for it
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	parts := []string{filepath.Join(work, "boot"), in.root, filepath.Join(work, "data")}
	files, err := b.bootFiles(in, work)
	if err != nil {
		return err
	}
	if err := makeFAT(parts[0], layout[0].size, files, in.epoch); err != nil {
		return fmt.Errorf("boot partition: %w", err)
	}
	if err := makeExt4(parts[2], layout[2].size, in.epoch); err != nil {
		return fmt.Errorf("data partition: %w", err)
	}
	whole := filepath.Join(work, "image")
	if err := assemble(whole, parts); err != nil {
		return err
	}
	return os.Rename(whole, to)
}

// bootFiles is what the boot partition holds, by name there.
func (b board) bootFiles(in input, work string) (map[string]string, error) {
	files := map[string]string{"vmlinuz": filepath.Join(in.kernel, "vmlinuz"), "LICENCE.linux": filepath.Join(in.kernel, "LICENSE.linux")}
	for _, f := range b.firmware {
		files[f] = filepath.Join(in.firmware, f)
	}
	if len(b.firmware) > 0 {
		files["LICENCE.broadcom"] = filepath.Join(in.firmware, "LICENSE.broadcom")
	}
	for to, pattern := range b.patterns(in) {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("%s: no such files: %w", pattern, errors.Join(err, os.ErrNotExist))
		}
		for _, f := range found {
			files[path.Join(path.Dir(to), filepath.Base(f))] = f
		}
	}
	for name, text := range map[string]string{"config.txt": b.configTxt(in.wants), "cmdline.txt": b.cmdline(in.wants)} {
		files[name] = filepath.Join(work, name)
		if err := os.WriteFile(files[name], []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// patterns is where the files come from of which there are several, by where they go.
func (b board) patterns(in input) map[string]string {
	p := map[string]string{"overlays/*": filepath.Join(in.kernel, "overlays", "*.dtb*"), "holdfast/*": filepath.Join(in.settings, "*")}
	for _, t := range b.trees {
		p[t] = filepath.Join(in.kernel, t)
	}
	return p
}

// makeFAT makes the boot partition. Files are written in the order of their names, so that each is always at the same place.
func makeFAT(file string, size int64, files map[string]string, epoch time.Time) error {
	if err := truncate(file, size); err != nil {
		return err
	}
	env := environment(epoch)
	if err := tool(env, "mkfs.vfat", "-F", "32", "-s", "2", "--invariant", "-n", "HOLDFAST", file); err != nil {
		return err
	}
	var names, folders []string
	for name := range files {
		names = append(names, name)
		if dir := path.Dir(name); dir != "." && !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	slices.Sort(names)
	slices.Sort(folders)
	for _, f := range folders {
		if err := tool(env, "mmd", "-i", file, "::"+f); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := tool(env, "mcopy", "-i", file, files[name], "::"+name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// The data partition's name for itself, and the seed of its folders' hashes: the same on every card, as nothing looks for them.
const dataUUID = "686f6c64-6661-4374-8000-64617461fffe"

// makeExt4 makes the data partition: small, with tables that let it grow to 512 GiB while it is mounted.
func makeExt4(file string, size int64, epoch time.Time) error {
	if err := truncate(file, size); err != nil {
		return err
	}
	return tool(environment(epoch), "mke2fs", "-q", "-F", "-t", "ext4", "-L", "holdfast-data", "-U", dataUUID, "-b", "4096", "-i", "16384", "-m", "1", "-J", "size=16",
		"-E", "hash_seed="+dataUUID+",resize=134217728,lazy_itable_init=0,lazy_journal_init=0,nodiscard", file)
}

// environment is where tools find which time it is.
func environment(epoch time.Time) []string {
	seconds := fmt.Sprint(epoch.Unix())
	return append(os.Environ(), "TZ=UTC", "LC_ALL=C", "MTOOLS_SKIP_CHECK=1", "SOURCE_DATE_EPOCH="+seconds, "E2FSPROGS_FAKE_TIME="+seconds,
		"PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin") // mkfs.vfat and mke2fs lie there
}

func tool(env []string, name string, args ...string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		file = "/sbin/" + name
	}
	cmd := exec.Command(file, args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s(Debian packages: dosfstools, mtools, e2fsprogs)", name, err, out)
	}
	return nil
}

func truncate(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// assemble puts the table and the partitions into one file, with holes where there is nothing.
func assemble(to string, parts []string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(imageSize()); err != nil {
		return err
	}
	if _, err := out.WriteAt(table(), 0); err != nil {
		return err
	}
	for i, p := range layout {
		if err := place(out, parts[i], p); err != nil {
			return fmt.Errorf("partition %d: %w", i+1, err)
		}
	}
	return errors.Join(out.Sync(), out.Close())
}

func place(out *os.File, file string, p partition) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if info.Size() > p.size {
		return fmt.Errorf("%s is %d MiB, and there is room for %d", file, (info.Size()+mebi-1)/mebi, p.size/mebi)
	}
	buf, nothing := make([]byte, mebi), make([]byte, mebi)
	for at := p.start; ; {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], nothing[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// report says what was made, and what to do with it.
func report(out io.Writer, b board, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	system := layout[dataPartition-1].start / align
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s\n  %d bytes (%d MiB), sha256 %x\n", file, size, size/mebi, sum.Sum(nil))
	fmt.Fprintf(&text, `
NO IMAGE HAS BEEN TESTED ON A REAL BOARD: this one neither. docs/IMAGE.md says what was tested in an emulator.

Write it to a card. What is on the card is lost: look twice which disk it is.
  lsblk -d -o NAME,SIZE,TRAN,MODEL
  sudo dd if=%s of=/dev/sdX bs=4M conv=fsync status=progress

A card of Holdfast's that is in use keeps its key and its readings if only the system on it is replaced:
  sudo dd if=%s of=/dev/sdX bs=4M conv=fsync,notrunc status=progress skip=1 seek=1 count=%d
`, file, file, system-1)
	_, err = io.WriteString(out, text.String())
	return err
}
