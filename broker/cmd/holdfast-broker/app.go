package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/program"
)

// app is what the commands share.
type app struct {
	*program.Env
	config    string // --config
	admin     string // --admin
	tokenFile string // --token-file
}

// tree is all commands.
func tree(env *program.Env) *cobra.Command {
	a := &app{Env: env}
	root := &cobra.Command{
		Use:   "holdfast-broker",
		Short: "MQTT broker that can prove what arrived",
		Long: `Holdfast's broker takes MQTT messages, verifies those of gateways, has them on disk
before it acknowledges them, and keeps a ledger of what every gateway numbered.`,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.config, "config", broker.DefaultConfigFile, "the broker's configuration `file`")
	flags.StringVar(&a.admin, "admin", "", "admin API, such as http://127.0.0.1:18083 (HOLDFAST_ADMIN); default: the unix `socket` under data_dir")
	flags.StringVar(&a.tokenFile, "token-file", "", "`file` with the admin API's token (or the token itself in HOLDFAST_TOKEN)")
	root.AddCommand(a.runCommand(), a.checkCommand(), a.deviceCommand(), a.ledgerCommand(), a.tailCommand())
	root.AddCommand(a.sessionCommand(), a.clientCommand(), a.explainCommand(), a.clusterCommand(), a.backupCommand(), a.restoreCommand(), a.userCommand())
	root.AddCommand(a.tokenCommand(), a.auditCommand())
	return root
}

// client connects to the broker that the flags, the environment or the settings name.
func (a *app) client() (*admin.Client, error) {
	address := a.admin
	if address == "" {
		address = a.Getenv("HOLDFAST_ADMIN")
	}
	if address == "" {
		return admin.NewClient("unix:"+a.socket(), "")
	}
	token := a.Getenv("HOLDFAST_TOKEN")
	if a.tokenFile != "" {
		var err error
		if token, err = admin.ReadToken(a.tokenFile); err != nil {
			return nil, err
		}
	}
	c, err := admin.NewClient(address, token)
	if err != nil {
		return nil, program.Usage("%v", err)
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
		return program.Exit{Code: program.AnswerNo, Msg: refused.Error()}
	case errors.As(err, &refused) && refused.Status == 400:
		return program.Usage("%s", refused.Error())
	case errors.As(err, &refused):
		return err
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; or use --admin with --token-file", err)
	case errors.Is(err, os.ErrNotExist), isRefused(err):
		return fmt.Errorf("%w; is the broker running? --config names its settings, --admin another node", err)
	}
	return err
}

func isRefused(err error) bool {
	var u *url.Error
	return errors.As(err, &u) && strings.Contains(u.Error(), "connection refused")
}
