package main

import (
	"errors"
	"fmt"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker/admin"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
)

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Manage who may use the admin API from elsewhere",
		Long: `A token lets its holder use the admin API over TCP, as far as its role goes: a viewer looks, an
operator also reads messages, ends connections, empties nodes and lets gateways in, an admin
may do everything. The nodes of a cluster share tokens, and keep only their hashes. On the node itself
the socket needs none; each node's own admin.token is an admin's.`,
	}
	c.AddCommand(a.tokenAdd(), a.tokenList(), a.tokenRemove())
	return c
}

func (a *app) tokenAdd() *cobra.Command {
	var in admin.AddToken
	var expires string
	c := &cobra.Command{
		Use:   "add NAME --role viewer|operator|admin",
		Short: "Make a token, and print it: this once",
		Example: `  holdfast-broker token add grafana --role viewer > grafana.token
  holdfast-broker token add ann --role operator --expires 30d`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if _, err := admin.ParseRole(in.Role); err != nil {
				return program.Usage("--role: %v", err)
			}
			if expires != "" {
				var d settings.Duration
				if err := d.UnmarshalText([]byte(expires)); err != nil {
					return program.Usage("--expires: %v", err)
				}
				in.Expires = admin.Period(time.Duration(d))
			}
			in.Name = list[0]
			return a.ask(func(c *admin.Client) error {
				var t admin.NewToken
				if err := c.Post(cmd.Context(), "/v1/tokens", in, &t); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(t)
				}
				fmt.Fprintf(a.Stderr, "token %s, %s%s. It is shown this once; keep it in a file that only its user can read.\n", t.Name, t.Role, until(t.Expires))
				fmt.Fprintln(a.Stdout, t.Secret)
				return nil
			})
		},
	}
	c.Flags().StringVar(&in.Role, "role", "", "what it may do: viewer, operator or admin")
	c.Flags().StringVar(&expires, "expires", "", "it is valid for so `long`, such as 30d; default: until it is removed")
	return c
}

func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + stamp(t)
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List tokens, without what makes them so",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *admin.Client) error {
				var all []admin.APIToken
				if err := c.Get(cmd.Context(), "/v1/tokens", &all); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(all)
				}
				w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tROLE\tADDED\tBY\tEXPIRES")
				for _, t := range all {
					ends := "never"
					if !t.Expires.IsZero() {
						ends = stamp(t.Expires)
					}
					if t.Expired {
						ends += " (over)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.Name, t.Role, stamp(t.Added), t.By, ends)
				}
				return errors.Join(w.Flush())
			})
		},
	}
}

func (a *app) tokenRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Let a token be worth nothing, on all nodes",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				var t admin.APIToken
				if err := c.Delete(cmd.Context(), "/v1/tokens/"+url.PathEscape(list[0]), &t); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(t)
				}
				fmt.Fprintf(a.Stdout, "token %s (%s) is removed\n", t.Name, t.Role)
				return nil
			})
		},
	}
}
