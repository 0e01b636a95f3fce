package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
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

// app is what the commands share.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr *os.File
	getenv func(string) string

	config    string // --config
	admin     string // --admin
	tokenFile string // --token-file
	json      bool   // --json
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
	if e.code == exitUse {
		fmt.Fprintf(a.stderr, "See: %s --help\n", cmd.CommandPath())
	}
	return e.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast-broker",
		Short: "MQTT broker that can prove what arrived",
		Long: `Holdfast's broker takes MQTT messages, verifies those of gateways, has them on disk
before it acknowledges them, and keeps a ledger of what every gateway numbered.

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
	flags := root.PersistentFlags()
	flags.StringVar(&a.config, "config", broker.DefaultConfigFile, "the broker's configuration `file`")
	flags.StringVar(&a.admin, "admin", "", "admin API, such as http://127.0.0.1:18083 (HOLDFAST_ADMIN); default: the unix `socket` under data_dir")
	flags.StringVar(&a.tokenFile, "token-file", "", "`file` with the admin API's token (or the token itself in HOLDFAST_TOKEN)")
	flags.BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.runCommand(), a.checkCommand(), a.deviceCommand(), a.ledgerCommand(), a.tailCommand(), a.versionCommand())
	root.AddCommand(later()...)
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
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
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

// client connects to the broker that the flags, the environment or the settings name.
func (a *app) client() (*admin.Client, error) {
	address := a.admin
	if address == "" {
		address = a.getenv("HOLDFAST_ADMIN")
	}
	if address == "" {
		return admin.NewClient("unix:"+a.socket(), "")
	}
	token := a.getenv("HOLDFAST_TOKEN")
	if a.tokenFile != "" {
		var err error
		if token, err = admin.ReadToken(a.tokenFile); err != nil {
			return nil, err
		}
	}
	c, err := admin.NewClient(address, token)
	if err != nil {
		return nil, usage("%v", err)
	}
	return c, nil
}

// socket is the admin socket of the node on this host. Settings with mistakes may
// still say where it is.
func (a *app) socket() string {
	cfg, _ := broker.LoadConfig(a.config)
	return filepath.Join(cfg.Node.DataDir, admin.SocketFile)
}

// ask runs fn with a client, and says what to do when nobody answers.
func (a *app) ask(fn func(*admin.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	err = fn(c)
	var refused *admin.Error
	switch {
	case errors.As(err, &refused) && (refused.Status == 404 || refused.Status == 409):
		return exit{exitNo, refused.Error()}
	case errors.As(err, &refused) && refused.Status == 400:
		return usage("%s", refused.Error())
	case errors.As(err, &refused):
		return err
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; run this as root or as the broker's user, or use --admin with --token-file", err)
	case errors.Is(err, os.ErrNotExist), isRefused(err):
		return fmt.Errorf("%w; is the broker running? --config names its settings, --admin another node", err)
	}
	return err
}

func isRefused(err error) bool {
	var u *url.Error
	return errors.As(err, &u) && strings.Contains(u.Error(), "connection refused")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
