package listen

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// TLSFiles is what the TLS listeners read from files: their own certificate, and who signs the clients'.
type TLSFiles struct {
	pair *serverCert
	cas  *clientCAs // nil: clients are not asked for certificates

	warned map[string]time.Duration // watch only: when it was last said, monotonic
}

const (
	expiresSoon = 14 * 24 * time.Hour // who renews by itself does so a month before
	warnEvery   = 24 * time.Hour
)

// Reload reads all files again. What cannot be used stays as it was.
func (f *TLSFiles) Reload() error {
	err := f.pair.reload()
	if f.cas != nil {
		err = errors.Join(err, f.cas.reload())
	}
	return err
}

// Refresh reads those that have changed. It reports a failure once per change.
func (f *TLSFiles) Refresh() error {
	err := f.pair.refresh()
	if f.cas != nil {
		err = errors.Join(err, f.cas.refresh())
	}
	return err
}

// watch refreshes until ctx ends, and says when a certificate is about to expire.
func (f *TLSFiles) watch(ctx context.Context, every time.Duration, mono func() time.Duration, log *slog.Logger) {
	for {
		f.warn(mono(), log)
		if !pause(ctx, every) {
			return
		}
		if err := f.Refresh(); err != nil {
			log.Error("the new TLS certificate cannot be used: the old one stays; mend the files, they are looked at again", "err", err)
		}
	}
}

// Ends is when each certificate does, by what it is for.
func (f *TLSFiles) Ends() map[string]time.Time {
	out := map[string]time.Time{"server": f.pair.current.Load().Leaf.NotAfter}
	if f.cas != nil {
		out["client_ca"] = f.cas.current.Load().until
	}
	return out
}

func (f *TLSFiles) warn(now time.Duration, log *slog.Logger) {
	if f.warned == nil {
		f.warned = map[string]time.Duration{}
	}
	for use, until := range f.Ends() {
		left := until.Sub(f.pair.wall())
		said, before := f.warned[use]
		if left > expiresSoon || before && now-said < warnEvery {
			continue
		}
		f.warned[use] = now
		if left <= 0 {
			log.Error("a certificate has expired: TLS connections fail; renew it, the broker reads the new files by itself", "use", use, "until", until)
		} else {
			log.Warn("a certificate expires soon; renew it, the broker reads the new files by itself", "use", use, "until", until, "left", left.Round(time.Minute).String())
		}
	}
}

// loadTLS reads the files of the TLS listeners.
func loadTLS(cfg Config, wall func() time.Time, log *slog.Logger) (*TLSFiles, error) {
	pair, err := loadCertificate(cfg.CertFile, cfg.KeyFile, wall, log)
	if err != nil {
		return nil, err
	}
	f := &TLSFiles{pair: pair}
	if cfg.ClientCAFile != "" {
		f.cas, err = loadClientCAs(cfg.ClientCAFile, log)
	}
	return f, err
}

// tlsRefusal is why a handshake failed.
func tlsRefusal(err error) int {
	if badClientCert(err) {
		return RefusedClientCert
	}
	return RefusedTLS
}
