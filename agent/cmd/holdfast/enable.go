package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/boards"
	"holdfast/systemd/program"
)

func (a *app) enableCommand() *cobra.Command {
	var board, file string
	var write bool
	cmd := &cobra.Command{
		Use:   "enable",
		Short: "Say which lines of config.txt the configuration's devices need; exit 1 if one is missing",
		Long: `Says which lines a Raspberry Pi's config.txt must have so that the buses and ports that the
configuration's devices use are there, and which of them are missing. With --write they are added;
the file as it was is kept beside it (config.txt.1, .2, ...). The board must then be restarted.

Lines under a condition, such as [pi4], are not counted: the firmware alone knows whether they hold.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, _, err := a.load()
			if err != nil {
				return err
			}
			if board != "" {
				cfg.Board = board
			}
			return a.enable(cfg, file, write)
		},
	}
	cmd.Flags().StringVar(&board, "board", "", "for this `board` (rpi-4), not for the one that it runs on")
	cmd.Flags().StringVar(&file, "file", "", "this `config.txt`, not the board's own; - for none, which lacks everything")
	cmd.Flags().BoolVar(&write, "write", false, "add the missing lines")
	return cmd
}

// enabling is what --json prints.
type enabling struct {
	Board   string        `json:"board"`
	File    string        `json:"file"`
	Wants   []boards.Want `json:"wants"`
	Missing []boards.Want `json:"missing"`
}

func (a *app) enable(cfg agent.Config, file string, write bool) error {
	state := boards.Look("/", cfg.Board)
	if _, known := boards.ByName(cfg.Board); !known && cfg.Board != "auto" && cfg.Board != "" {
		return program.Usage("no board is called %q; docs/boards.md lists them", cfg.Board)
	}
	if file == "" {
		file = state.BootFile()
	}
	text, err := readBootFile(file)
	if err != nil {
		return err
	}
	out := enabling{Board: state.Board.Name, File: file, Wants: agent.BootLines(cfg, state.Board)}
	out.Missing = boards.Missing(text, out.Wants)
	if out.Missing == nil {
		out.Missing = []boards.Want{} // [] and not null
	}
	added := boards.Added(text, out.Missing)
	if write && added != "" {
		if err := addToBootFile(file, text, added); err != nil {
			return err
		}
	}
	if a.JSON {
		err = a.PrintJSON(out)
	} else {
		a.tellEnabling(out, added, write)
	}
	if err == nil && len(out.Missing) > 0 && !write {
		return program.No
	}
	return err
}

func (a *app) tellEnabling(out enabling, added string, write bool) {
	if added == "" {
		fmt.Fprintf(a.Stdout, "%s (%s): nothing is missing, %d lines for these devices\n", out.File, out.Board, len(out.Wants))
		return
	}
	fmt.Fprintf(a.Stdout, "%s (%s):\n", out.File, out.Board)
	for line := range strings.Lines(strings.TrimPrefix(added, "\n")) {
		fmt.Fprintf(a.Stdout, "+%s", line)
	}
	if write {
		fmt.Fprintln(a.Stdout, "written; restart the board")
	}
}

func readBootFile(file string) (string, error) {
	if file == "-" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w; is the boot partition mounted? --file names another one", err)
	}
	return string(text), err
}

// addToBootFile keeps the old file under a name of its own and puts the new one in its place, whole.
func addToBootFile(file, text, added string) error {
	if file == "-" {
		return program.Usage("--write needs a file")
	}
	if err := keep(file, text); err != nil {
		return fmt.Errorf("keep %s as it was: %w", file, err)
	}
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + added)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", file, err)
	}
	return syncFolder(filepath.Dir(file))
}

// keep writes a copy to the first free name.
func keep(file, text string) error {
	for n := 1; ; n++ {
		f, err := os.OpenFile(fmt.Sprintf("%s.%d", file, n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) && n < 1000 {
			continue
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Sync(), f.Close())
	}
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
