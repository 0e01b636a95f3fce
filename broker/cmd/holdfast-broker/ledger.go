package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/broker/admin"
	"holdfast/broker/ledger"
	"holdfast/systemd/program"
)

func (a *app) ledgerCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "ledger [GATEWAY]",
		Short: "Show what gateways numbered and what of it arrived",
		Long: `Shows per gateway, device and epoch how many messages and readings are here, and which
numbers are pending (the gateway still has them), missing (they should be here and are
not), dropped (the gateway signed a receipt for them), uncertain (an epoch ended in a
power cut: nobody knows how many there were) or in conflict.

With --check the exit code is 1 unless everything that was numbered is here, dropped
with a receipt, or pending.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				path := "/v1/ledger"
				if len(list) == 1 {
					path += "?gateway=" + url.QueryEscape(list[0])
				}
				var all []ledger.Gateway
				if err := c.Get(cmd.Context(), path, &all); err != nil {
					return err
				}
				if err := a.printLedger(all); err != nil {
					return err
				}
				if check && len(all) == 0 {
					return program.Exit{Code: program.AnswerNo, Msg: "no gateway has sent anything"}
				}
				if check && lossy(all) {
					return program.No
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&check, "check", false, "exit 1 if anything is missing, uncertain, in conflict or contradictory")
	return c
}

// lossy says whether the account of any gateway has a loss that no receipt covers, or
// that nobody can exclude.
func lossy(all []ledger.Gateway) bool {
	for _, g := range all {
		if e := g.Earlier; e != nil && (e.Missing > 0 || e.Uncertain > 0 || e.Conflicts > 0) {
			return true
		}
		for _, e := range g.Epochs {
			if e.Uncertain {
				return true
			}
			for _, d := range e.Devices {
				if d.Missing+d.Unaccounted+d.Conflicts+d.Skipped+d.CountedTwice > 0 {
					return true
				}
			}
		}
	}
	return false
}

func (a *app) printLedger(all []ledger.Gateway) error {
	if a.JSON {
		return a.PrintJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(a.Stdout, "the ledger is empty: no verified message has arrived yet")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GATEWAY\tDEVICE\tEPOCH\tRECEIVED\tREADINGS\tDUPLICATES\tPENDING\tMISSING\tDROPPED\tUNCERTAIN\tCONFLICTS")
	for _, g := range all {
		for _, e := range g.Epochs {
			for _, d := range e.Devices {
				fmt.Fprintf(w, "%s\t%s\t%s %s\t%d\t%d\t%d\t%d\t%s\t%d\t%s\t%d\n", g.Gateway, d.Device, e.Epoch, e.State,
					d.Received, d.Readings, d.Duplicates, d.Pending, missing(d), d.Dropped, uncertain(d), d.Conflicts)
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range all {
		detail(a.Stdout, g)
	}
	return nil
}

// missing never says 0 where nobody can know.
func missing(d ledger.Device) string {
	n := strconv.FormatUint(d.Missing+d.Unaccounted, 10)
	if d.Uncertain != nil {
		return n + " known"
	}
	return n
}

func uncertain(d ledger.Device) string {
	if d.Uncertain == nil {
		return "no"
	}
	return fmt.Sprintf("beyond %d", *d.Uncertain)
}

// detail says in words what the table only counts.
func detail(w io.Writer, g ledger.Gateway) {
	say := func(format string, args ...any) { fmt.Fprintf(w, "  "+format+"\n", args...) }
	fmt.Fprintf(w, "\n%s\n", g.Gateway)
	if e := g.Earlier; e != nil {
		say("%d earlier epochs, kept as sums: received %d (%d readings), missing %d, dropped %d, uncertain epochs %d, conflicts %d",
			e.Epochs, e.Received, e.Readings, e.Missing, e.Dropped, e.Uncertain, e.Conflicts)
	}
	quiet := true
	for _, e := range g.Epochs {
		if !e.Opened {
			say("epoch %s: its opening message is not here (yet)", e.Epoch)
		}
		if e.Malformed > 0 {
			say("epoch %s: %d control messages could not be read", e.Epoch, e.Malformed)
		}
		for _, d := range e.Devices {
			for _, line := range deviceWords(d) {
				quiet = false
				say("%s, epoch %s: %s", d.Device, e.Epoch, line)
			}
		}
	}
	if quiet && g.Complete {
		say("complete: everything that was numbered is here or has a receipt")
	}
}

func deviceWords(d ledger.Device) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, r := range d.DroppedAt {
		add("dropped %s: %s", inWords(r), r.Reason)
	}
	if len(d.PendingAt) > 0 {
		add("pending %s", listed(d.PendingAt))
	}
	if len(d.MissingAt) > 0 {
		add("missing %s", listed(d.MissingAt))
	}
	if d.Folded > 0 {
		add("at and below %d only sums are kept (too many gaps); %d of them are neither received nor dropped", d.Folded, d.Unaccounted)
	}
	if d.Uncertain != nil {
		add("uncertain: numbers beyond %d may have been used before the power cut; what they carried is lost", *d.Uncertain)
	}
	if d.Skipped > 0 {
		add("contradictory: the totals of neighbouring messages leave out %d readings", d.Skipped)
	}
	if d.CountedTwice > 0 {
		add("contradictory: the totals of neighbouring messages overlap by %d readings", d.CountedTwice)
	}
	for _, c := range d.Evidence {
		first := c.First
		if first == "" {
			first = "unknown"
		}
		add("conflict at %d: %s, then %s at %s (log position %s)", c.Seq, first, c.Then, stamp(c.At), c.Where)
	}
	if more := d.Conflicts - uint64(len(d.Evidence)); more > 0 {
		add("and %d conflicts more", more)
	}
	if d.Unverified > 0 {
		add("%d of the duplicates were too old for their bytes to be compared", d.Unverified)
	}
	return out
}

// listed names up to a dozen ranges.
func listed(ranges []ledger.Range) string {
	const most = 12
	var parts []string
	for i, r := range ranges {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d ranges more (--json has all)", len(ranges)-most))
			break
		}
		parts = append(parts, inWords(r))
	}
	return strings.Join(parts, ", ")
}

// inWords says "17 to 19 (3 messages, 12 readings)".
func inWords(r ledger.Range) string {
	n := r.Last - r.First + 1
	where := fmt.Sprintf("%d to %d", r.First, r.Last)
	if n == 1 {
		where = strconv.FormatUint(r.First, 10)
	}
	what := plural(n, "message")
	if r.Readings != nil {
		what += ", " + plural(*r.Readings, "reading")
	}
	return where + " (" + what + ")"
}

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.FormatUint(n, 10) + " " + what + "s"
}
