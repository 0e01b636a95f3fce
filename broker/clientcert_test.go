package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// signer is a CA of a test.
type signer struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newSigner(t testing.TB, name string) *signer {
	s := &signer{t: t, dir: t.TempDir()}
	s.cert, s.key = s.make(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return s
}

// make signs a certificate, or lets it sign itself.
func (s *signer) make(name string, c *x509.Certificate, by *signer) (*x509.Certificate, *ecdsa.PrivateKey) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signing := c, key
	if by != nil {
		parent, signing = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signing)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return cert, key
}

func (s *signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw})
}

// client makes a client's certificate; files for programs, and the pair.
func (s *signer) client(name string, until time.Time) (certFile, keyFile string, pair tls.Certificate) {
	s.t.Helper()
	cert, key := s.make(name, &x509.Certificate{NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, s)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	certFile, keyFile = filepath.Join(s.dir, name+".pem"), filepath.Join(s.dir, name+".key")
	if err := errors.Join(os.WriteFile(certFile, certPEM, 0o600), os.WriteFile(keyFile, keyPEM, 0o600)); err != nil {
		s.t.Fatal(err)
	}
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		s.t.Fatal(err)
	}
	return certFile, keyFile, pair
}

// certified is a broker that requires certificates at mqtts, and takes them at wss.
func certified(t *testing.T, ca *signer) (b *running, log *logBuffer, tc *tls.Config, caFile string) {
	cfg, tc := everyListener(t)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Listen.ClientCAFile, cfg.Listen.ClientCertRequired, cfg.Listen.ClientCertOptional = caFile, []string{"mqtts"}, []string{"wss"}
	b, log = logged(t, cfg)
	return b, log, tc, caFile
}

func with(tc *tls.Config, pairs ...tls.Certificate) *tls.Config {
	tc = tc.Clone()
	tc.Certificates = pairs
	return tc
}

// letIn says whether a client with these settings gets a CONNACK at a TLS listener.
func letIn(t *testing.T, b *running, listener int, tc *tls.Config) bool {
	t.Helper()
	nc, err := tls.Dial("tcp", b.Addrs()[listener].String(), tc)
	if err != nil {
		return false
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	if _, err := nc.Write(connectPacket("x", opts{version: mqtt.V311, clean: true})); err != nil {
		return false
	}
	var ack [4]byte
	_, err = io.ReadFull(nc, ack[:])
	return err == nil && ack[3] == 0
}

// TestClientCertificates: each listener as its policy says; the verified certificate is there for who decides.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newSigner(t, "our CA"), newSigner(t, "another CA")
	b, log, tc, caFile := certified(t, ca)
	_, _, good := ca.client("gw-1", time.Time{})
	_, _, foreign := other.client("gw-1", time.Time{})
	_, _, old := ca.client("gw-old", time.Now().Add(-time.Minute))
	tc.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for i, c := range []struct {
		tc  *tls.Config
		yes bool
	}{{with(tc, good), true}, {with(tc), false}, {with(tc, old), false}, {with(tc, foreign), false}, {with(tc, good), true}} {
		if got := letIn(t, b, 1, c.tc); got != c.yes {
			t.Errorf("%d: let in: %v", i, got)
		}
	}
	if n := b.Stats().Front.Refused[listen.RefusedClientCert].Load(); n < 2 { // one that no CA of ours signed is not sent by every client
		t.Errorf("%d are counted", n)
	}
	if !strings.Contains(log.String(), "reason=client_certificate") || !strings.Contains(log.String(), "client_ca_file") {
		t.Error(log.String())
	}
	for id, want := range map[string]string{"with": "gw-1", "without": ""} {
		c := with(tc)
		if want != "" {
			c = with(tc, good)
		}
		speak(t, b, 3, "", id, c)
		s := b.sessions.get(id)
		s.mu.Lock()
		got := listen.CertificateOf(s.conn.nc)
		s.mu.Unlock()
		if (got == nil) != (want == "") || got != nil && got.Subject.CommonName != want {
			t.Errorf("%s: %+v", id, got)
		}
	}
	// Another CA, without a restart; one that cannot be read changes nothing.
	replace := func(data []byte) error {
		tmp := caFile + ".new"
		if err := errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, caFile)); err != nil {
			t.Fatal(err)
		}
		return b.files.Load().Refresh()
	}
	if err := replace([]byte("nothing")); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Error(err)
	}
	if err := b.Reload(); err == nil {
		t.Error("SIGHUP says that all is well")
	}
	if !letIn(t, b, 1, with(tc, good)) {
		t.Error("the old CA was given up")
	}
	if err := replace(other.pem()); err != nil {
		t.Error(err)
	}
	if letIn(t, b, 1, with(tc, good)) || !letIn(t, b, 1, with(tc, foreign)) {
		t.Error("the new CA is not what counts")
	}
	if text := scrape(t, b.Broker); !strings.Contains(text, `certificate_not_after_seconds{use="client_ca"}`) || !strings.Contains(text, `certificate_not_after_seconds{use="server"}`) {
		t.Error("no metric of when the certificates expire")
	}
}

// TestClientCertificatesOfPrograms: mosquitto_pub and openssl.
func TestClientCertificatesOfPrograms(t *testing.T) {
	t.Parallel()
	for program, of := range map[string]string{"mosquitto_pub": "mosquitto-clients", "openssl": "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: apt-get install %s", program, of)
		}
	}
	ca := newSigner(t, "our CA")
	b, _, _, _ := certified(t, ca)
	cert, key, _ := ca.client("gw-1", time.Time{})
	_, port, err := net.SplitHostPort(b.Addrs()[1].String())
	if err != nil {
		t.Fatal(err)
	}
	pub := []string{"-h", "127.0.0.1", "-p", port, "--cafile", b.cfg.Listen.CertFile, "-t", "a", "-m", "x", "-q", "1"}
	if out, err := exec.CommandContext(t.Context(), "mosquitto_pub", append(pub, "--cert", cert, "--key", key)...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "mosquitto_pub", pub...).CombinedOutput(); err == nil {
		t.Errorf("without a certificate: %s", out)
	}
	hello := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", b.Addrs()[1].String(), "-CAfile", b.cfg.Listen.CertFile, "-cert", cert, "-key", key, "-verify_return_error", "-brief")
	hello.Stdin = strings.NewReader("")
	if out, err := hello.CombinedOutput(); err != nil || !strings.Contains(string(out), "Verification: OK") || !strings.Contains(string(out), "TLSv1.3") {
		t.Errorf("openssl: %v: %s", err, out)
	}
	asks := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", b.Addrs()[1].String(), "-CAfile", b.cfg.Listen.CertFile)
	asks.Stdin = strings.NewReader("")
	if out, _ := asks.CombinedOutput(); !strings.Contains(string(out), "our CA") {
		t.Errorf("it does not name the CA that it wants: %s", out)
	}
	for _, flag := range []string{"-tls1", "-tls1_1"} {
		old := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", b.Addrs()[3].String(), flag, "-cipher", "ALL:@SECLEVEL=0")
		old.Stdin = strings.NewReader("")
		if out, err := old.CombinedOutput(); err == nil {
			t.Errorf("%s: %s", flag, out)
		}
	}
}
