package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
)

func (a *app) identityCommand() *cobra.Command {
	var qr, csr bool
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Print gateway id, key id and public key",
		Long: `Prints who this gateway is, for the broker's registry:
  holdfast identity --json > gateway.json
  holdfast-broker device add GATEWAY --key gateway.json
With --qr it also draws a QR code, in which this JSON is, for someone who stands before the board.
With --csr it prints instead a certificate request (PKCS#10) for the key of the gateway's TLS certificate, which is another one:
  holdfast identity --csr > gateway.csr
  holdfast-broker device sign gateway.csr > gateway.crt
  holdfast enrol --certificate gateway.crt

On the first run it makes the key. The secret of an HMAC key is never printed: copy the
key file itself to the broker, by a way that you trust.`,
		RunE: func(*cobra.Command, []string) error {
			if csr && qr {
				return program.Usage("--csr or --qr, not both")
			}
			if csr {
				return a.request()
			}
			return a.identity(agent.OpenIdentity, qr)
		},
	}
	cmd.Flags().BoolVar(&csr, "csr", false, "print a certificate request for the TLS key")
	cmd.Flags().BoolVar(&qr, "qr", false, "also draw it as a QR code (the terminal must know UTF-8)")
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new signing key",
		Long: `Makes a new signing key and keeps the old one until the broker has heard of it from
both. Restart the agent to use it: systemctl restart holdfast.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.identity(agent.RotateIdentity, false) },
	}
	cmd.AddCommand(rotate)
	return cmd
}

func (a *app) identity(open func(agent.Config, io.Reader) (agent.Identity, error), qr bool) error {
	if a.JSON && qr {
		return program.Usage("--json or --qr, not both")
	}
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
	out := id.Public()
	if a.JSON {
		return a.PrintJSON(out)
	}
	fmt.Fprintf(a.Stdout, "gateway     %s\nkey id      %s\nalgorithm   %s\npublic key  %s\n", out.Gateway, out.Kid, out.Alg, out.JWK)
	if id.Previous != nil {
		fmt.Fprintf(a.Stdout, "replaces    %s (until the broker has heard of it; restart the agent)\n", id.Previous.Kid())
	}
	if qr {
		code, err := out.QR()
		if err != nil {
			return err
		}
		fmt.Fprint(a.Stdout, code.Terminal(newPen(a.Stdout).colour))
	}
	return nil
}

// request prints the certificate request for the TLS key.
func (a *app) request() error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	id, err := agent.OpenIdentity(cfg, nil)
	if err != nil {
		return err
	}
	text, err := agent.CertificateRequest(cfg, id, nil)
	if err := errors.Join(err, handOver(cfg)); err != nil {
		return err
	}
	if a.JSON {
		return a.PrintJSON(map[string]string{"gateway": id.Gateway, "csr": string(text)})
	}
	_, err = a.Stdout.Write(text)
	return err
}
