package program

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// dress gives the command tree what both programs have.
func (e *Env) dress(root *cobra.Command) {
	root.SilenceUsage = true  // a page of usage would hide what went wrong
	root.SilenceErrors = true // Run prints them
	root.Long += "\n\nExit codes: 0 done, 1 the answer is no, 2 wrong use, 3 could not be done."
	root.SetIn(e.Stdin)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usage("%v", err) })
	root.PersistentFlags().BoolVar(&e.JSON, "json", false, "print JSON")
	root.AddCommand(e.versionCommand(), e.manCommand())
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
}

// strict turns what cobra says of arguments into wrong use, and has a command that only
// holds others name them.
func strict(c *cobra.Command) {
	check := c.Args
	if c.HasSubCommands() {
		check = unknown
	}
	if check != nil {
		c.Args = func(cmd *cobra.Command, list []string) error {
			if err := check(cmd, list); err != nil {
				return Usage("%v", err)
			}
			return nil
		}
	}
	if !c.Runnable() {
		c.RunE = func(cmd *cobra.Command, _ []string) error {
			return Usage("which command? one of: %s", strings.Join(names(cmd), ", "))
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// unknown is the Args of a command that holds others: what comes here is none of them.
func unknown(c *cobra.Command, list []string) error {
	if len(list) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2 // letters
	if near := c.SuggestionsFor(list[0]); len(near) > 0 {
		return fmt.Errorf("there is no command %q; did you mean %q?", list[0], near[0])
	}
	return fmt.Errorf("there is no command %q; there are: %s", list[0], strings.Join(names(c), ", "))
}

func names(c *cobra.Command) []string {
	var list []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			list = append(list, sub.Name())
		}
	}
	return list
}

// helpCommand is cobra's, except that help on what does not exist is wrong use.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Help on a command",
		RunE: func(c *cobra.Command, list []string) error {
			cmd, rest, err := c.Root().Find(list)
			if err == nil && len(rest) > 0 && cmd.HasSubCommands() {
				err = unknown(cmd, rest)
			}
			if err != nil {
				return Usage("%v", err)
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}
