package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker/admin"
	"holdfast/broker/door"
	"holdfast/systemd/program"
)

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "device",
		Short: "Manage the keys and certificates of gateways",
		Long: `The registry says which key may sign for which gateway. A gateway has one active key;
rotation retires the old one, which then verifies only the epochs it signed; a revoked
key verifies nothing.

With [enrol] in its settings the broker also issues the certificates with which gateways
connect, and keeps an index of them.`,
	}
	c.AddCommand(a.deviceAdd(), a.deviceApprove(), a.deviceSign(), a.deviceList(), a.deviceShow(), a.deviceRevoke())
	return c
}

func (a *app) deviceAdd() *cobra.Command {
	var file string
	var in admin.AddDevice
	var token tokenFlags
	c := &cobra.Command{
		Use:   "add GATEWAY [--key FILE]",
		Short: "Register a gateway's key, or let the gateway enrol by itself",
		Long: `Without --key it makes a one-time token, and prints it: this once. With it the gateway enrols:
it hands in its signing key, which is registered at once, and gets its client certificate.
That needs [enrol] in the broker's settings.

With --key it registers the public key of a gateway: a PEM public key, a JWK, or the output of
"holdfast identity --json". For HMAC it is the gateway's key file, which holds the secret.
Adding the same key again changes nothing. A further key is pending until the gateway
opens an epoch with it; then the earlier one is retired.`,
		Example: `  holdfast-broker device add gw-1
  holdfast-broker device add gw-1 --replace --expires 24h
  ssh gw-1 holdfast identity --json | holdfast-broker device add gw-1 --key -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if !cmd.Flags().Changed("key") {
				if in.Restore || in.Pending || len(in.Epochs) > 0 {
					return program.Usage("--key is missing: --epoch, --pending and --restore are about a key")
				}
				return a.enrolToken(cmd.Context(), list[0], token)
			}
			if token.replace || token.expires != "" {
				return program.Usage("--key, or --expires and --replace, which are about a token: not both")
			}
			key, err := a.readKey(file)
			if err != nil {
				return err
			}
			in.Gateway, in.Key = list[0], key
			return a.ask(func(c *admin.Client) error {
				var k door.GatewayKey
				if err := c.Post(cmd.Context(), "/v1/devices", in, &k); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(k)
				}
				fmt.Fprintf(a.Stdout, "gateway %s: key %s (%s) is %s\n", in.Gateway, k.Kid, k.Alg, stateOf(k))
				return nil
			})
		},
	}
	c.Flags().StringVar(&file, "key", "", "`file` with the key, - for standard input")
	c.Flags().StringVar(&token.expires, "expires", "", "the token may be used for so `long`, such as 24h; default: token under [enrol]")
	c.Flags().BoolVar(&token.replace, "replace", false, "another board takes the gateway's place: when it enrols, the certificates of the first are revoked")
	c.Flags().StringArrayVar(&in.Epochs, "epoch", nil, "an `epoch` that the key may verify though it is retired (repeatable)")
	c.Flags().BoolVar(&in.Pending, "pending", false, "it verifies nothing until device approve")
	c.Flags().BoolVar(&in.Restore, "restore", false, "take a revocation back that was a mistake")
	return c
}

// maxKeyFile is far more than any key takes.
const maxKeyFile = 64 << 10

func (a *app) readKey(file string) (string, error) {
	if file == "" {
		return "", program.Usage("--key is missing: a file with the public key, or - for standard input")
	}
	in := a.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("key: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxKeyFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("key: read %s: %w", file, err)
	case len(b) > maxKeyFile:
		return "", program.Usage("key: %s is more than %d bytes: that is no key", file, maxKeyFile)
	case strings.TrimSpace(string(b)) == "":
		return "", program.Usage("key: %s is empty", file)
	}
	return string(b), nil
}

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List gateways and their keys",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(func(c *admin.Client) error {
				var all []door.Gateway
				if err := c.Get(cmd.Context(), "/v1/devices", &all); err != nil {
					return err
				}
				return a.printGateways(all)
			})
		},
	}
}

func (a *app) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show GATEWAY",
		Short: "Show one gateway's keys with their epochs",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				var g door.Gateway
				if err := c.Get(cmd.Context(), "/v1/devices/"+url.PathEscape(list[0]), &g); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(g)
				}
				for _, k := range g.Keys {
					fmt.Fprintf(a.Stdout, "key %s\n  algorithm %s\n  state     %s since %s\n  added     %s\n  jwk       %s\n  epochs    %s\n",
						k.Kid, k.Alg, stateOf(k), stamp(k.Changed), stamp(k.Added), k.JWK, words(k.Epochs))
				}
				a.printCertificates(g)
				return nil
			})
		},
	}
}

func (a *app) deviceApprove() *cobra.Command {
	var kid string
	c := &cobra.Command{
		Use:   "approve GATEWAY",
		Short: "Let a gateway's key verify that waits for it",
		Long: `Approves a key that was enrolled, or added with --pending. Compare it first with what
"holdfast identity" says on the gateway. What the gateway has kept meanwhile then drains.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				path := "/v1/devices/" + url.PathEscape(list[0]) + "/approve"
				if kid != "" {
					path += "?kid=" + url.QueryEscape(kid)
				}
				var k door.GatewayKey
				if err := c.Post(cmd.Context(), path, struct{}{}, &k); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(k)
				}
				fmt.Fprintf(a.Stdout, "gateway %s: key %s is %s\n", list[0], k.Kid, k.State)
				return nil
			})
		},
	}
	c.Flags().StringVar(&kid, "kid", "", "the key with this `id`, if several wait")
	return c
}

