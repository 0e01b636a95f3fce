package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// verifyCommand checks messages and prints the readings in them.
func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Verify messages and print their readings",
		RunE:  func(*cobra.Command, []string) error { return errors.New("not yet") },
	}
}
