package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
)

func (a *app) checkCommand() *cobra.Command {
	var online, start bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration and devices; exit 1 with every problem and its line",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if start && online {
				return program.Usage("--start asks no broker: --online or --start")
			}
			if start {
				_, problems := agent.CheckStart(a.config)
				return a.Report(problems, a.config+": the agent starts with it")
			}
			cfg, problems := agent.CheckConfig(cmd.Context(), a.config, online)
			return a.Report(problems, fmt.Sprintf("%s: good (%d devices)", a.config, len(cfg.Devices)))
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "also log in to each broker")
	cmd.Flags().BoolVar(&start, "start", false, "say only what keeps the agent from starting: no device that is away does")
	return cmd
}
