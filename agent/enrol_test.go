package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/freeport"
	"holdfast/uplink/est"
)

// authorityFiles writes a CA, or what it has signed for the loopback.
func authorityFiles(t *testing.T, dir, name string, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: by == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by, byKey
	} else {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := keyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, name+".key"), private, 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// enrolRig is our own broker, which issues certificates and lets in nobody without one.
type enrolRig struct {
	t                  *testing.T
	dir, config        string
	mqtts, est, status string
	cmd                *exec.Cmd
	log                bytes.Buffer
}

func newEnrolRig(t *testing.T, lifetime string) *enrolRig {
	t.Helper()
	addrs := freeport.Addrs(t, 3)
	r := &enrolRig{t: t, dir: t.TempDir(), mqtts: addrs[0], est: addrs[1], status: addrs[2]}
	authorityFiles(t, r.dir, "gateways", nil, nil)
	ca, key := authorityFiles(t, r.dir, "servers", nil, nil)
	authorityFiles(t, r.dir, "server", ca, key)
	r.config = filepath.Join(r.dir, "broker.toml")
	text := fmt.Sprintf(`
[node]
name = "n1"
data_dir = "data"
[listen]
mqtt = ""
mqtts = %q
admin = %q
cert_file = "server.pem"
key_file = "server.key"
client_ca_file = "gateways.pem"
client_cert_required = ["mqtts"]
[enrol]
listen = %q
ca_file = "gateways.pem"
ca_key_file = "gateways.key"
lifetime = %q
[[auth]]
type = "certificate"
ca_file = "gateways.pem"
publish = ["gw/%%i/#"]
`, r.mqtts, r.status, r.est, lifetime)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("broker:\n%s", &r.log)
		}
	})
	r.start()
	return r
}

