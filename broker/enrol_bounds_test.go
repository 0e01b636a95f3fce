package broker

import (
	"context"
	"net/http"
	"testing"
	"time"

	"holdfast/broker/admin"
)

// TestEnrolBounds: one that asks for ever new keys is stopped, and what ended long ago is forgotten.
func TestEnrolBounds(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	b := start(t, cfg)
	g := newGatewaySide(t, "gw-1", tc)
	pair, err := g.enrol(b, tokenFor(t, b, "gw-1", admin.NewEnrolToken{}))
	if err != nil {
		t.Fatal(err)
	}
	for range maxLiveCerts - 1 {
		g.rekey()
		if _, err := g.renew(b, pair); err != nil {
			t.Fatal(err)
		}
	}
	g.rekey()
	_, err = g.renew(b, pair)
	wantStatus(t, "the ninth", err, http.StatusConflict, "too many")
	// A new token takes the place of one that nobody has used.
	one := tokenFor(t, b, "gw-2", admin.NewEnrolToken{})
	two := tokenFor(t, b, "gw-2", admin.NewEnrolToken{})
	h := newGatewaySide(t, "gw-2", tc)
	if _, err := h.enrol(b, one); err == nil {
		t.Error("the older token is good")
	}
	if _, err := h.enrol(b, two); err != nil {
		t.Error(err)
	}
	var n int
	_ = b.state.Each(enrolTokenPrefix, func(string, []byte) error { n++; return nil })
	if n != 2 {
		t.Errorf("%d tokens are kept", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.enrol.claim(ctx, "x", "y"); err == nil {
		t.Error("a claim that was not stored counts")
	}
}

// TestEnrolAgainNearTheEndOfTheCA: who asks again with its key gets its certificate again, though the CA's end makes it short.
func TestEnrolAgainNearTheEndOfTheCA(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	cfg.Enrol.CAFile, cfg.Enrol.CAKeyFile = gatewaysCA(t, "gateways", time.Now().Add(cfg.Enrol.Lifetime/3))
	cfg.Listen.ClientCAFile = cfg.Enrol.CAFile
	b := start(t, cfg)
	g := newGatewaySide(t, "gw-1", tc)
	token := tokenFor(t, b, "gw-1", admin.NewEnrolToken{})
	first, err := g.enrol(b, token)
	if err != nil {
		t.Fatal(err)
	}
	again, err := g.enrol(b, token)
	if err != nil || !again.Leaf.Equal(first.Leaf) {
		t.Errorf("another certificate, or none: %v", err)
	}
}
