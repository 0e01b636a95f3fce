package main

import (
	"bytes"
	"fmt"
	"testing"

	"holdfast/broker/mqtt"
)

// kept is users and rules in a system that runs: ann, whose password is "ann-secret", with the client ids c-1 and c-2. She may publish
// up/%c, and read down/# and keep/#. What a source cannot do is nil.
type kept struct {
	tables     string // [[auth]], with refresh = "1s" and timeout = "1s" where there are such
	granted    byte   // QoS of her subscriptions
	more       func(t *testing.T, d *authDoor)
	take, give func() // her right to read down/#
	another    func() // she has another password
	hang, goOn func()
	die, back  func()
}

// throughTheDoor: who is let in and who not; what she may do, and what she is told otherwise; rights that change; a source
// that hangs, dies and comes back, which nobody who is connected notices.
func (k *kept) throughTheDoor(t *testing.T) {
	d := openDoor(t, k.tables, nil)
	ann := d.enter("c-1", "ann", "ann-secret", nil)
	d.refused("a wrong password", "c-1", "ann", "wrong-secret", mqtt.BadUserOrPassword, 4)
	d.refused("nobody knows her", "c-1", "eve", "ann-secret", mqtt.BadUserOrPassword, 4)
	d.refused("no user", "c-1", "", "", mqtt.BadUserOrPassword, 4)

	ann.may(true, "up/c-1", 1, false, 10, "")
	ann.may(false, "up/other", 1, false, 10, "not authorized")
	ann.may(false, "down/x", 1, false, 10, "not authorized")
	if codes := ann.subscribe("down/#", "keep/#", "$SYS/#", "#", "down"); !bytes.Equal(codes, []byte{k.granted, k.granted, mqtt.NotAuthorized, mqtt.NotAuthorized, k.granted}) {
		t.Errorf("subscriptions: % x", codes)
	}
	k.threeOneOne(d)
	if !d.gets(ann, "down/x", "keep/x") {
		t.Error("ann does not get what she may read")
	}
	if k.more != nil {
		k.more(t, d)
	}
	if k.take != nil {
		k.take()
		d.loses(ann, "down/x", "keep/x")
		if codes := ann.subscribe("down/x"); codes[0] != mqtt.NotAuthorized {
			t.Errorf("without the right: % x", codes)
		}
		k.give()
		d.regains(ann, "down/x", "keep/x")
	}
	undisturbed := func() {
		t.Helper()
		ann.may(true, "up/c-1", 1, false, 10, "")
		if !d.gets(ann, "down/x", "keep/x") {
			t.Error("ann does not get what she may read")
		}
	}
	if k.hang != nil {
		k.hang()
		d.refused("the source hangs", "c-2", "ann", "ann-secret", mqtt.ServerUnavailable, 3)
		undisturbed()
		k.goOn()
		d.enter("c-2", "ann", "ann-secret", nil)
		k.die()
		d.refused("the source is dead", "c-2", "ann", "ann-secret", mqtt.ServerUnavailable, 3)
		undisturbed()
		k.back()
		d.enter("c-2", "ann", "ann-secret", nil)
		undisturbed()
	}
	if k.another != nil {
		k.another()
		ann.sentAway(mqtt.NotAuthorized)
		d.refused("her old password", "c-1", "ann", "ann-secret", mqtt.BadUserOrPassword, 4)
	}
	d.noSecrets("ann-secret", "wrong-secret", "$2a$")
}

// threeOneOne: a refused publish is acknowledged and reaches nobody; a refused subscription has 0x80.
func (k *kept) threeOneOne(d *authDoor) {
	d.t.Helper()
	watch := d.enter("watch", "boss", "boss", nil)
	watch.subscribe("up/#")
	var o *old
	eventually(d.t, func() error {
		var code byte
		if o, code = d.knock3("c-2", "ann", "ann-secret"); code != 0 {
			return fmt.Errorf("3.1.1: %d", code)
		}
		return nil
	})
	o.publish("up/other")
	o.publish("up/c-2")
	if m := <-watch.got; m.Topic != "up/c-2" {
		d.t.Errorf("3.1.1: %s was delivered", m.Topic)
	}
	for filter, want := range map[string]byte{"down/#": k.granted, "#": 0x80} {
		if code := o.subscribe(filter); code != want {
			d.t.Errorf("3.1.1: %s: 0x%02x, want 0x%02x", filter, code, want)
		}
	}
	_ = o.nc.Close() // the id is needed again
}

// lastKnown: with on_error = "last-known" who was here lately comes in again while the source is dead, with the same rules, and nobody
// else does; when it is back, what it says counts.
func (k *kept) lastKnown(t *testing.T) {
	d := openDoor(t, k.tables+"on_error = \"last-known\"\n", nil)
	d.enter("c-1", "ann", "ann-secret", nil)
	k.die()
	ann := d.enter("c-1", "ann", "ann-secret", nil)
	ann.may(true, "up/c-1", 1, false, 10, "")
	ann.may(false, "up/other", 1, false, 10, "not authorized")
	d.refused("another password", "c-1", "ann", "wrong-secret", mqtt.ServerUnavailable, 3)
	d.refused("who was not here lately", "c-2", "ann", "ann-secret", mqtt.ServerUnavailable, 3)
	k.back()
	k.another()
	ann.sentAway(mqtt.NotAuthorized)
	d.refused("her old password", "c-1", "ann", "ann-secret", mqtt.BadUserOrPassword, 4)
}
