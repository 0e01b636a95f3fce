package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"holdfast/systemd/settings"
)

func TestLogInTheJournal(t *testing.T) {
	var out bytes.Buffer
	log, err := newLog(&out, "text", "info", true)
	if err != nil {
		t.Fatal(err)
	}
	log = log.With("part", "x").WithGroup("g")
	log.Debug("no")
	log.Info("ready", "n", 1)
	log.Warn("w", "level", 2)
	log.Error("e", "err", errors.New("two\nlines"))
	want := `<6>msg=ready part=x g.n=1
<4>msg=w part=x g.level=2
<3>msg=e part=x g.err="two\nlines"
`
	if out.String() != want {
		t.Errorf("wrote\n%swant\n%s", out.String(), want)
	}
}

func TestBuildInformation(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"}, {Key: "GOARM", Value: "6"},
	}}
	want := Build{Version: "(devel)-dirty", Commit: "0123456789ab", Time: "2026-01-02T03:04:05Z", Go: "go1.26", Arch: "v6"}
	if got := buildOf(info, true); got != want {
		t.Errorf("%+v", got)
	}
	if got := buildOf(nil, false); got != (Build{Go: "unknown"}) {
		t.Errorf("%+v", got)
	}
}

// try runs a command line in a small tree: what it prints, and its exit code.
func try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	errFile, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer errFile.Close()
	var out bytes.Buffer
	e := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: errFile, Getenv: func(string) string { return "" }}
	root := &cobra.Command{Use: "prog", Short: "A program", Long: "What it is."}
	sub := &cobra.Command{Use: "box", Short: "Holds others"}
	sub.AddCommand(&cobra.Command{Use: "open NAME", Short: "Open it", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, list []string) error {
		return map[string]error{"no": No, "never": errors.New("the lid is stuck"), "locked": &fs.PathError{Op: "open", Path: "/box", Err: fs.ErrPermission}}[list[0]]
	}})
	root.AddCommand(sub, &cobra.Command{Use: "check", Short: "Check", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return e.Report([]settings.Problem{{File: "f", Message: "odd", Warning: true}}, "good")
	}})
	code = e.Run(context.Background(), root, args)
	text, err := os.ReadFile(errFile.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), string(text), code
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		out  string // in standard output
		err  string // in standard error; "": nothing there
	}{
		{"", WrongUse, "", "prog: which command? one of: box, check, completion, man, version\nSee: prog --help\n"},
		{"bxo", WrongUse, "", `there is no command "bxo"; did you mean "box"?`},
		{"zebra", WrongUse, "", `there is no command "zebra"; there are: box, check`},
		{"box", WrongUse, "", "prog box: which command? one of: open\n"},
		{"box opne x", WrongUse, "", `did you mean "open"?`},
		{"box open", WrongUse, "", "accepts 1 arg(s), received 0"},
		{"box open yes", Done, "", ""},
		{"box open no", AnswerNo, "", ""},
		{"box open never", CouldNot, "", "prog box open: the lid is stuck\n"},
		{"box open locked", CouldNot, "", "Run it as root, or as the user that the service runs as.\n"},
		{"box open yes --fog", WrongUse, "", "unknown flag: --fog"},
		{"version now", WrongUse, "", "now"},
		{"check", Done, "f: warning: odd\ngood\n", ""},
		{"check --json", Done, `"ok": true`, ""},
		{"completion", WrongUse, "", "one of: bash, fish, powershell, zsh"},
		{"completion tcsh", WrongUse, "", `"tcsh"`},
		{"completion bash", Done, "bash completion", ""},
		{"help bxo", WrongUse, "", `did you mean "box"?`},
		{"help box opne", WrongUse, "", `did you mean "open"?`},
		{"help box open", Done, "prog box open NAME", ""},
		{"box open --help", Done, "prog box open NAME", ""},
		{"help", Done, "Exit codes: 0 done", ""},
		{"man", Done, ".TH PROG 1", ""},
		{"man a b", WrongUse, "", "at most 1"},
	} {
		stdout, stderr, code := try(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout, c.out) || !strings.Contains(stderr, c.err) || c.err == "" && stderr != "" || c.out == "" && stdout != "" {
			t.Errorf("prog %s: exit %d, printed %q and %q; want %d, %q, %q", c.args, code, stdout, stderr, c.code, c.out, c.err)
		}
	}
}

// TestFullDisk: what could not be printed is not done.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range []string{"say", "version", "man", "help", "completion bash"} {
		e := &Env{Stdout: full, Stderr: os.Stderr, Getenv: os.Getenv}
		root := &cobra.Command{Use: "prog"}
		root.AddCommand(&cobra.Command{Use: "say", RunE: func(*cobra.Command, []string) error {
			fmt.Fprintln(e.Stdout, "something")
			return nil
		}})
		if code := e.Run(context.Background(), root, strings.Fields(args)); code != CouldNot {
			t.Errorf("%s: exit %d", args, code)
		}
	}
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	if _, stderr, code := try(t, "man", dir); code != Done {
		t.Fatal(code, stderr)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Contains(names, "prog.1") || !slices.Contains(names, "prog-box-open.1") {
		t.Errorf("pages: %v", names)
	}
	page, err := os.ReadFile(filepath.Join(dir, "prog-box-open.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`.TH PROG\-BOX\-OPEN 1`, `\fB\-\-json\fR`, ".SH EXIT STATUS", `\fBprog\-box\fR(1)`} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
}
