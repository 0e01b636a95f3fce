// Command demo shows the main job on one machine with Go alone: a meter on a real
// pseudo-terminal, the agent, the broker and a subscriber, an outage in the middle, a
// kill -9, and at the end the count: taken, delivered, missing. With NODES=3 the broker
// is a cluster: its nodes are killed and emptied while the readings flow.
//
// It watches from outside. It imports nothing of the project, so that its verdict is
// worth something: it knows what the meter wrote, and checks each signature that
// arrives with code of its own (jws.go) over the MQTT client of the Eclipse project.
//
// It promises to end only processes that it started, and that they end with it. Exit
// codes: 0 nothing is missing, 1 something is, 2 wrong use, 3 it could not be run.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const (
	exitMissing = 1
	exitUsage   = 2
	exitFailed  = 3
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == meterWord {
		os.Exit(meterMain(os.Args[2:]))
	}
	os.Exit(demoMain())
}

func demoMain() int {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "usage: demo   (make demo builds what it needs; it has no arguments)")
		return exitUsage
	}
	nodes, err := howMany(os.Getenv("NODES"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return exitCode(run(ctx, nodes))
}

// howMany reads NODES.
func howMany(nodes string) (int, error) {
	switch nodes {
	case "", "1":
		return 1, nil
	case "3":
		return 3, nil
	}
	return 0, fmt.Errorf("NODES=%s: there is a play for one node and one for three; write NODES=1 or NODES=3", nodes)
}

// prologue says what is about to be shown, and who judges it.
func prologue(nodes int) string {
	const meter = "A meter (simulated) writes lines to a serial port. The agent reads, signs and sends them to "
	const judge = "In the end each\nreading that the agent took from the port is looked for among those.\n"
	if nodes == 1 {
		return meter + "a broker;\nmosquitto_sub, which subscribed once, prints what the broker delivers. " + judge + "\n"
	}
	return fmt.Sprintf(meter+"one of %d brokers;\nmosquitto_sub, which subscribed once, prints what another one delivers. "+judge+
		"\"n1 ← agent\" and \"n1 → subscriber\" say which broker each of them uses, or tries to.\n\n", nodes)
}

// exitCode tells on standard error what kept the play from its end.
func exitCode(lost bool, err error) int {
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything that it started has been ended")
		return exitFailed
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo: it could not be run:", err)
		return exitFailed
	case lost:
		return exitMissing
	}
	return 0
}

// run sets the stage, plays, and says whether the verdict is against us.
func run(ctx context.Context, nodes int) (lost bool, err error) {
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	st, err := newStage(filepath.Dir(self), nodes)
	if err != nil {
		return false, err
	}
	fmt.Print(prologue(nodes))
	p := newPanel(os.Stdout)
	v, err := play(ctx, st, p)
	p.close()
	st.endAll()
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			st.keepLogs(os.Stderr)
		} else {
			st.remove()
		}
		return false, err
	}
	v.print(os.Stdout, p.color)
	if v.lost() {
		st.keepLogs(os.Stdout)
		return true, nil
	}
	st.remove()
	return false, nil
}
