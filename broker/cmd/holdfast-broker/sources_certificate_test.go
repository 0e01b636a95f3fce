package main

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"holdfast/broker/auth/servers"
	"holdfast/broker/mqtt"
)

// TestDoorCertificate: over TLS with client certificates: who a certificate lets in, with its rules; a list of revoked ones ends a live connection, and
// nobody else's; the connection ends when the certificate does.
func TestDoorCertificate(t *testing.T) {
	t.Parallel()
	ca := servers.NewCA(t, "gateways")
	crl := filepath.Join(t.TempDir(), "gateways.crl")
	ca.Revoke(t, crl)
	d := openDoor(t, fmt.Sprintf("[[auth]]\ntype = \"certificate\"\nca_file = %q\ncrl_file = %q\npublish = [\"up/%%i\"]\nsubscribe = [\"down/#\", \"keep/#\"]\n", ca.File, crl), ca)
	one, two := ca.Pair(t, "c-1", time.Time{}), ca.Pair(t, "c-2", time.Time{})
	first, second := d.enter("c-1", "", "", one), d.enter("c-2", "", "", two)
	first.may(true, "up/c-1", 1, false, 1, "")
	first.may(false, "up/c-2", 1, false, 1, "not authorized")
	for _, g := range []*guest{first, second} {
		g.subscribe("down/#", "keep/#")
		if !d.gets(g, "down/x", "keep/x") {
			t.Errorf("%s does not get what it may read", g.id)
		}
	}
	if _, ack := d.knock("c-2", "", "", one); ack.ReasonCode != mqtt.NotAuthorized {
		t.Errorf("another client id than its certificate's: 0x%02x", ack.ReasonCode)
	}
	if _, ack := d.knock("c-1", "", "", nil); ack.ReasonCode != mqtt.BadUserOrPassword {
		t.Errorf("without TLS: 0x%02x", ack.ReasonCode)
	}
	for what, pairs := range map[string][]tls.Certificate{"no certificate": nil, "one of another CA": {servers.NewCA(t, "others").Pair(t, "c-1", time.Time{}).TLS}} {
		c := d.tlsOf(one)
		c.Certificates = pairs
		if nc, err := tls.Dial("tcp", d.tlsAddr, c); err == nil { // with TLS 1.3 the client hears of it when it reads
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			if n, err := nc.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: %d bytes came", what, n)
			}
			_ = nc.Close() // it is of no use
		}
	}

	ca.Revoke(t, crl, one)
	first.sentAway(mqtt.NotAuthorized)
	if _, ack := d.knock("c-1", "", "", one); ack.ReasonCode != mqtt.NotAuthorized {
		t.Errorf("a revoked certificate: 0x%02x", ack.ReasonCode)
	}
	if !d.gets(second, "down/x", "keep/x") {
		t.Error("who was not revoked gets nothing")
	}

	var until time.Time
	var brief *guest
	eventually(t, func() error { // a slow machine may take longer than the certificate lasts
		until = time.Now().Add(3 * time.Second).Truncate(time.Second)
		pair := ca.Pair(t, "c-3", until)
		nc, err := tls.Dial("tcp", d.tlsAddr, d.tlsOf(pair))
		if err != nil {
			return err
		}
		_ = nc.Close() // it only had to be good
		var ack *paho.Connack
		if brief, ack = d.knock("c-3", "", "", pair); brief == nil {
			return fmt.Errorf("0x%02x", ack.ReasonCode)
		}
		return nil
	})
	brief.sentAway(mqtt.NotAuthorized)
	if now := time.Now(); now.Before(until) {
		t.Errorf("sent away %s before its certificate ended", until.Sub(now))
	}
}
