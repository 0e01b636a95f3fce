// Package program is what both programs are besides what they do: a command line whose
// exit codes mean something, and a daemon that a service manager can look after.
//
// It promises: exit 0 for done, 1 when the answer is no, 2 for wrong use, with the name
// that was probably meant, 3 when it could not be done; --json, version, man and
// completion in either program; a log that the journal understands; the word ready to
// the service manager when the daemon serves, and a watchdog that is fed only while it
// makes progress. The first SIGINT or SIGTERM ends the context, the second the process.
//
// It will not read settings, go into the background, rotate logs or update anything.
package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes.
const (
	Done     = 0
	AnswerNo = 1
	WrongUse = 2
	CouldNot = 3 // what any other error means
)

// Exit is an error that carries its exit code. With no message, everything is said.
type Exit struct {
	Code int
	Msg  string
}

func (e Exit) Error() string { return e.Msg }

// Usage is the error of wrong use.
func Usage(format string, args ...any) error { return Exit{WrongUse, fmt.Sprintf(format, args...)} }

// No is the answer no: what there is to say has been printed.
var No = Exit{Code: AnswerNo}

// Env is what the commands have of their process.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr *os.File
	Getenv func(string) string
	JSON   bool // --json
}

// Main runs the process's command line in the tree that is made for it, and ends the process.
func Main(tree func(*Env) *cobra.Command) {
	os.Exit(main(tree))
}

func main(tree func(*Env) *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal has its usual effect: it ends us at once
	e := &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
	return e.Run(ctx, tree(e), os.Args[1:])
}

// Run runs one command line and returns its exit code. root gets what both programs have.
func (e *Env) Run(ctx context.Context, root *cobra.Command, args []string) int {
	out := &output{Writer: e.Stdout}
	e.Stdout = out
	e.dress(root)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = out.err
	}
	if err == nil {
		return Done
	}
	var exit Exit
	if !errors.As(err, &exit) {
		exit = Exit{CouldNot, err.Error()}
	}
	if exit.Msg != "" {
		fmt.Fprintf(e.Stderr, "%s: %s\n", cmd.CommandPath(), exit.Msg)
	}
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintln(e.Stderr, "Run it as root, or as the user that the service runs as.")
	}
	if exit.Code == WrongUse {
		fmt.Fprintf(e.Stderr, "See: %s --help\n", cmd.CommandPath())
	}
	return exit.Code
}

// output remembers that something could not be written, so that no command has to look
// after each line.
type output struct {
	io.Writer
	err error
}

// Fd is the file's beneath, for whoever asks whether it is a terminal; none: no file's number.
func (o *output) Fd() uintptr {
	if f, is := o.Writer.(interface{ Fd() uintptr }); is {
		return f.Fd()
	}
	return ^uintptr(0)
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// PrintJSON writes v for a program to read.
func (e *Env) PrintJSON(v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
