package main

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/broker/authority"
	"holdfast/broker/door"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
	"holdfast/uplink/est"
)

// tokenFlags is what device add says about a token.
type tokenFlags struct {
	expires string
	replace bool
}

func (a *app) enrolToken(ctx context.Context, gateway string, f tokenFlags) error {
	in := admin.NewEnrolToken{Replace: f.replace}
	if f.expires != "" {
		var d settings.Duration
		if err := d.UnmarshalText([]byte(f.expires)); err != nil {
			return program.Usage("--expires: %v", err)
		}
		in.Expires = admin.Period(time.Duration(d))
	}
	return a.ask(func(c *admin.Client) error {
		var t admin.EnrolToken
		if err := c.Post(ctx, "/v1/devices/"+url.PathEscape(gateway)+"/token", in, &t); err != nil {
			return err
		}
		if a.JSON {
			return a.PrintJSON(t)
		}
		fmt.Fprintf(a.Stderr, "one-time token for gateway %s, until %s. It is shown this once; on the gateway:\n  holdfast enrol https://BROKER:PORT --token TOKEN\n", t.Gateway, stamp(t.Expires))
		fmt.Fprintln(a.Stdout, t.Secret)
		return nil
	})
}

// signFlags is what device sign is told.
type signFlags struct {
	ca, key, lifetime string
}

// signedCertificate is what device sign prints as JSON.
type signedCertificate struct {
	Gateway  string    `json:"gateway"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	PEM      string    `json:"certificate"` // with those that issued it, without the root
}

func (a *app) deviceSign() *cobra.Command {
	var f signFlags
	c := &cobra.Command{
		Use:   "sign CSR",
		Short: "Sign a gateway's certificate request, and print the certificate",
		Long: `Signs what "holdfast identity --csr" printed, with the CA of [enrol] in the settings, or with that of
--ca-file and --ca-key-file, which then never has to be on a broker. The certificate is for the gateway that the
request names, for a TLS client and nothing else. It is entered in the broker's index before it is
printed, so that device revoke knows it. - reads the request from standard input.

Whoever signs has to know whose request it is: compare the gateway that is printed with the one that you stand before.`,
		Example: `  ssh gw-1 holdfast identity --csr | holdfast-broker device sign - > gw-1.pem
  holdfast-broker device sign gw-1.csr --ca-file ca.pem --ca-key-file ca.key --admin http://127.0.0.1:18083 --token-file t`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error { return a.sign(cmd.Context(), list[0], f) },
	}
	c.Flags().StringVar(&f.ca, "ca-file", "", "the CA's certificate, PEM `file`; default: that of [enrol]")
	c.Flags().StringVar(&f.key, "ca-key-file", "", "its private key, PEM `file`")
	c.Flags().StringVar(&f.lifetime, "lifetime", "", "the certificate is good for so `long`, such as 30d; default: that of [enrol]")
	return c
}

func (a *app) sign(ctx context.Context, file string, f signFlags) error {
	ca, lifetime, err := a.authority(f)
	if err != nil {
		return err
	}
	data, err := a.readRequest(file)
	if err != nil {
		return err
	}
	request, err := est.ParseRequest(data)
	if err != nil {
		return program.Exit{Code: program.AnswerNo, Msg: fmt.Sprintf("%s: %v", file, err)}
	}
	gateway := request.Subject.CommonName
	if !broker.ValidGateway(gateway) || len(gateway) > est.MaxGateway {
		return program.Exit{Code: program.AnswerNo, Msg: fmt.Sprintf("%s: it is for %q, which is no name of a gateway", file, gateway)}
	}
	cert, err := ca.Issue(gateway, request.PublicKey, time.Now(), lifetime, rand.Reader)
	if err != nil {
		return err
	}
	return a.ask(func(c *admin.Client) error {
		var recorded door.GatewayCertificate
		in := admin.RecordCertificate{Certificate: string(authority.PEM(cert))}
		if err := c.Post(ctx, "/v1/devices/"+url.PathEscape(gateway)+"/certificates", in, &recorded); err != nil {
			return err
		}
		out := signedCertificate{Gateway: gateway, Serial: recorded.Serial, NotAfter: cert.NotAfter, PEM: string(authority.PEM(ca.Chain(cert)...))}
		if a.JSON {
			return a.PrintJSON(out)
		}
		fmt.Fprintf(a.Stderr, "gateway %s: certificate %s, until %s\n", gateway, out.Serial, stamp(out.NotAfter))
		fmt.Fprint(a.Stdout, out.PEM)
		return nil
	})
}

