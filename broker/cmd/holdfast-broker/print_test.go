package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/broker"
	"holdfast/systemd/program"
)

// TestPrintsNodesThatAreDown: who reads a list sees why a session is nowhere, and where it goes on.
func TestPrintsNodesThatAreDown(t *testing.T) {
	var out bytes.Buffer
	a := &app{Env: &program.Env{Stdout: &out, Stderr: os.Stderr}}
	since := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	info := broker.SessionInfo{Client: "c1", Node: "n3", NodeDown: &since, Since: since, Kept: true}
	if err := a.printSessions(broker.SessionList{Sessions: []broker.SessionInfo{info}, Total: 1}); err != nil {
		t.Fatal(err)
	}
	if err := a.printSession(&broker.SessionDetail{SessionInfo: info}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c1      n3    node down", "node n3 is down since " + stamp(since) + ": its sessions go on", "n3, down since " + stamp(since)} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := a.printTrace([]byte(`{"at":"2026-05-06T07:08:09Z","node":"n3","type":"NODE","note":"down since 07:08"}`)); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "07:08:09.000000 - NODE        node=n3 \"down since 07:08\"\n"; got != want {
		t.Errorf("%q", got)
	}
}
