package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/program"
)

func (a *app) sessionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "session",
		Short: "Look after clients' sessions",
		Long: `A session is what the broker keeps of a client: its subscriptions, how far it has read the
log, and what it has not acknowledged. It may outlive its connection, and a restart.`,
	}
	c.AddCommand(a.sessionList(), a.sessionShow(), a.sessionKick())
	return c
}

func (a *app) sessionList() *cobra.Command {
	var q admin.SessionQuery
	var connected, away, all bool
	c := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List sessions, in the order of their client ids",
		Long: `Lists the sessions whose client id begins with PREFIX. BEHIND counts the batches of the log
that a session has not read, and how many of them retention has trimmed already; DISCARDED
the messages it did not get, since the broker started ("session show" says which and why).`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if connected && away {
				return program.Usage("--connected and --away: which?")
			}
			if connected || away {
				q.Connected = &connected
			}
			if len(list) == 1 {
				q.Prefix = list[0]
			}
			return a.ask(func(c *admin.Client) error {
				var sum broker.SessionList
				for {
					var page broker.SessionList
					if err := c.Get(cmd.Context(), "/v1/sessions?"+q.Query().Encode(), &page); err != nil {
						return err
					}
					sum.Sessions, sum.Total, sum.Next, sum.Missing = append(sum.Sessions, page.Sessions...), max(sum.Total, page.Total), page.Next, page.Missing
					if q.After = page.Next; !all || page.Next == "" {
						return a.printSessions(sum)
					}
				}
			})
		},
	}
	c.Flags().BoolVar(&connected, "connected", false, "only those that are connected")
	c.Flags().BoolVar(&away, "away", false, "only those that are not")
	c.Flags().BoolVar(&q.Behind, "behind", false, "only those that have not read all of the log")
	c.Flags().IntVar(&q.Limit, "limit", 0, fmt.Sprintf("`sessions` of a page, at most %d (default %d)", admin.MaxPage, admin.DefaultPage))
	c.Flags().StringVar(&q.After, "after", "", "begin behind this client `id`")
	c.Flags().BoolVar(&all, "all", false, "all pages")
	return c
}

func (a *app) printSessions(l broker.SessionList) error {
	if a.JSON {
		if l.Sessions == nil {
			l.Sessions = []broker.SessionInfo{}
		}
		return a.PrintJSON(l)
	}
	if len(l.Missing) > 0 {
		fmt.Fprintf(a.Stderr, "not in this list are the sessions of nodes that do not answer: %s\n", strings.Join(l.Missing, ", "))
	}
	if l.Total == 0 {
		fmt.Fprintln(a.Stdout, "there is no such session")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	down := map[string]time.Time{}
	fmt.Fprintln(w, "CLIENT\tNODE\tSTATE\tSINCE\tSUBSCRIPTIONS\tUNFINISHED\tBEHIND\tDISCARDED\tEXPIRES")
	for _, s := range l.Sessions {
		state, unfinished := "away", strconv.Itoa(s.Unfinished)
		if s.NodeDown != nil {
			state = "node down"
			down[s.Node] = *s.NodeDown
		}
		if s.Connected {
			state, unfinished = "connected", fmt.Sprintf("%d of %d", s.Unfinished, s.Window)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%s\n", column(s.Client), s.Node, state, stamp(s.Since), s.Subscriptions, unfinished, behind(s), s.Discarded, expires(s))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, node := range slices.Sorted(maps.Keys(down)) {
		fmt.Fprintf(a.Stdout, "node %s is down since %s: its sessions go on at any other node that their clients come to\n", node, stamp(down[node]))
	}
	if l.Next != "" {
		fmt.Fprintf(a.Stdout, "%d of %d; go on with --after %q, or --all\n", len(l.Sessions), l.Total, l.Next)
	}
	return nil
}

func behind(s broker.SessionInfo) string {
	if s.Lost > 0 {
		return fmt.Sprintf("%d (%d trimmed)", s.Behind, s.Lost)
	}
	return strconv.FormatUint(s.Behind, 10)
}

func expires(s broker.SessionInfo) string {
	switch {
	case s.Expiry == nil:
		return "never"
	case s.Ends != nil:
		return stamp(*s.Ends)
	case *s.Expiry == 0:
		return "with its connection"
	}
	return (time.Duration(*s.Expiry) * time.Second).String() + " after it"
}

// printable shows what a client chose without letting it write to a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// column is printable for a table: one long name would widen every line.
func column(s string) string {
	const most = 48
	if r := []rune(printable(s)); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return printable(s)
}

func (a *app) sessionShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show CLIENT-ID",
		Short: "Show one session: subscriptions, cursor, what is unfinished, what was discarded",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				var d broker.SessionDetail
				if err := c.Get(cmd.Context(), "/v1/sessions/"+admin.Segment(list[0]), &d); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(d)
				}
				return a.printSession(&d)
			})
		},
		ValidArgsFunction: a.completeClient,
	}
}

