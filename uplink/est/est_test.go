package est

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func requestOf(t testing.TB, name string, key crypto.Signer) []byte {
	t.Helper()
	der, err := Request(name, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// certificates makes a chain of n, each signed by itself: what they are is not the question.
func certificates(t testing.TB, keys ...crypto.Signer) (out []*x509.Certificate) {
	t.Helper()
	for i, key := range keys {
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: "gw-1"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, cert)
	}
	return out
}

// TestRequest: all three forms are read, and what is no request of a usable key is refused with words.
func TestRequest(t *testing.T) {
	der := requestOf(t, "gw-1", ecKey(t))
	for name, data := range map[string][]byte{"DER": der, "PEM": PEM(der), "base64": []byte(base64.StdEncoding.EncodeToString(der)), "base64 in lines": []byte(base64.StdEncoding.EncodeToString(der)[:64] + "\r\n" + base64.StdEncoding.EncodeToString(der)[64:])} {
		r, err := ParseRequest(data)
		if err != nil || r.Subject.CommonName != "gw-1" || !bytes.Equal(r.Raw, der) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := bytes.Clone(der)
	broken[len(broken)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing": {nil, "no certificate request"},
		"garbage": {[]byte("garbage"), "no certificate request"},
		"altered": {broken, "signature"},
		"weak":    {requestOf(t, "gw-1", weak), "2048"},
		"long":    {make([]byte, MaxMessage+1), "more than"},
	} {
		if _, err := ParseRequest(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Request(strings.Repeat("g", MaxGateway+1), ecKey(t), rand.Reader); err == nil {
		t.Error("a name that does not fit")
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRequest(requestOf(t, "gw-1", edwards)); err != nil {
		t.Error(err)
	}
}

// TestCertificates: what one side writes the other reads, and openssl reads it, too.
func TestCertificates(t *testing.T) {
	certs := certificates(t, ecKey(t), ecKey(t))
	body, err := FormatCertificates(certs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseCertificates(body)
	if err != nil || len(got) != 2 || !got[0].Equal(certs[0]) || !got[1].Equal(certs[1]) {
		t.Fatalf("%d: %v", len(got), err)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is missing: apt-get install openssl")
	}
	der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(body), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "certs.p7")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("openssl", "pkcs7", "-in", file, "-print_certs", "-noout").CombinedOutput()
	if err != nil || strings.Count(string(out), "subject=") != 2 {
		t.Errorf("%v: %s", err, out)
	}
	// And what openssl writes.
	chain := filepath.Join(t.TempDir(), "chain.pem")
	if err := os.WriteFile(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs[0].Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs, err := exec.Command("openssl", "crl2pkcs7", "-nocrl", "-certfile", chain, "-outform", "DER").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseCertificates([]byte(base64.StdEncoding.EncodeToString(theirs))); err != nil || len(got) != 1 || !got[0].Equal(certs[0]) {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "text": []byte("<html>"), "cut": body[:len(body)/2], "a request": PEM(requestOf(t, "x", ecKey(t)))} {
		if _, err := ParseCertificates(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestClient: what it sends, and how it takes what a server may say.
func TestClient(t *testing.T) {
	key := ecKey(t)
	request := requestOf(t, "gw-1", key)
	answer := func(w http.ResponseWriter, keys ...crypto.Signer) {
		body, err := FormatCertificates(certificates(t, keys...))
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", TypeCerts)
		_, _ = w.Write(body)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+PathSimpleEnroll, func(w http.ResponseWriter, r *http.Request) {
		user, token, _ := r.BasicAuth()
		if user != "gw-1" || token != "token" || r.Header.Get("Content-Type") != TypeRequest || r.Header.Get(HeaderVoucher) != "{}" {
			http.Error(w, "no\x1b[31m", http.StatusUnauthorized)
			return
		}
		answer(w, ecKey(t), key) // in a SET the order is nobody's
	})
	mux.HandleFunc("POST "+PathSimpleReenroll, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "later", http.StatusServiceUnavailable)
	})
	s := httptest.NewTLSServer(mux)
	defer s.Close()
	c := Client{HTTP: s.Client(), Server: s.URL}
	certs, err := c.Enrol(t.Context(), "gw-1", "token", "{}", request)
	if err != nil || len(certs) != 2 || !certs[0].PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Fatalf("%d: %v", len(certs), err)
	}
	var no *Refusal
	if _, err := c.Enrol(t.Context(), "gw-1", "wrong", "{}", request); !errors.As(err, &no) || no.Temporary() || no.Message != "no [31m" {
		t.Errorf("%v", err)
	}
	if _, err := c.Renew(t.Context(), request); !errors.As(err, &no) || !no.Temporary() || no.Retry != 7*time.Second {
		t.Errorf("%v", err)
	}
	if _, err := c.Enrol(t.Context(), "gw-1", "token", "{}", requestOf(t, "gw-1", ecKey(t))); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Error(err)
	}
	stranger := Client{HTTP: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{}}}, Server: s.URL}
	if _, err := stranger.Renew(context.Background(), request); err == nil || strings.Contains(err.Error(), "Post ") {
		t.Error(err)
	}
	for _, bad := range []string{"", "http://h", "https://h/path", "https://u:p@h", "h:8085"} {
		if CheckServer(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// FuzzRequest: whatever somebody sends as a request.
func FuzzRequest(f *testing.F) {
	der := requestOf(f, "gw-1", ecKey(f))
	f.Add(der)
	f.Add(PEM(der))
	f.Add([]byte(base64.StdEncoding.EncodeToString(der)))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRequest(data); err == nil && (r.CheckSignature() != nil || usable(r.PublicKey) != nil) {
			t.Error("taken without a good signature of a usable key")
		}
	})
}

// FuzzCertificates: whatever a server answers.
func FuzzCertificates(f *testing.F) {
	body, err := FormatCertificates(certificates(f, ecKey(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte("MAsGCSqGSIb3DQEHAg=="))
	f.Fuzz(func(t *testing.T, data []byte) {
		if certs, err := ParseCertificates(data); err == nil && (len(certs) == 0 || len(certs) > maxCertificates) {
			t.Errorf("%d certificates", len(certs))
		}
	})
}

// FuzzVoucherHeader: whatever stands in the header.
func FuzzVoucherHeader(f *testing.F) {
	f.Add(`{"jwk":{},"jws":"a..b"}`)
	f.Add(`{`)
	f.Fuzz(func(t *testing.T, header string) {
		v, err := ParseVoucher(header)
		if err != nil {
			return
		}
		if _, err := FormatVoucher(v); err != nil && len(v.JWK) > 0 {
			t.Error(err)
		}
	})
}
