package listen

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// certEvery is how often the certificate's files are looked at: whoever renews it need not know
// that this broker exists.
const certEvery = 10 * time.Second

// serverCert is the TLS listeners' certificate, read again when its files change. What cannot be
// used is said and changes nothing; connections that exist keep what they have.
type serverCert struct {
	certFile, keyFile string
	log               *slog.Logger
	wall              func() time.Time

	current atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	seen [2]fileStamp // when it was last read, well or not
}

// fileStamp tells whether a file is the one that was read.
type fileStamp struct {
	at   time.Time
	size int64
	info fs.FileInfo
}

func (s fileStamp) same(t fileStamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return s.at.Equal(t.at) && s.size == t.size && os.SameFile(s.info, t.info)
}

func stampOf(file string) fileStamp {
	info, err := os.Stat(file)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{info.ModTime(), info.Size(), info}
}

func loadCertificate(certFile, keyFile string, wall func() time.Time, log *slog.Logger) (*serverCert, error) {
	c := &serverCert{certFile: certFile, keyFile: keyFile, wall: wall, log: log}
	return c, c.reload()
}

// reload reads the files.
func (c *serverCert) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = [2]fileStamp{stampOf(c.certFile), stampOf(c.keyFile)}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return pairError(c.certFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	until := pair.Leaf.NotAfter
	c.log.Info("TLS certificate read", "file", c.certFile, "names", strings.Join(pair.Leaf.DNSNames, " "), "until", until)
	return nil
}

// refresh reads the files if they are others than before. It reports a failure once per change.
func (c *serverCert) refresh() error {
	c.mu.Lock()
	same := c.seen[0].same(stampOf(c.certFile)) && c.seen[1].same(stampOf(c.keyFile))
	c.mu.Unlock()
	if same {
		return nil
	}
	return c.reload()
}

// pairError says which of the two files is to be mended.
func pairError(certFile, keyFile string, err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; cert_file and key_file under [listen] name the two files, which the broker's user must be able to read", err)
	case strings.Contains(text, "private key does not match"):
		return fmt.Errorf("%s is not the key of %s (the first certificate in it): %w", keyFile, certFile, err)
	case strings.Contains(text, "key") && !strings.Contains(text, "in certificate input"):
		return fmt.Errorf("%s holds no usable private key (PEM, without a passphrase): %w", keyFile, err)
	}
	return fmt.Errorf("%s holds no usable certificate (PEM, the server's own first, then what signed it): %w", certFile, err)
}
