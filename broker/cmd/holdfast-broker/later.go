package main

import (
	"github.com/spf13/cobra"

	"holdfast/systemd/program"
)

// userCommand holds what the contract names and this version does not have.
func userCommand() *cobra.Command {
	notYet := func(use, short string, subs ...*cobra.Command) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short + " (not yet)", Args: cobra.ArbitraryArgs}
		c.RunE = func(*cobra.Command, []string) error {
			return program.Usage("%s comes with the sources of users; this version listens on loopback only", use)
		}
		c.AddCommand(subs...)
		return c
	}
	return notYet("user", "Manage users", notYet("add", "Add a user"), notYet("list", "List users"), notYet("remove", "Remove a user"), notYet("passwd", "Change a password"))
}
