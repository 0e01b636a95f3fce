// Command holdfast-broker is the broker node and the tool to look after it.
//
// It promises the exit codes 0 (done), 1 (the answer is no), 2 (wrong use) and 3
// (could not be done), and errors that say what went wrong, where, and what to do
// next. Commands only wire: what they do is in package broker and below. Those that act
// on a running broker talk to its admin API, on the node itself over the unix socket.
//
// It will not go into the background, rotate logs or update itself; the service
// manager does that.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Filled in by the linker (make build); else version() asks the build information.
var (
	version   string
	commit    string
	buildTime string
)

func main() { os.Exit(realMain()) }

func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal has its usual effect: it ends us at once
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	return a.main(ctx, os.Args[1:])
}
