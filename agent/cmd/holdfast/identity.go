package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/agent"
)

func (a *app) identityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Print gateway id, key id and public key",
		Long: `Prints who this gateway is, for the broker's registry:
  holdfast identity --json > gateway.json
  holdfast-broker device add GATEWAY --key gateway.json
On the first run it makes the key. The secret of an HMAC key is never printed: copy the
key file itself to the broker, by a way that you trust.`,
		RunE: func(*cobra.Command, []string) error { return a.identity(agent.OpenIdentity) },
	}
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new signing key",
		Long: `Makes a new signing key and keeps the old one until the broker has heard of it from
both. Restart the agent to use it: systemctl restart holdfast.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.identity(agent.RotateIdentity) },
	}
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

func (a *app) identity(open func(agent.Config, io.Reader) (agent.Identity, error)) error {
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
	if a.JSON {
		return a.PrintJSON(out)
	}
	fmt.Fprintf(a.Stdout, "gateway     %s\nkey id      %s\nalgorithm   %s\npublic key  %s\n", out.Gateway, out.Kid, out.Alg, out.JWK)
	if id.Previous != nil {
		fmt.Fprintf(a.Stdout, "replaces    %s (until the broker has heard of it; restart the agent)\n", id.Previous.Kid())
	}
	return nil
}
