package broker

import (
	"errors"
	"testing"
)

// TestCopyThatStops: a leader that cannot read what another node copies has the stream checked.
func TestCopyThatStops(t *testing.T) {
	asked := ""
	l := newEngineLog(testLog(t), func(stream string) error { asked = stream; return nil })
	l.Warnf("Error loading message for catchup '%s > %s': %v", "$G", "HF_messages_6e31", errors.New("bad msg"))
	if asked != "HF_messages_6e31" {
		t.Errorf("%q is checked", asked)
	}
}
