package listen

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// TestExpiryIsSaid: two weeks before, once a day, and when it has happened.
func TestExpiryIsSaid(t *testing.T) {
	certFile, keyFile := certificate(t) // an hour
	at := time.Now()
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(&buf, nil))
	f, err := loadTLS(Config{CertFile: certFile, KeyFile: keyFile}, func() time.Time { return at }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	said := func(now time.Duration) string {
		before := buf.Len()
		f.warn(now, log)
		return buf.String()[before:]
	}
	at = at.Add(-expiresSoon)
	if s := said(0); s != "" {
		t.Error(s)
	}
	at = at.Add(expiresSoon)
	if s := said(0); !strings.Contains(s, "expires soon") || !strings.Contains(s, "use=server") {
		t.Error(s)
	}
	if s := said(time.Hour); s != "" {
		t.Error("said twice a day:", s)
	}
	at = at.Add(2 * time.Hour)
	if s := said(25 * time.Hour); !strings.Contains(s, "level=ERROR") || !strings.Contains(s, "has expired") {
		t.Error(s)
	}
}

// FuzzCAs: whatever stands in the file of the CAs.
func FuzzCAs(f *testing.F) {
	certFile, _ := certificate(f)
	ca, err := os.ReadFile(certFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := parseCAs(data); err == nil && (p.pool.Equal(x509.NewCertPool()) || p.until.IsZero()) {
			t.Error("an empty pool")
		}
	})
}
