package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent"
)

func (a *app) checkCommand() *cobra.Command {
	var online bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration and devices; exit 1 with every problem and its line",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, problems := agent.CheckConfig(cmd.Context(), a.config, online)
			return a.Report(problems, fmt.Sprintf("%s: good (%d devices)", a.config, len(cfg.Devices)))
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "also log in to each broker")
	return cmd
}
