package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/broker/admin"
)

func (a *app) auditCommand() *cobra.Command {
	limit := 100
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show who changed what through the admin API",
		Long: `Shows the newest changes that were asked of this node: who (the token's name, or the user at the
socket), from where, what, and what came of it. Each node keeps its own: those that were asked
of it, in audit.log under data_dir and in its log. A change is there before it is made; one whose end
a crash has taken is shown as "begun".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *admin.Client) error {
				var all []admin.AuditEntry
				if err := c.Get(cmd.Context(), fmt.Sprintf("/v1/audit?limit=%d", 2*limit), &all); err != nil {
					return err
				}
				if all = ends(all); len(all) > limit {
					all = all[len(all)-limit:]
				}
				if a.JSON {
					return a.PrintJSON(all)
				}
				w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "TIME\tWHO\tROLE\tFROM\tRESULT\tWHAT\tABOUT")
				for _, e := range all {
					about := e.Target
					for _, k := range []string{"gateway", "kid", "name", "role", "address"} {
						if v := e.Details[k]; v != nil {
							about += fmt.Sprintf(" %s=%v", k, v)
						}
					}
					if e.Error != "" {
						about += ": " + e.Error
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", stamp(e.Time), printable(e.Who), e.Role, e.From, e.Result, e.What, printable(about))
				}
				return errors.Join(w.Flush())
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", limit, "how many changes, 1 to 5000")
	return c
}

// ends leaves out the beginnings whose ends are there.
func ends(all []admin.AuditEntry) []admin.AuditEntry {
	ended := map[string]bool{}
	for _, e := range all {
		if e.Result != admin.AuditBegun {
			ended[e.ID] = true
		}
	}
	out := []admin.AuditEntry{}
	for _, e := range all {
		if e.Result != admin.AuditBegun || !ended[e.ID] {
			out = append(out, e)
		}
	}
	return out
}