func (a *app) printSession(d *broker.SessionDetail) error {
	if d.NoSession {
		fmt.Fprintf(a.Stdout, "client %s has no session on node %s\n", printable(d.Client), d.Node)
		printDiscards(a.Stdout, d.Discards)
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	say := func(what, format string, args ...any) { fmt.Fprintf(w, what+"\t"+format+"\n", args...) }
	say("client", "%s", printable(d.Client))
	if d.NodeDown != nil {
		say("node", "%s, down since %s: the session goes on at any other node that its client comes to", d.Node, stamp(*d.NodeDown))
	} else {
		say("node", "%s", d.Node)
	}
	if d.Connected {
		say("connected", "since %s from %s to %s, MQTT %s", stamp(d.Since), d.Addr, d.ListenedOn, d.Protocol)
		say("traffic", "in %d packets, %d bytes; out %d packets, %d bytes", d.In.Packets, d.In.Bytes, d.Out.Packets, d.Out.Bytes)
		say("window", "%d of %d unacknowledged", d.Unfinished, d.Window)
	} else {
		say("away", "since %s", stamp(d.Since))
	}
	say("expires", "%s", expires(d.SessionInfo))
	complete := ""
	if !d.Backlog.Complete {
		complete = " and more"
	}
	say("backlog", "%s%s, %s; batches of the log behind: %s", plural(d.Backlog.Messages, "message"), complete, plural(d.Backlog.Bytes, "byte"), behind(d.SessionInfo))
	for _, node := range slices.Sorted(maps.Keys(d.End)) {
		say("cursor", "%s, the log ends at %s", d.Cursor[node], d.End[node])
	}
	if d.Will != "" {
		say("will", "waits for its delay: %s", printable(d.Will))
	}
	if len(d.Receiving) > 0 {
		say("receiving", "QoS 2 packet ids %v are not released yet", d.Receiving)
	}
	for _, s := range d.Subs {
		say("subscription", "%s  QoS %d%s", printable(s.Filter), s.QoS, subWords(s))
	}
	for i, p := range d.Packets {
		if i == 20 {
			say("unfinished", "and %d more (--json has all)", len(d.Packets)-i)
			break
		}
		say("unfinished", "packet id %d  QoS %d  %s", p.ID, p.QoS, packetWords(p))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printDiscards(a.Stdout, d.Discards)
	return nil
}

func subWords(s broker.SessionSub) (out string) {
	if s.Suspended {
		out += ", suspended: it has lost its right"
	}
	if s.NoLocal {
		out += ", No Local"
	}
	if s.RetainAsPublished {
		out += ", Retain As Published"
	}
	if s.ID != 0 {
		out += fmt.Sprintf(", identifier %d", s.ID)
	}
	if s.Members > 0 {
		out += fmt.Sprintf(", shared by %d here", s.Members)
		if s.Share != nil {
			out += fmt.Sprintf("; %s; %d batches behind", s.Share, s.Share.Behind)
		}
	}
	return out
}

func packetWords(p broker.SessionPacket) string {
	out := p.At
	if p.Retained != "" {
		out = "retained " + printable(p.Retained)
	}
	if p.Share != "" {
		out += " of " + printable(p.Share)
	}
	if p.Released {
		out += " released"
	}
	return out
}

// printDiscards says what a client did not get, since the broker started.
func printDiscards(out io.Writer, d broker.ClientDiscards) {
	if len(d.Messages)+len(d.Batches) == 0 {
		fmt.Fprintln(out, "\nnothing was discarded for it since the broker started")
		return
	}
	fmt.Fprintln(out, "\ndiscarded since the broker started:")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	reasons := map[string]bool{}
	for _, sums := range []map[string]uint64{d.Messages, d.Batches} {
		for reason := range sums {
			reasons[reason] = true
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", reason, amount(d.Messages[reason], d.Batches[reason]), broker.DiscardHelp[reason])
	}
	for _, x := range d.Newest {
		where, topic := "", printable(x.Topic)
		if x.From != "" {
			where = x.From + " to " + x.To
		}
		if topic == "" {
			topic = "(topics not known)"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", stamp(x.Last), x.Reason, amount(x.Messages, x.Batches), topic, where, printable(x.Note))
	}
	_ = w.Flush() // to a terminal or a pipe that is gone: nobody to tell
	if d.Omitted > 0 {
		fmt.Fprintf(out, "  and %d older ones, which are only in the sums\n", d.Omitted)
	}
}

func amount(messages, batches uint64) string {
	inBatches := strconv.FormatUint(batches, 10) + " batches"
	if batches == 1 {
		inBatches = "1 batch"
	}
	switch {
	case batches == 0:
		return plural(messages, "message")
	case messages == 0:
		return inBatches
	}
	return plural(messages, "message") + " and " + inBatches
}

func (a *app) sessionKick() *cobra.Command {
	var forget bool
	c := &cobra.Command{
		Use:   "kick CLIENT-ID",
		Short: "End a client's connection",
		Long: `Ends the connection of a client: MQTT 5 clients are told 0x98, administrative action. The
client may come back, and most do. Its session stays, unless --forget ends it too: its
subscriptions and what waits for it are then gone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				var k broker.SessionKicked
				if err := c.Delete(cmd.Context(), "/v1/sessions/"+admin.Segment(list[0])+"?forget="+strconv.FormatBool(forget), &k); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(k)
				}
				var did []string
				if k.Disconnected {
					did = append(did, "disconnected from "+k.Node)
				}
				if k.Forgotten {
					did = append(did, "its session has ended")
				}
				fmt.Fprintf(a.Stdout, "client %s: %s\n", printable(k.Client), strings.Join(did, ", "))
				return nil
			})
		},
		ValidArgsFunction: a.completeClient,
	}
	c.Flags().BoolVar(&forget, "forget", false, "end its session too: what waits for it is discarded")
	return c
}

// completeClient offers the client ids of sessions to a shell.
func (a *app) completeClient(cmd *cobra.Command, list []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(list) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var page broker.SessionList
	err := a.ask(func(c *admin.Client) error {
		return c.Get(cmd.Context(), "/v1/sessions?"+admin.SessionQuery{Prefix: begun, Limit: 100}.Query().Encode(), &page)
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, s := range page.Sessions {
		if s.Client == printable(s.Client) {
			ids = append(ids, s.Client)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