func (r *enrolRig) start() {
	r.t.Helper()
	r.cmd = exec.Command(built(r.t, buildBroker), "run", "--config", r.config)
	r.cmd.Stderr = &r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the broker is ready", func() bool {
		resp, err := http.Get("http://" + r.status + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (r *enrolRig) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// ctl is a command of the broker.
func (r *enrolRig) ctl(args ...string) string {
	r.t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command(built(r.t, buildBroker), append(args, "--config", r.config)...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		r.t.Fatalf("%v: %v: %s", args, err, &errs)
	}
	return strings.TrimSpace(out.String())
}

// gateway writes the settings of one.
func (r *enrolRig) gateway(name, more string) (config string, cfg Config) {
	r.t.Helper()
	cfg = testConfig(r.t, r.mqtts)
	config = filepath.Join(r.t.TempDir(), "agent.toml")
	text := fmt.Sprintf("[gateway]\nid = %q\ndata_dir = %q\n[buffer]\nruntime_dir = %q\nmax_bytes = \"16MiB\"\n[uplink]\nservers = [\"mqtts://%s\"]\nca_file = %q\n[status]\nlisten = \"\"\n%s",
		name, cfg.DataDir, cfg.Buffer.RuntimeDir, r.mqtts, filepath.Join(r.dir, "servers.pem"), more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return config, cfg
}

// enrolCmd is `holdfast enrol` for it.
func (r *enrolRig) enrolCmd(config, token string) *exec.Cmd {
	c := exec.Command(program(r.t), "enrol", "https://"+r.est, "--token-file", "-", "--config", config)
	c.Stdin = strings.NewReader(token + "\n")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// agent runs the program until the test ends.
func (r *enrolRig) agent(config string, cfg Config) (status func() (Status, bool)) {
	r.t.Helper()
	var log bytes.Buffer
	c := exec.Command(program(r.t), "run", "--config", config)
	c.Stderr = &log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if r.t.Failed() {
			r.t.Logf("agent:\n%s", &log)
		}
	})
	return func() (Status, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s, err := AskStatus(ctx, cfg.SocketPaths())
		return s, err == nil
	}
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}

// TestEnrolledGateway: from the token to a revoked gateway, both programs as they are shipped. What the gateway signs is taken
// although nobody has added its key.
func TestEnrolledGateway(t *testing.T) {
	t.Parallel()
	r := newEnrolRig(t, "90d")
	config, cfg := r.gateway("gw-1", "")
	token := r.ctl("device", "add", "gw-1")
	if out, err := r.enrolCmd(config, "hfe_wrong").CombinedOutput(); exitCode(err) != 1 || !strings.Contains(string(out), "not known") {
		t.Errorf("a wrong token: %v %s", err, out)
	}
	if out, err := r.enrolCmd(config, token).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	pair, err := loadPair(cfg.PairFile())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.PairFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if out, err := r.enrolCmd(config, token).CombinedOutput(); exitCode(err) != 1 {
		t.Errorf("the token is good for another key: %v %s", err, out)
	}
	if again, err := loadPair(cfg.PairFile()); err != nil || !again.Leaf.Equal(pair.Leaf) {
		t.Errorf("a refusal has touched the certificate: %v", err)
	}
	status := r.agent(config, cfg)
	eventually(t, "the gateway's first message is taken", func() bool {
		s, ok := status()
		return ok && s.Uplink.Connected && s.Uplink.Acked > 0 && s.Enrol.Serial == pair.Leaf.SerialNumber.Text(16)
	})
	if out := r.ctl("device", "show", "gw-1"); !strings.Contains(out, "state     active") || !strings.Contains(out, pair.Leaf.SerialNumber.Text(16)) {
		t.Error(out)
	}
	r.ctl("device", "revoke", "gw-1")
	eventually(t, "the gateway is out, and says why", func() bool {
		s, ok := status()
		return ok && !s.Uplink.Connected && s.Uplink.Stopped != ""
	})
}

// TestEnrolByItself: an agent with a token in its settings enrols, and renews before its certificate ends; it stays connected.
func TestEnrolByItself(t *testing.T) {
	t.Parallel()
	r := newEnrolRig(t, "15s")
	file := filepath.Join(r.dir, "token")
	if err := os.WriteFile(file, []byte(r.ctl("device", "add", "gw-1")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config, cfg := r.gateway("gw-1", fmt.Sprintf("[enrol]\nservers = [\"https://127.0.0.1:1\", \"https://%s\"]\ntoken_file = %q\n", r.est, file))
	status := r.agent(config, cfg)
	var first string
	eventually(t, "it has enrolled and is connected", func() bool {
		s, ok := status()
		first = s.Enrol.Serial
		return ok && s.Uplink.Connected && first != ""
	})
	eventually(t, "it has renewed and is connected", func() bool {
		s, ok := status()
		return ok && s.Uplink.Connected && s.Enrol.Serial != "" && s.Enrol.Serial != first && s.Enrol.Enrolled >= 2
	})
	// A server that is away is said, and changes nothing else.
	r.kill()
	eventually(t, "the failure is said", func() bool {
		s, ok := status()
		return ok && s.Enrol.LastError != "" && s.Ready && strings.Contains(strings.Join(s.Warnings, "\n"), "certificate")
	})
}

// TestEnrolKilled: kill -9 of either side at any moment of an enrolment; the same token ends it, with one certificate in use.
func TestEnrolKilled(t *testing.T) {
	t.Parallel()
	r := newEnrolRig(t, "90d")
	rounds, brokers := 10, 3
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		rounds, brokers = 200, 20
	}
	program(t) // built before anything is timed
	finish := func(round int, config string, cfg Config, token string) {
		t.Helper()
		if pair, err := loadPair(cfg.PairFile()); err == nil { // it was done already
			if pair.Leaf.Subject.CommonName != fmt.Sprint("gw-", round) {
				t.Errorf("round %d: %s", round, pair.Leaf.Subject)
			}
			return
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("round %d: %v", round, err)
		}
		if out, err := r.enrolCmd(config, token).CombinedOutput(); err != nil {
			t.Fatalf("round %d: %v: %s", round, err, out)
		}
		if _, err := loadPair(cfg.PairFile()); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		config, cfg := r.gateway(fmt.Sprint("gw-", round), "")
		token := r.ctl("device", "add", fmt.Sprint("gw-", round))
		c := r.enrolCmd(config, token)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		cut := time.AfterFunc(time.Duration(round*17%170)*time.Millisecond, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		cut.Stop()
		finish(round, config, cfg, token)
	}
	for round := rounds; round < rounds+brokers; round++ {
		config, cfg := r.gateway(fmt.Sprint("gw-", round), "")
		token := r.ctl("device", "add", fmt.Sprint("gw-", round))
		c := r.enrolCmd(config, token)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(20+round*29%120) * time.Millisecond)
		r.kill()
		_ = c.Wait()
		r.start()
		finish(round, config, cfg, token)
	}
	var all []struct {
		Gateway      string
		Certificates []struct{ State string }
	}
	if err := json.Unmarshal([]byte(r.ctl("device", "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if len(g.Certificates) != 1 {
			t.Errorf("gateway %s has %d certificates: a repeated request made another one", g.Gateway, len(g.Certificates))
		}
	}
}

// TestEnrolByHand: request, signature, installation, without the broker's listener.
func TestEnrolByHand(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "127.0.0.1:1")
	id, err := OpenIdentity(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := CertificateRequest(cfg, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := CertificateRequest(cfg, id, nil); err != nil || requestKey(t, again) != requestKey(t, text) {
		t.Errorf("each request is for another key: %v", err)
	}
	r, err := est.ParseRequest(text)
	if err != nil || r.Subject.CommonName != "gw-1" || strings.Contains(string(text), "PRIVATE") {
		t.Fatalf("%v %s", err, text)
	}
	dir := t.TempDir()
	ca, caKey := authorityFiles(t, dir, "ca", nil, nil)
	issue := func(name string, key any) []byte {
		c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"no certificate":    {text, "no certificate"},
		"another's":         {issue("gw-2", r.PublicKey), `is for "gw-2"`},
		"for another key":   {issue("gw-1", caKey.Public()), "does not fit its key"},
		"garbage in armour": {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "certificate"},
	} {
		if _, err := InstallCertificate(cfg, id, c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cfg.withPair().Uplink.CertFile != "" {
		t.Error("there is a pair before there is a certificate")
	}
	if _, err := InstallCertificate(cfg, id, issue("gw-1", r.PublicKey)); err != nil {
		t.Fatal(err)
	}
	if c := cfg.withPair(); c.Uplink.CertFile != cfg.PairFile() || c.Uplink.KeyFile != cfg.PairFile() {
		t.Errorf("%+v", c.Uplink)
	}
	if _, err := InstallCertificate(cfg, id, issue("gw-1", r.PublicKey)); err == nil || !strings.Contains(err.Error(), "--csr") {
		t.Errorf("without a key that waits: %v", err)
	}
	own := cfg
	own.Uplink.CertFile, own.Uplink.KeyFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	if text, err := CertificateRequest(own, id, nil); err != nil || requestKey(t, text) == requestKey(t, text[:0:0]) {
		t.Errorf("the key of the settings: %v", err)
	}
	if _, err := InstallCertificate(own, id, nil); err == nil || !strings.Contains(err.Error(), "uplink.cert_file") {
		t.Error(err)
	}
}

func requestKey(t *testing.T, text []byte) string {
	t.Helper()
	r, err := est.ParseRequest(text)
	if err != nil {
		return ""
	}
	return string(r.RawSubjectPublicKeyInfo)
}

// TestRenewAt: between seven twelfths and two thirds of the time, and not the same for all.
func TestRenewAt(t *testing.T) {
	from := time.Date(2026, 5, 6, 0, 0, 0, 0, time.UTC)
	whole := 90 * 24 * time.Hour
	seen := map[time.Time]bool{}
	for range 100 {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			t.Fatal(err)
		}
		at := renewAt(&x509.Certificate{SerialNumber: serial, NotBefore: from, NotAfter: from.Add(whole)})
		if at.Before(from.Add(whole*7/12)) || at.After(from.Add(whole*2/3)) {
			t.Errorf("%s", at.Sub(from))
		}
		seen[at] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d moments for 100 gateways", len(seen))
	}
	small := &x509.Certificate{SerialNumber: big.NewInt(0), NotBefore: from, NotAfter: from}
	if !renewAt(small).Equal(from) {
		t.Error("a certificate without any time")
	}
}
