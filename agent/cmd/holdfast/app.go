package main

import (
	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
)

const defaultConfig = "/etc/holdfast/agent.toml"

// app is what the commands share.
type app struct {
	*program.Env
	config  string // --config
	release string // the installed release that this process is; "": the package's program
}

// tree is all commands.
func tree(env *program.Env) *cobra.Command {
	a := &app{Env: env, release: takeRelease(env.Getenv)}
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Gateway agent that never loses a reading",
		Long: `Holdfast reads the devices of a gateway, signs what they say, keeps it until a
broker has acknowledged it, and tells how it fares.`,
	}
	root.PersistentFlags().StringVar(&a.config, "config", defaultConfig, "the agent's configuration `file`")
	root.AddCommand(a.runCommand(), a.checkCommand(), a.devicesCommand(), a.statusCommand(), a.bufferCommand(),
		a.identityCommand(), a.enrolCommand(), a.verifyCommand(), a.updateCommand(), a.judgeCommand())
	return root
}

// load reads the configuration for a command that needs a sound one.
func (a *app) load() (agent.Config, []settings.Problem, error) {
	cfg, problems := agent.LoadConfig(a.config)
	return cfg, problems, program.Usable(problems)
}
