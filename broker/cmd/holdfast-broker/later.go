package main

import (
	"github.com/spf13/cobra"
	"holdfast/systemd/program"
)

// later are the commands that the contract names and that this version does not have.
func later() []*cobra.Command {
	const cluster, users, sessions = "comes with the cluster; this version is one node", "comes with the sources of users; this version listens on loopback only",
		"is not built yet; sessions are in the log of this version, but nothing shows them"
	notYet := func(use, short, why string, sub ...*cobra.Command) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short + " (not yet)", Args: cobra.ArbitraryArgs}
		c.RunE = func(cmd *cobra.Command, _ []string) error { return program.Usage("%s %s", c.Name(), why) }
		c.AddCommand(sub...)
		return c
	}
	group := func(use, short, why string, subs ...string) *cobra.Command {
		c := notYet(use, short, why)
		for _, s := range subs {
			c.AddCommand(notYet(s, use+" "+s, why))
		}
		return c
	}
	return []*cobra.Command{
		group("cluster", "Look after the cluster", cluster, "show", "join", "leave", "drain"),
		group("session", "Look after client sessions", sessions, "list", "show", "kick"),
		group("client", "Follow one client", "is not built yet", "trace"),
		notYet("explain", "Say what becomes of a message of a client on a topic", "comes with the sources of users and their rules"),
		group("user", "Manage users", users, "add", "list", "remove", "passwd"),
	}
}
