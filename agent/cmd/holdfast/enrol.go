package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
	"holdfast/uplink/est"
)

// enrolFlags is what enrol is told.
type enrolFlags struct {
	token, tokenFile, certificate string
}

// enrolled is what enrol prints as JSON.
type enrolled struct {
	Gateway  string    `json:"gateway"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	File     string    `json:"file"`
}

func (a *app) enrolCommand() *cobra.Command {
	var f enrolFlags
	cmd := &cobra.Command{
		Use:   "enrol [URL…]",
		Short: "Get this gateway its certificate, with a one-time token",
		Long: `Asks the broker for the certificate with which the gateway connects, and hands in its signing key. The token is
what "holdfast-broker device add GATEWAY" printed; it is good once. The addresses are remembered, and the agent
renews the certificate there before it ends. A second call with the same token does no harm.

With --certificate it puts a certificate into use that was signed by hand, for what "holdfast identity --csr" printed.

uplink.ca_file, or the system's authorities, say whether it is the right broker.`,
		Example: `  holdfast enrol https://broker.example:8085 --token-file token
  holdfast enrol --certificate gw-0042.pem`,
		RunE: func(cmd *cobra.Command, servers []string) error { return a.enrol(cmd.Context(), servers, f) },
	}
	cmd.Flags().StringVar(&f.token, "token", "", "the one-time `token`; other users of this machine may see it in the list of processes")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "`file` with the token, - for standard input")
	cmd.Flags().StringVar(&f.certificate, "certificate", "", "`file` with the certificate (PEM), - for standard input; no broker is asked")
	return cmd
}

func (a *app) enrol(ctx context.Context, servers []string, f enrolFlags) error {
	if f.certificate != "" && (f.token != "" || f.tokenFile != "" || len(servers) > 0) {
		return program.Usage("--certificate asks nobody: no URL and no token with it")
	}
	if f.token != "" && f.tokenFile != "" {
		return program.Usage("--token or --token-file, not both")
	}
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	if len(servers) == 0 {
		servers = cfg.Enrol.Servers
	}
	for _, s := range servers {
		if err := est.CheckServer(s); err != nil {
			return program.Usage("%v", err)
		}
	}
	id, err := agent.OpenIdentity(cfg, nil)
	if err != nil {
		return err
	}
	cert, err := a.certificate(ctx, cfg, id, servers, f)
	if err := errors.Join(err, handOver(cfg)); err != nil {
		return refusedOr(err)
	}
	out := enrolled{id.Gateway, cert.SerialNumber.Text(16), cert.NotAfter, cfg.PairFile()}
	if a.JSON {
		return a.PrintJSON(out)
	}
	fmt.Fprintf(a.Stdout, "gateway %s has certificate %s, until %s\n", out.Gateway, out.Serial, out.NotAfter.UTC().Format(time.RFC3339))
	fmt.Fprintln(a.Stderr, "a running agent takes it within a minute, or at once: systemctl reload holdfast")
	return nil
}

func (a *app) certificate(ctx context.Context, cfg agent.Config, id agent.Identity, servers []string, f enrolFlags) (*x509.Certificate, error) {
	if f.certificate != "" {
		data, err := a.readSmall(f.certificate, est.MaxMessage)
		if err != nil {
			return nil, err
		}
		return agent.InstallCertificate(cfg, id, data)
	}
	token := f.token
	if f.tokenFile == "" && token == "" {
		f.tokenFile = cfg.Enrol.TokenFile
	}
	if f.tokenFile != "" {
		data, err := a.readSmall(f.tokenFile, 4096)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		token = string(data)
	}
	if token = strings.TrimSpace(token); token == "" {
		return nil, program.Usage("--token is missing: holdfast-broker device add %s prints one", id.Gateway)
	}
	return agent.Enrol(ctx, cfg, id, servers, token, program.ThisBuild().Time)
}

// refusedOr makes a refusal the answer no.
func refusedOr(err error) error {
	var no *est.Refusal
	switch {
	case errors.As(err, &no) && !no.Temporary():
		return program.Exit{Code: program.AnswerNo, Msg: err.Error()}
	case errors.Is(err, agent.ErrNoServer):
		return program.Usage("%v", err)
	}
	return err
}

// readSmall reads a file, or standard input.
func (a *app) readSmall(name string, most int64) ([]byte, error) {
	in := a.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return data, err
}
