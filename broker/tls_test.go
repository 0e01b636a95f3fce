package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// certificate writes a self-signed one for the loopback.
func certificate(t testing.TB) (certFile, keyFile string, pool *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certFile, keyFile, pool
}

// TestTLS: the TLS listener serves, and not below 1.2; one who never finishes the handshake
// keeps nobody out.
func TestTLS(t *testing.T) {
	cfg := testConfig(t.TempDir())
	var pool *x509.CertPool
	cfg.Listen.CertFile, cfg.Listen.KeyFile, pool = certificate(t)
	cfg.Listen.MQTT, cfg.Listen.MQTTS = "", "127.0.0.1:0"
	b := start(t, cfg)
	silent, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	nc, err := tls.Dial("tcp", b.addr, &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(connectPacket("c", opts{version: mqtt.V311, clean: true})); err != nil {
		t.Fatal(err)
	}
	var ack [4]byte
	if _, err := nc.Read(ack[:]); err != nil || ack != [4]byte{0x20, 2, 0, 0} {
		t.Errorf("CONNACK %x, %v", ack, err)
	}
	if c, err := tls.Dial("tcp", b.addr, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		c.Close()
		t.Error("TLS 1.1 is served")
	}
}

// TestListenErrors: a port in use, a certificate that is not there.
func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, l := range []listen.Config{{MQTT: taken.Addr().String()}, {MQTT: "127.0.0.1:0", MQTTS: "127.0.0.1:0", CertFile: "none", KeyFile: "none"}} {
		cfg := testConfig(t.TempDir())
		cfg.Listen = l
		b, err := New(cfg, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Run(t.Context()); err == nil {
			t.Errorf("%+v: no error", l)
		}
	}
}
