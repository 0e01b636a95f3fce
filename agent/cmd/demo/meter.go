package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// meterWord makes this program play the meter.
const meterWord = "meter"

// event is what the meter tells on its standard output, one JSON object a line.
type event struct {
	Line    uint64        `json:"line"`    // the number of the line that has been written, whole
	At      time.Duration `json:"at"`      // when (CLOCK_BOOTTIME, ns)
	Waiting int           `json:"waiting"` // bytes in the kernel that nobody has read
	Full    uint64        `json:"full"`    // how often the kernel's queue was full, so that the meter had to wait
	Ended   bool          `json:"ended,omitempty"`
	Port    string        `json:"port,omitempty"` // in the first event
}

// lineOf is what the meter writes: a running number, and a weight.
func lineOf(n uint64) string { return fmt.Sprintf("n=%d w=%.2f\r\n", n, float64(weightOf(n))/100) }

// weightOf is the weight in line n, in hundredths. Up to 100,000 no two lines have the
// same (7919 is prime to it), so each value that arrives tells the line that it is from.
func weightOf(n uint64) uint64 { return n * 7919 % 100000 }

// meterMain writes numbered lines at a steady pace until its standard input is closed
// (the demo has told it to stop, or is no more).
func meterMain(args []string) int {
	fs := flag.NewFlagSet(meterWord, flag.ContinueOnError)
	link := fs.String("link", "", "path of the symbolic link to the port")
	rate := fs.Int("rate", 50, "lines per second")
	if fs.Parse(args) != nil || *link == "" || *rate < 1 {
		return exitUsage
	}
	signal.Ignore(unix.SIGINT, unix.SIGHUP) // the terminal's: the demo decides
	p, err := openPort(*link)
	if err != nil {
		fmt.Fprintln(os.Stderr, "meter:", err)
		return exitFailed
	}
	defer p.close()
	if err := write(p, time.Second/time.Duration(*rate)); err != nil {
		fmt.Fprintln(os.Stderr, "meter:", err)
		return exitFailed
	}
	return 0
}

func write(p *port, pace time.Duration) error {
	commands := make(chan string)
	go func() {
		defer close(commands)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commands <- in.Text()
		}
	}()
	out := json.NewEncoder(os.Stdout)
	e := event{Port: p.name}
	if err := out.Encode(e); err != nil {
		return err
	}
	e.Port = ""
	tick := time.NewTicker(pace)
	defer tick.Stop()
	running := false
	for {
		select {
		case c, ok := <-commands:
			switch {
			case !ok:
				return nil
			case c == "go":
				running = true
			case c == "stop":
				running, e.Ended = false, true
				if err := out.Encode(e); err != nil {
					return err
				}
			}
		case <-tick.C:
			if !running {
				continue
			}
			if err := p.write([]byte(lineOf(e.Line+1)), func() { e.Full++ }); err != nil {
				return err
			}
			e.Line, e.At, e.Waiting = e.Line+1, bootTime(), p.waiting()
			if err := out.Encode(e); err != nil {
				return err
			}
		}
	}
}

func bootTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
