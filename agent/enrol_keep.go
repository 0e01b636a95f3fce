package agent

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"holdfast/uplink/est"
)

// EnrolStatus says how the gateway stands with its client certificate.
type EnrolStatus struct {
	Serial      string        `json:"serial,omitempty"`    // of the certificate, hexadecimal; "": there is none, or it is not enrolment's
	NotAfter    time.Time     `json:"not_after,omitzero"`  // when it ends
	RenewAt     time.Time     `json:"renew_at,omitzero"`   // when the next one is asked for
	NextTry     time.Duration `json:"next_try,omitempty"`  // boot-monotonic: not before, because the last attempt failed
	Enrolled    uint64        `json:"enrolled"`            // certificates got since the start
	Failures    uint64        `json:"failures"`            // attempts in vain since the start
	LastError   string        `json:"last_error,omitzero"` // of the last attempt; "": it succeeded
	LastErrorAt time.Duration `json:"last_error_at,omitzero"`
}

// When a certificate is renewed, and how often that is tried.
const (
	enrolLook     = time.Minute // a file may have been changed by a command
	enrolGap      = time.Hour   // between two renewals, if the clock makes the next one due at once
	enrolFirstTry = time.Minute // after a failure, doubled each time …
	enrolLastTry  = 6 * time.Hour
)

// enroller keeps the gateway's certificate new. It touches nothing but its own files and the uplink's settings: whatever
// fails here, readings are taken and delivered with what there is.
type enroller struct {
	a     *Agent
	rand  func() float64
	used  string        // serial that the uplink uses
	next  time.Duration // not before
	tries int           // failures in a row

	mu sync.Mutex
	st EnrolStatus
}

func (e *enroller) status() EnrolStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st
}

func (e *enroller) note(f func(*EnrolStatus)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(&e.st)
}

func newEnroller(a *Agent) *enroller {
	e := &enroller{a: a, rand: rand.Float64}
	if a.cfg.Uplink.CertFile == a.cfg.PairFile() {
		if pair, err := loadPair(a.cfg.PairFile()); err == nil {
			e.used = pair.Leaf.SerialNumber.Text(16)
		}
	}
	return e
}

// run looks and asks until ctx ends.
func (e *enroller) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-e.a.clock.After(e.step(ctx)):
		}
	}
}

// step does what is due and says when to look again.
func (e *enroller) step(ctx context.Context) time.Duration {
	e.a.mu.Lock()
	cfg := e.a.cfg
	e.a.mu.Unlock()
	if !cfg.ownPair() {
		return enrolLook
	}
	pair, err := loadPair(cfg.PairFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.first(ctx, cfg)
	case err != nil:
		e.failed(err)
		return enrolLook
	}
	e.use(pair.Leaf)
	now := e.a.keeper.wall()
	due := renewAt(pair.Leaf)
	e.note(func(s *EnrolStatus) { s.RenewAt = due })
	if len(cfg.enrolServers()) == 0 { // by hand
		return enrolLook
	}
	if !now.Before(due) || e.calledExpired() {
		e.try(ctx, cfg, "", gapAfter(pair.Leaf))
		return e.pause()
	}
	return min(enrolLook, max(due.Sub(now), 100*time.Millisecond))
}

// first asks for a certificate with the token of the settings.
func (e *enroller) first(ctx context.Context, cfg Config) time.Duration {
	if cfg.Enrol.TokenFile == "" || len(cfg.enrolServers()) == 0 {
		return enrolLook
	}
	token, err := os.ReadFile(cfg.Enrol.TokenFile)
	if err == nil && strings.TrimSpace(string(token)) == "" {
		err = errors.New("enrol.token_file is empty")
	}
	if err != nil {
		if e.a.clock.Now() >= e.next {
			e.backOff(err)
		}
		return e.pause()
	}
	e.try(ctx, cfg, strings.TrimSpace(string(token)), 0)
	return e.pause()
}

// pause is how long until the next attempt may be, at most until a file may have changed.
func (e *enroller) pause() time.Duration {
	return min(enrolLook, max(e.next-e.a.clock.Now(), 100*time.Millisecond))
}

