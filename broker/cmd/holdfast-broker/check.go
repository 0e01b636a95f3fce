package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/broker"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration",
		Long: `Reads the configuration and prints every problem with its line. Exit 1 if the broker
would not start with it; warnings alone do not count.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, problems := broker.LoadConfig(a.config)
			return a.Report(problems, fmt.Sprintf("%s: ok: node %s, MQTT on %s, data in %s", a.config, cfg.Node.Name, cfg.Listen.Describe(), cfg.Node.DataDir))
		},
	}
}
