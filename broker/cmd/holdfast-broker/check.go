package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/systemd/settings"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration",
		Long: `Reads the configuration and prints every problem with its line. Exit 1 if the broker
would not start with it; warnings alone do not count.`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			cfg, problems := broker.LoadConfig(a.config)
			bad := len(settings.Errors(problems)) > 0
			if a.json {
				if problems == nil {
					problems = []settings.Problem{}
				}
				if err := printJSON(a.stdout, map[string]any{"ok": !bad, "problems": problems}); err != nil {
					return err
				}
			} else {
				for _, p := range problems {
					fmt.Fprintln(a.stdout, p)
				}
				if !bad {
					fmt.Fprintf(a.stdout, "%s: ok: node %s, MQTT on %s, data in %s\n", a.config, cfg.Node.Name, cfg.Listen.Describe(), cfg.Node.DataDir)
				}
			}
			if bad {
				return no
			}
			return nil
		},
	}
}
