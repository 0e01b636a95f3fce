package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/devices"
	"holdfast/devices/modbus"
	"holdfast/systemd/program"
)

func (a *app) scanCommand() *cobra.Command {
	var o scanOptions
	cmd := &cobra.Command{
		Use:   "scan --port FILE | --server HOST",
		Short: "Look for Modbus slaves on a serial line or behind a TCP server",
		Long: `Asks every slave number, at every baud rate and frame, for one holding register: whoever
answers, be it by an exception, is there. Nothing is written. The first setting at which
somebody answers ends the search, but with --all.

Nobody else may be master of the line meanwhile: stop the agent, if it reads this port.
Exit 0: slaves were found, 1: none, 3: the port cannot be used.`,
		Example: `  holdfast devices scan --port /dev/serial/by-id/usb-FTDI_… --slaves 1-10
  holdfast devices scan --port /dev/ttyAMA0 --rs485 auto --bauds 9600 --frames 8N1,8E1
  holdfast devices scan --server 192.168.10.20 --slaves 1,255`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.scan(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Port, "port", "", "serial `file` (holdfast devices lists them)")
	f.StringVar(&o.Server, "server", "", "instead: `host` or host:port of a TCP server")
	f.StringVar(&o.slaves, "slaves", "1-32", "slave `numbers`: 1-10,40")
	f.IntSliceVar(&o.Bauds, "bauds", []int{9600, 19200, 38400, 115200}, "baud `rates`, in this order")
	f.StringSliceVar(&o.Frames, "frames", []string{"8N1", "8E1", "8O1"}, "`frames`: data bits, parity, stop bits")
	f.StringVar(&o.RS485, "rs485", "off", "who turns the RS-485 transceiver around: off (the adapter), kernel, rts, auto")
	f.DurationVar(&o.Timeout, "timeout", 200*time.Millisecond, "`time` that a slave has to answer")
	f.IntVar(&o.Count, "count", 10, "how `often` each slave found is asked, for its latency and errors")
	f.DurationVar(&o.limit, "limit", 5*time.Minute, "end after this `time`, wherever the search is")
	f.BoolVar(&o.All, "all", false, "search all settings, even after slaves were found")
	return cmd
}

type scanOptions struct {
	modbus.Scan
	slaves string
	limit  time.Duration
}

func (a *app) scan(ctx context.Context, o scanOptions) error {
	var err error
	if o.Slaves, err = numbers(o.slaves); err != nil {
		return program.Usage("--slaves: %v", err)
	}
	if !slices.Contains([]string{"off", "kernel", "rts", "auto"}, o.RS485) {
		return program.Usage("--rs485 %q: want off, kernel, rts or auto", o.RS485)
	}
	if o.limit <= 0 {
		return program.Usage("--limit %v: want a time such as 5m", o.limit)
	}
	for _, p := range o.Check() {
		return program.Usage("--%s: %s", p.Key, p.Message)
	}
	o.Clock = devices.BootClock()
	progress := newProgress(a.Stderr, term.IsTerminal(int(a.Stderr.Fd())), min(o.limit, o.Longest()))
	o.Step = progress.step
	limited, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	found, err := o.Run(limited)
	progress.end()
	ended := limited.Err() != nil
	if err != nil && !ended {
		return err
	}
	if a.JSON {
		err = a.PrintJSON(found)
	} else {
		err = printScan(a.Stdout, found)
	}
	switch {
	case err != nil:
		return err
	case ended && ctx.Err() == nil:
		fmt.Fprintf(a.Stderr, "The search ended after %v, %d of %d requests in; --limit, --slaves, --bauds and --frames bound it.\n", o.limit, found.Done, found.Total)
	case ended:
		return errors.New("interrupted")
	}
	if len(found.Found) == 0 {
		return program.No
	}
	return nil
}

// numbers reads "1-10,40".
func numbers(s string) ([]byte, error) {
	var out []byte
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		a, errA := strconv.ParseUint(low, 10, 8)
		b, errB := strconv.ParseUint(high, 10, 8)
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("%q: want numbers from 0 to 255, such as 1-10,40", part)
		}
		for n := a; n <= b; n++ {
			if !slices.Contains(out, byte(n)) {
				out = append(out, byte(n))
			}
		}
	}
	return out, nil
}

// progress says on a terminal where the search is, elsewhere when a setting begins.
type progress struct {
	w       io.Writer
	tty     bool
	longest time.Duration
	setting string
}

func newProgress(w io.Writer, tty bool, longest time.Duration) *progress {
	fmt.Fprintf(w, "This takes %v at most if nobody answers.\n", longest.Round(time.Second))
	return &progress{w: w, tty: tty, longest: longest}
}

func (p *progress) step(s modbus.Step) {
	switch {
	case p.tty:
		fmt.Fprintf(p.w, "\r\x1b[K%s: slave %d, %d %% done, %d found", s.Setting, s.Slave, 100*s.Done/s.Total, s.Found)
	case s.Setting != p.setting:
		fmt.Fprintf(p.w, "%s, %d %% done, %d found\n", s.Setting, 100*s.Done/s.Total, s.Found)
	}
	p.setting = s.Setting
}

func (p *progress) end() {
	if p.tty {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func printScan(w io.Writer, s modbus.Scanned) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if len(s.Found) == 0 {
		fmt.Fprintln(t, "no slave answers")
	} else {
		fmt.Fprintln(t, "SETTING\tSLAVE\tANSWERS\tLATENCY MIN/MEAN/MAX\tTIMEOUTS\tCRC ERRORS\tSAYS")
	}
	for _, f := range s.Found {
		at := f.Server
		if at == "" {
			at = fmt.Sprintf("%d %s", f.Baud, f.Frame)
		}
		fmt.Fprintf(t, "%s\t%d\t%d of %d\t%v/%v/%v ms\t%d\t%d\t%s\n", at, f.Slave, f.Answers, f.Requests, f.MinMS, f.MeanMS, f.MaxMS, f.Timeouts, f.CRCErrors, f.Answer)
	}
	for _, h := range s.Heard {
		fmt.Fprintf(t, "\nAt %s something is heard that is no slave's answer: another baud rate or frame, another master, two slaves with one number, or noise.\n", h)
	}
	return t.Flush()
}
