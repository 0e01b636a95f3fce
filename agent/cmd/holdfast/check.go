package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/settings"
)

func (a *app) checkCommand() *cobra.Command {
	var online, asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration and devices; exit 1 with every problem and its line",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, problems := agent.CheckConfig(cmd.Context(), a.config, online)
			return a.report(problems, asJSON, len(cfg.Devices))
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "also log in to each broker")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// report prints the problems and answers yes or no.
func (a *app) report(problems []settings.Problem, asJSON bool, devices int) error {
	errs := settings.Errors(problems)
	if asJSON {
		if problems == nil {
			problems = []settings.Problem{}
		}
		if err := printJSON(a.stdout, map[string]any{"ok": len(errs) == 0, "problems": problems}); err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(a.stdout, p)
		}
	}
	if len(errs) > 0 {
		return no
	}
	if !asJSON {
		fmt.Fprintf(a.stdout, "%s: good (%d devices)\n", a.config, devices)
	}
	return nil
}