// authority is the CA that signs: of the flags, or of the settings.
func (a *app) authority(f signFlags) (*authority.Authority, time.Duration, error) {
	if (f.ca == "") != (f.key == "") {
		return nil, 0, program.Usage("--ca-file and --ca-key-file go together")
	}
	lifetime := broker.DefaultCertificateLifetime
	if f.ca == "" || f.lifetime == "" {
		cfg, problems := broker.LoadConfig(a.config)
		if f.ca == "" && (cfg.Enrol == nil || cfg.Enrol.CAKeyFile == "") {
			if errs := settings.Errors(problems); len(errs) > 0 {
				return nil, 0, fmt.Errorf("%s", errs[0].String())
			}
			return nil, 0, program.Usage("%s has no [enrol] with ca_file and ca_key_file; give --ca-file and --ca-key-file", a.config)
		}
		if cfg.Enrol != nil {
			lifetime = cfg.Enrol.Lifetime
			if f.ca == "" {
				f.ca, f.key = cfg.Enrol.CAFile, cfg.Enrol.CAKeyFile
			}
		}
	}
	if f.lifetime != "" {
		var d settings.Duration
		if err := d.UnmarshalText([]byte(f.lifetime)); err != nil || d <= 0 {
			return nil, 0, program.Usage("--lifetime: %q is not a time such as 30d", f.lifetime)
		}
		lifetime = time.Duration(d)
	}
	ca, err := authority.Load(f.ca, f.key)
	return ca, lifetime, err
}

func (a *app) readRequest(file string) ([]byte, error) {
	in := a.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("certificate request: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, est.MaxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("certificate request: read %s: %w", file, err)
	}
	if block, _ := pem.Decode(data); block != nil && block.Type == "CERTIFICATE" {
		return nil, program.Usage("%s is a certificate, not a request for one", file)
	}
	return data, nil
}

func (a *app) revokeCertificate(ctx context.Context, gateway, serial string) error {
	return a.ask(func(c *admin.Client) error {
		var all []door.GatewayCertificate
		if err := c.Delete(ctx, "/v1/devices/"+url.PathEscape(gateway)+"/certificates?serial="+url.QueryEscape(serial), &all); err != nil {
			return err
		}
		if a.JSON {
			return a.PrintJSON(all)
		}
		for _, x := range all {
			fmt.Fprintf(a.Stdout, "gateway %s: certificate %s is %s\n", gateway, x.Serial, x.State)
		}
		return nil
	})
}

func (a *app) printCertificates(g door.Gateway) {
	for _, x := range g.Certificates {
		fmt.Fprintf(a.Stdout, "certificate %s\n  issuer    %s\n  state     %s\n  valid     %s to %s\n  issued    %s (%s)\n",
			x.Serial, x.Issuer, x.State, stamp(x.NotBefore), stamp(x.NotAfter), stamp(x.Issued), x.By)
	}
	if !g.TokenUntil.IsZero() {
		fmt.Fprintf(a.Stdout, "token\n  valid     until %s\n", stamp(g.TokenUntil))
	}
}

// certificateOf is the certificate of a gateway in a word or two.
func certificateOf(g door.Gateway) string {
	valid := slices.IndexFunc(g.Certificates, func(x door.GatewayCertificate) bool { return x.State == door.CertValid })
	switch {
	case valid >= 0:
		return "until " + stamp(g.Certificates[valid].NotAfter)
	case !g.TokenUntil.IsZero():
		return "may enrol until " + stamp(g.TokenUntil)
	case len(g.Certificates) > 0:
		return g.Certificates[0].State
	}
	return "-"
}
