package broker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpgrade: real programs of this version are replaced by those of the next one after the other, one of them goes back
// once, while clients publish and read. Nothing is lost; when all have the next version the old one is refused.
func TestUpgrade(t *testing.T) {
	soakOnly(t) // TestMixedVersions is the same in one process
	t.Parallel()
	now := buildBroker(t)
	next := filepath.Join(t.TempDir(), "holdfast-broker-next")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nextformat", "-o", next, "./cmd/holdfast-broker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := newPlace(t, now, 8, 3)
	for i := range 3 {
		s.settle(i, 3)
	}
	s.start(0, 1, 2)
	s.ready(0, 1, 2)
	tr := newGuests(t, s.nodes, 0, 1, 2)
	tr.hops = true
	tr.begin()
	tr.goesOn()
	const raised = "all nodes know a newer format"
	said := func() bool {
		for _, n := range s.nodes {
			if data, err := os.ReadFile(n.log); err != nil || strings.Contains(string(data), raised) {
				return true
			}
		}
		return false
	}
	replace := func(i int, program string) {
		t.Helper()
		tr.gaps()
		if err := s.nodes[i].stop(); err != nil {
			t.Fatal(err)
		}
		s.nodes[i].program = program
		s.start(i)
		took := s.ready(0, 1, 2)
		tr.goesOn()
		t.Logf("%s runs %s: ready after %.1f s, longest time without PUBACK %d ms", s.nodes[i].name, filepath.Base(program), took.Seconds(), tr.gaps().Milliseconds())
	}
	replace(0, next)
	replace(1, next)
	replace(1, now)
	replace(1, next)
	if said() {
		t.Error("the format was raised while a node did not know it")
	}
	replace(2, next)
	eventually(t, "the format is raised", said)
	if err := s.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	if out, code := s.run(0, "run"); code == 0 || !strings.Contains(out, fmt.Sprintf("knows %d to %d", formatOldest, formatNow)) {
		t.Errorf("the older version after all had known the newer: %d %s", code, out)
	}
	s.start(0)
	s.ready(0, 1, 2)
	tr.goesOn()
	tr.end()
}
