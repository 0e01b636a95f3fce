package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/program"
)

func (a *app) clusterCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Look after the nodes that work together",
		Long:  "Any node answers for all of them. A node without [cluster] in its settings is a cluster of one.",
	}
	c.AddCommand(a.clusterShow(), a.clusterJoin(), a.clusterLeave(), a.clusterDrain())
	return c
}

func (a *app) clusterShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the nodes: ready or why not, their logs and who lags behind",
		Long:  "Exit code 1 if the quorum is missing or a node is not ready.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *admin.Client) error {
				var b broker.ClusterBody
				err := c.Get(cmd.Context(), "/v1/cluster", &b)
				if starts(err) {
					return program.Exit{Code: program.AnswerNo, Msg: err.Error()}
				}
				if err != nil {
					return err
				}
				return a.printCluster(&b)
			})
		},
	}
}

// starts says that a node answered which is not up yet.
func starts(err error) bool {
	var refused *admin.Error
	return errors.As(err, &refused) && refused.Status == http.StatusServiceUnavailable
}

func (a *app) printCluster(b *broker.ClusterBody) error {
	well := b.Quorum && !slices.ContainsFunc(b.Members, func(m broker.Member) bool { return !m.Ready })
	if a.JSON {
		if err := a.PrintJSON(b); err != nil || well {
			return err
		}
		return program.No
	}
	if b.Cluster == "" {
		fmt.Fprintf(a.Stdout, "node %s runs alone: there is no [cluster] in its settings\n", b.Node)
	} else {
		fmt.Fprintf(a.Stdout, "cluster %s as node %s sees it\n", b.Cluster, b.Node)
	}
	if !b.Quorum {
		fmt.Fprintln(a.Stdout, "there is NO quorum: QoS 1 and 2 are refused")
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLE\tREADY\tCLIENTS\tMESSAGES\tSTATE\tLAG\tVERSION\tADDRESS")
	for _, m := range b.Members {
		ready := "yes"
		if !m.Ready {
			ready = "NO"
		}
		logs := map[string]string{}
		for _, l := range m.Logs {
			logs[l.Name] = fmt.Sprintf("%d to %d", l.First, l.Last)
			if l.Leader != "" && l.Leader != m.Name {
				logs[l.Name] += " (led by " + l.Leader + ")"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Role, ready, m.Clients, logs["messages"], logs["state"], lag(m), m.Version, m.Address)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range b.Members {
		for _, why := range m.NotReady {
			fmt.Fprintf(a.Stdout, "%s: %s\n", m.Name, why)
		}
		if m.Leaving {
			fmt.Fprintf(a.Stdout, "%s: it leaves the cluster\n", m.Name)
		}
		if m.Copying != "" {
			fmt.Fprintf(a.Stdout, "%s: %s\n", m.Name, m.Copying)
		}
		if d := m.Drain; d != nil {
			fmt.Fprintf(a.Stdout, "%s: %s\n", m.Name, drainWords(d))
		}
	}
	if !well {
		return program.No
	}
	return nil
}

// lag names who has how much of a node's logs still to read.
func lag(m broker.Member) string {
	var out []string
	for _, l := range m.Logs {
		for reader, n := range l.Lag {
			if n > 0 {
				out = append(out, fmt.Sprintf("%s: %d of %s", reader, n, l.Name))
			}
		}
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func (a *app) clusterJoin() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:   "join ADDRESS",
		Short: "Wait until a new node is one of the cluster, by the address of its cluster listener",
		Long: `A node joins by itself when it starts with an empty data_dir and a [cluster] that names the
others as peers. This waits until the node at ADDRESS is ready and has its share of the logs, and
shows the progress. Then add ADDRESS to peers of the other nodes; it counts at their next start.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			return a.ask(func(c *admin.Client) error { return a.followJoin(ctx, c, list[0]) })
		},
	}
	c.Flags().DurationVar(&wait, "wait", 2*time.Minute, "`time` to wait for it")
	return c
}

func (a *app) followJoin(ctx context.Context, c *admin.Client, address string) error {
	var b broker.ClusterBody
	if err := c.Get(ctx, "/v1/cluster", &b); err != nil {
		return err
	}
	alone := b.Cluster == ""
	for said := ""; ; {
		b = broker.ClusterBody{}
		err := c.Post(ctx, "/v1/cluster/members", admin.JoinCluster{Address: address}, &b)
		if refused := (*admin.Error)(nil); err != nil && !starts(err) && (!errors.As(err, &refused) || refused.Status != 409 || alone) {
			return err
		}
		line := fmt.Sprint("waiting: ", err)
		for _, m := range b.Members {
			switch {
			case m.Address != address:
			case m.Ready && m.Copying == "" && len(m.Logs) > 0:
				if err := a.printCluster(&b); !errors.Is(err, program.No) { // that another one is not ready is not asked
					return err
				}
				return nil
			case m.Copying != "":
				line = m.Name + " " + m.Copying
			default:
				line = m.Name + ": " + strings.Join(m.NotReady, "; ")
			}
		}
		if line != said && !a.JSON {
			fmt.Fprintln(a.Stderr, line)
			said = line
		}
		select {
		case <-ctx.Done():
			return program.Exit{Code: program.AnswerNo, Msg: "not within --wait: " + line}
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (a *app) clusterLeave() *cobra.Command {
	var force, undo, background bool
	var rate int
	var wait time.Duration
	var server string
	c := &cobra.Command{
		Use:   "leave [NODE]",
		Short: "Take a node out for good: its clients, its replicas and what only its logs hold stay with the others",
		Long: `Takes a node out of the cluster, without NODE the one that is asked. Its clients are sent
elsewhere as by cluster drain --moved, replicas move to the other nodes, and it ends; its logs
stay with the others until retention lets them go. It is refused when the others would have no
quorum. Shows the progress and ends when the node is out. SIGINT ends only the showing.
--force is for a node that is dead and will not come back.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			q := url.Values{"force": {strconv.FormatBool(force)}, "undo": {strconv.FormatBool(undo)}, "rate": {strconv.Itoa(rate)}, "wait": {wait.String()}}
			if server != "" {
				q.Set("server", server)
			}
			return a.ask(func(c *admin.Client) error {
				var b broker.ClusterBody
				if err := c.Delete(cmd.Context(), memberPath(list)+"?"+q.Encode(), &b); err != nil {
					return err
				}
				node := b.Node
				if len(list) > 0 {
					node = list[0]
				}
				if background || undo {
					return a.printCluster(&b)
				}
				return a.followLeave(cmd.Context(), c, node, &b)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&force, "force", false, "the node is dead and will not come back")
	f.IntVar(&rate, "rate", 200, "`clients` to send away per second")
	f.DurationVar(&wait, "wait", 10*time.Second, "`time` for load balancers to notice that /readyz fails")
	f.StringVar(&server, "server", "", "server `reference` for MQTT 5 clients, host:port (default: the other nodes)")
	f.BoolVar(&background, "background", false, "do not wait until it is out")
	f.BoolVar(&undo, "undo", false, "it stays after all, if it has not ended yet")
	c.MarkFlagsMutuallyExclusive("force", "undo", "background")
	return c
}

// followLeave shows what happens until the node is no member any more. The node that leaves ends before it is out:
// then only another one can say so.
func (a *app) followLeave(ctx context.Context, c *admin.Client, node string, b *broker.ClusterBody) error {
	said := ""
	for {
		i := slices.IndexFunc(b.Members, func(m broker.Member) bool { return m.Name == node })
		if i < 0 {
			if a.JSON {
				return a.PrintJSON(b)
			}
			fmt.Fprintf(a.Stdout, "%s is out of the cluster\n", node)
			return nil
		}
		if line := leaveWords(b, b.Members[i]); line != said && !a.JSON {
			said = line
			fmt.Fprintln(a.Stdout, line)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s goes on leaving: %w", node, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
		var now broker.ClusterBody
		if err := c.Get(ctx, "/v1/cluster", &now); err != nil {
			if b.Node == node && ctx.Err() == nil {
				fmt.Fprintf(a.Stderr, "%s has ended; ask another node whether it is out (cluster show)\n", node)
				return nil
			}
			return err
		}
		b = &now
	}
}

func leaveWords(b *broker.ClusterBody, m broker.Member) string {
	line := m.Name + " leaves: "
	if m.Drain != nil && m.Clients > 0 {
		return line + fmt.Sprintf("%d clients are still connected", m.Clients)
	}
	for _, o := range b.Members {
		if o.Copying != "" {
			return line + fmt.Sprintf("%s %s", o.Name, o.Copying)
		}
	}
	if !m.Ready && m.Drain == nil {
		return line + "it has ended, and its logs are closed"
	}
	return line + "it sends its clients elsewhere, and its replicas move"
}

func memberPath(list []string) string {
	node := admin.ThisNode
	if len(list) > 0 {
		node = admin.Segment(list[0])
	}
	return "/v1/cluster/members/" + node
}

func (a *app) clusterDrain() *cobra.Command {
	var in admin.DrainNode
	var wait time.Duration
	var undo, background, show bool
	c := &cobra.Command{
		Use:   "drain [NODE]",
		Short: "Empty a node: /readyz fails, then its clients are sent elsewhere at a set rate",
		Long: `Empties a node, without NODE the one that is asked. First /readyz answers 503, so that load
balancers send nobody any more; after --wait its clients are disconnected, --rate a second,
and no new ones are taken. MQTT 5 clients are told 0x9C, use another server (0x9D, server
moved, with --moved) and the server reference; 3.1.1 clients see their connection end.
Sessions stay. Shows the progress and ends when the node is empty. SIGINT ends only the
showing. --undo lets the node take clients again; so does a restart.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			path := memberPath(list) + "/drain"
			p := admin.Period(wait)
			in.Wait = &p
			return a.ask(func(c *admin.Client) error {
				var d broker.Drain
				var err error
				switch {
				case undo:
					err = c.Delete(cmd.Context(), path, &d)
				case show:
					err = c.Get(cmd.Context(), path, &d)
				default:
					err = c.Post(cmd.Context(), path, in, &d)
				}
				if err != nil || undo || show || background {
					return a.printDrain(&d, err)
				}
				return a.followDrain(cmd.Context(), c, path, d)
			})
		},
	}
	f := c.Flags()
	f.IntVar(&in.Rate, "rate", 200, "`clients` to send away per second")
	f.DurationVar(&wait, "wait", 10*time.Second, "`time` for load balancers to notice that /readyz fails")
	f.StringVar(&in.Server, "server", "", "server `reference` for MQTT 5 clients, host:port (default: the other nodes)")
	f.BoolVar(&in.Moved, "moved", false, "the node goes for good: 0x9D instead of 0x9C")
	f.BoolVar(&undo, "undo", false, "take clients again")
	f.BoolVar(&show, "show", false, "only show how far it is")
	f.BoolVar(&background, "background", false, "do not wait until it is empty")
	c.MarkFlagsMutuallyExclusive("undo", "show", "background")
	return c
}

func (a *app) printDrain(d *broker.Drain, err error) error {
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.PrintJSON(d)
	}
	fmt.Fprintf(a.Stdout, "%s: %s\n", d.Node, drainWords(d))
	return nil
}

func drainWords(d *broker.Drain) string {
	switch d.State {
	case broker.DrainWaiting:
		return fmt.Sprintf("/readyz fails since %s; after %s it begins to send clients away, %d now", stamp(d.Began), d.Wait, d.Connected)
	case broker.DrainDraining:
		return fmt.Sprintf("being emptied: %d sent away, %d turned away, %d still connected", d.Sent, d.Turned, d.Connected)
	case broker.DrainDone:
		return fmt.Sprintf("empty: %d sent away, %d turned away; it takes nobody until cluster drain --undo or a restart", d.Sent, d.Turned)
	}
	return "not being emptied"
}

// followDrain shows how far a drain is until the node is empty.
func (a *app) followDrain(ctx context.Context, c *admin.Client, path string, d broker.Drain) error {
	for last := ""; ; {
		if now := drainWords(&d); now != last && !a.JSON {
			fmt.Fprintf(a.Stdout, "%s: %s\n", d.Node, now)
			last = now
		}
		switch d.State {
		case broker.DrainDone:
			if a.JSON {
				return a.PrintJSON(d)
			}
			return nil
		case broker.DrainOff:
			return program.Exit{Code: program.AnswerNo, Msg: "somebody has undone it"}
		}
		select {
		case <-ctx.Done():
			fmt.Fprintln(a.Stderr, "the node goes on being emptied; cluster drain --show says how far it is, --undo ends it")
			return program.No
		case <-time.After(drainPoll):
		}
		if err := c.Get(ctx, path, &d); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// drainPoll is how often the progress of a drain is asked for.
const drainPoll = 250 * time.Millisecond
