package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/agent"
)

func (a *app) identityCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Print gateway id, key id and public key",
		Long: `Prints who this gateway is, for the broker's registry:
  holdfast identity --json > gateway.json
  holdfast-broker device add GATEWAY --key gateway.json
On the first run it makes the key. The secret of an HMAC key is never printed: copy the
key file itself to the broker, by a way that you trust.`,
		Args: args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, list []string) error {
			if len(list) > 0 {
				return group(cmd, list)
			}
			return a.identity(asJSON, agent.OpenIdentity)
		},
	}
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new signing key",
		Long: `Makes a new signing key and keeps the old one until the broker has heard of it from
both. Restart the agent to use it: systemctl restart holdfast.`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.identity(asJSON, agent.RotateIdentity) },
	}
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(rotate)
	return cmd
}

// identity is what the broker's registry wants to know.
type identity struct {
	Gateway string          `json:"gateway"`
	Kid     string          `json:"kid"`
	Alg     string          `json:"alg"`
	JWK     json.RawMessage `json:"jwk"`
}

func (a *app) identity(asJSON bool, open func(agent.Config, io.Reader) (agent.Identity, error)) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	id, err := open(cfg, nil)
	if err != nil {
		return err
	}
	if err := handOver(cfg); err != nil {
		return err
	}
	out := identity{id.Gateway, id.Key.Kid(), id.Key.Alg(), id.Key.Public().JWK()}
	if asJSON {
		return printJSON(a.stdout, out)
	}
	fmt.Fprintf(a.stdout, "gateway     %s\nkey id      %s\nalgorithm   %s\npublic key  %s\n", out.Gateway, out.Kid, out.Alg, out.JWK)
	if id.Previous != nil {
		fmt.Fprintf(a.stdout, "replaces    %s (until the broker has heard of it; restart the agent)\n", id.Previous.Kid())
	}
	return nil
}