// try asks once, if it is time.
func (e *enroller) try(ctx context.Context, cfg Config, token string, gap time.Duration) {
	now := e.a.clock.Now()
	if now < e.next {
		return
	}
	a := applicant{cfg: cfg, id: e.a.identity, wall: e.a.keeper.wall, random: e.a.opt.Rand}
	cert, err := a.ask(ctx, cfg.enrolServers(), token)
	if err != nil {
		if ctx.Err() == nil {
			e.backOff(err)
		}
		return
	}
	e.tries, e.next = 0, e.a.clock.Now()+gap
	e.note(func(s *EnrolStatus) { s.Enrolled++; s.LastError, s.LastErrorAt, s.NextTry = "", 0, 0 })
	e.a.log.Info("certificate received", "serial", cert.SerialNumber.Text(16), "until", cert.NotAfter)
	e.use(cert)
}

// backOff files a failure: the next attempt is later each time, and not at the same moment as those of the others.
func (e *enroller) backOff(err error) {
	wait := min(enrolFirstTry<<min(e.tries, 20), enrolLastTry)
	wait += time.Duration(float64(wait) * (e.rand() - 0.5) / 2)
	var no *est.Refusal
	if errors.As(err, &no) && no.Temporary() && no.Retry > 0 && e.tries < 3 {
		wait = no.Retry // the server is there, and says when
	}
	e.tries++
	e.next = e.a.clock.Now() + wait
	e.failed(err)
	e.note(func(s *EnrolStatus) { s.NextTry = e.next })
	e.a.log.Warn("no certificate: tried again; readings are delivered as long as the one before is good", "err", err, "next_try_in", wait.Round(time.Second).String())
}

func (e *enroller) failed(err error) {
	now := e.a.clock.Now()
	e.note(func(s *EnrolStatus) { s.Failures++; s.LastError, s.LastErrorAt = err.Error(), now })
}

// use lets the uplink connect with a certificate, if that is a new one. It reconnects and loses nothing.
func (e *enroller) use(cert *x509.Certificate) {
	serial := cert.SerialNumber.Text(16)
	e.note(func(s *EnrolStatus) { s.Serial, s.NotAfter = serial, cert.NotAfter })
	if serial == e.used {
		return
	}
	if err := e.a.usePair(); err != nil {
		e.failed(err)
		e.a.log.Error("the new certificate is not used", "err", err)
		return
	}
	e.used = serial
	e.a.log.Info("the uplink uses the certificate", "serial", serial, "until", cert.NotAfter)
}

// usePair gives the uplink the enrolled certificate.
func (a *Agent) usePair() error {
	a.reload.Lock()
	defer a.reload.Unlock()
	a.mu.Lock()
	up := a.cfg.Uplink
	a.mu.Unlock()
	up.CertFile, up.KeyFile = a.cfg.PairFile(), a.cfg.PairFile()
	if err := a.uplink.Reload(up); err != nil {
		return err
	}
	a.mu.Lock()
	a.cfg.Uplink = up
	a.mu.Unlock()
	return nil
}

// calledExpired says whether the broker refuses the certificate as one that has ended: its clock is right, this one may not
// be (RFC 8446 section 6.2, certificate_expired).
func (e *enroller) calledExpired() bool {
	u := e.a.uplink.Status()
	return !u.Connected && strings.Contains(u.LastError, "tls: expired certificate")
}

// renewAt is at two thirds of a certificate's time, less a part of a twelfth that differs from one to the other: a fleet that
// was enrolled in one morning does not come back in one.
func renewAt(c *x509.Certificate) time.Time {
	whole := c.NotAfter.Sub(c.NotBefore)
	var tail [8]byte
	serial := c.SerialNumber.Bytes() // random
	copy(tail[:], serial[max(0, len(serial)-8):])
	part := time.Duration(binary.BigEndian.Uint64(tail[:]) % uint64(max(whole/12, 1)))
	return c.NotBefore.Add(whole*2/3 - part)
}

// gapAfter keeps a clock that is wrong from asking all the time.
func gapAfter(c *x509.Certificate) time.Duration {
	return min(enrolGap, c.NotAfter.Sub(c.NotBefore)/6)
}