// stateOf is a key's state in words.
func stateOf(k door.GatewayKey) string {
	if k.Unapproved {
		return k.State + " (to be approved)"
	}
	return k.State
}

func (a *app) deviceRevoke() *cobra.Command {
	var kid, serial string
	c := &cobra.Command{
		Use:   "revoke GATEWAY",
		Short: "Make keys and certificates of a gateway worth nothing any more",
		Long: `Revokes all keys and certificates of a gateway, and its token; or one key (--kid), or one
certificate (--serial). Connections with a revoked certificate end at once, on all nodes; that
cannot be taken back. What is signed with a revoked key is
refused from now on, the gateway's backlog included: it waits there, and drains if the
revocation is taken back (device add --restore). What is stored already stays.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if kid != "" && serial != "" {
				return program.Usage("--kid or --serial, not both")
			}
			if serial != "" {
				return a.revokeCertificate(cmd.Context(), list[0], serial)
			}
			return a.ask(func(c *admin.Client) error {
				path := "/v1/devices/" + url.PathEscape(list[0])
				if kid != "" {
					path += "?kid=" + url.QueryEscape(kid)
				}
				var keys []door.GatewayKey
				if err := c.Delete(cmd.Context(), path, &keys); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(keys)
				}
				for _, k := range keys {
					fmt.Fprintf(a.Stdout, "gateway %s: key %s is %s\n", list[0], k.Kid, k.State)
				}
				if kid == "" {
					fmt.Fprintf(a.Stdout, "gateway %s: no certificate and no token of it is good any more\n", list[0])
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&kid, "kid", "", "only the key with this `id`")
	c.Flags().StringVar(&serial, "serial", "", "only the certificate with this `number`, in hexadecimal digits")
	return c
}

func (a *app) printGateways(all []door.Gateway) error {
	if a.JSON {
		return a.PrintJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(a.Stdout, "no gateway is registered; holdfast-broker device add GATEWAY --key FILE")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GATEWAY\tKEY\tALGORITHM\tSTATE\tSINCE\tEPOCHS\tCERTIFICATE")
	for _, g := range all {
		if len(g.Keys) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t0\t%s\n", g.Gateway, certificateOf(g))
		}
		for _, k := range g.Keys {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", g.Gateway, k.Kid, k.Alg, stateOf(k), stamp(k.Changed), len(k.Epochs), certificateOf(g))
		}
	}
	return errors.Join(w.Flush())
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func words(list []string) string {
	if len(list) == 0 {
		return "none yet"
	}
	return strings.Join(list, " ")
}
