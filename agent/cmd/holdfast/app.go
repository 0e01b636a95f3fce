package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/settings"
)

// The exit codes.
const (
	exitDone     = 0
	exitNo       = 1 // the answer is no
	exitUse      = 2 // wrong use
	exitCouldNot = 3 // could not be done
)

// exit is an error that carries its exit code. With no message, everything is said.
type exit struct {
	code int
	msg  string
}

func (e exit) Error() string { return e.msg }

func usage(format string, args ...any) error { return exit{exitUse, fmt.Sprintf(format, args...)} }

// no is the answer no: what there is to say has been printed.
var no = exit{code: exitNo}

const defaultConfig = "/etc/holdfast/agent.toml"

// app is what the commands share.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr *os.File
	getenv func(string) string
	config string // --config
}

// main runs one command line and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var e exit
	if !errors.As(err, &e) {
		e = exit{exitCouldNot, err.Error()}
	}
	if e.msg != "" {
		fmt.Fprintf(a.stderr, "%s: %s\n", cmd.CommandPath(), e.msg)
	}
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintf(a.stderr, "Run it as root or as the agent's user; holdfast check --config %s tells what belongs to whom.\n", a.config)
	}
	if e.code == exitUse {
		fmt.Fprintf(a.stderr, "See: %s --help\n", cmd.CommandPath())
	}
	return e.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Gateway agent that never loses a reading",
		Long: `Holdfast reads the devices of a gateway, signs what they say, keeps it until a
broker has acknowledged it, and tells how it fares.

Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 could not be done.`,
		SilenceUsage:  true, // a page of usage would hide what went wrong
		SilenceErrors: true, // main prints them
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	root.PersistentFlags().StringVar(&a.config, "config", defaultConfig, "the agent's configuration `file`")
	root.AddCommand(a.runCommand(), a.checkCommand(), a.devicesCommand(), a.statusCommand(), a.bufferCommand(),
		a.identityCommand(), a.verifyCommand(), a.versionCommand(), a.manCommand())
	return root
}

// group is the RunE of a command that only holds others.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		return usage("which command? one of: %s", strings.Join(names, ", "))
	}
	cmd.SuggestionsMinimumDistance = 2 // letters
	near := cmd.SuggestionsFor(args[0])
	if len(near) > 0 {
		return usage("there is no command %q; did you mean %q?", args[0], near[0])
	}
	return usage("there is no command %q", args[0])
}

// args turns cobra's complaints about arguments into wrong use.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usage("%v", err)
		}
		return nil
	}
}

// load reads the configuration for a command that needs a sound one.
func (a *app) load() (agent.Config, []settings.Problem, error) {
	cfg, problems := agent.LoadConfig(a.config)
	errs := settings.Errors(problems)
	if len(errs) == 0 {
		return cfg, problems, nil
	}
	lines := make([]string, len(errs))
	for i, p := range errs {
		lines[i] = p.String()
	}
	return cfg, problems, fmt.Errorf("the configuration cannot be used:\n  %s", strings.Join(lines, "\n  "))
}
