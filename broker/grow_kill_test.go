package broker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestCompleteGrowth: wherever the change from one node to one of a cluster was cut off, the next start has either the
// store of the lone node or that of the cluster, whole.
func TestCompleteGrowth(t *testing.T) {
	alone, grown := nodeID{Name: "n1", ID: "aa"}, nodeID{Name: "n1", ID: "bb", Cluster: "site", Founded: true}
	for _, step := range []struct {
		name   string
		own    nodeID // node.id
		dirs   []string
		store  string // what is in jetstream afterwards
		growth bool   // goes on to be there
	}{
		{"before it copies", alone, []string{"jetstream:old"}, "old", false},
		{"while it copies", alone, []string{"jetstream:old", "growth/jetstream:new"}, "old", true},
		{"node.id is written", grown, []string{"jetstream:old", "growth/jetstream:new"}, "new", false},
		{"the old store is aside", grown, []string{"jetstream.alone-before-bb:old", "growth/jetstream:new"}, "new", false},
		{"the new store is in place", grown, []string{"jetstream.alone-before-bb:old", "jetstream:new", "growth"}, "new", false},
		{"it is done", grown, []string{"jetstream.alone-before-bb:old", "jetstream:new"}, "new", false},
	} {
		t.Run(step.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range step.dirs {
				name, text, _ := strings.Cut(d, ":")
				if strings.HasPrefix(name, "growth") {
					if err := os.MkdirAll(filepath.Join(dir, "growth"), 0o700); err != nil {
						t.Fatal(err)
					}
					half := grown
					half.Founded = false
					if err := writeNodeID(filepath.Join(dir, "growth", "node.id"), half); err != nil {
						t.Fatal(err)
					}
				}
				if text != "" {
					write(filepath.Join(name, "store"), text)
				}
			}
			if err := writeNodeID(filepath.Join(dir, "node.id"), step.own); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time it has nothing to do
				if err := completeGrowth(dir); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(filepath.Join(dir, "jetstream", "store")); err != nil || string(got) != step.store {
					t.Fatalf("the store is %q, %v", got, err)
				}
				if _, err := os.Stat(growthDir(dir)); (err == nil) != step.growth {
					t.Errorf("growth: %v", err)
				}
				if step.own == grown {
					if old, err := os.ReadFile(filepath.Join(dir, "jetstream.alone-before-bb", "store")); err != nil || string(old) != "old" {
						t.Errorf("the old store is %q, %v", old, err)
					}
				}
			}
		})
	}
}

// TestGrowKilled: a node that becomes one of three is killed with kill -9 again and again on the way, at any moment; the
// others too. It goes on where it was, serves in between, and nothing is lost. HOLDFAST_SOAK=1 does it with 1 GiB.
func TestGrowKilled(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	fill, kills, parts := 64, 4, []int{0}
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		fill, kills, parts = 1<<30/size, 20, []int{1, 15, 30, 45, 60, 75, 90}
	}
	s := newPlace(t, buildBroker(t), 6, 3)
	rnd := rand.New(rand.NewPCG(6, 6))
	s.settle(0, 1)
	s.start(0)
	s.ready(0)
	away, _ := s.dial(0, "away", opts{version: 5, expiry: 3600})
	away.subscribe(1, "big")
	away.nc.Close()
	pub, _ := s.dial(0, "pub", opts{version: 5, clean: true})
	payload := strings.Repeat("x", size)
	for i := range fill {
		pub.publish("big", fmt.Sprint(i, " ", payload), uint16(i%60000+1))
	}
	pub.nc.Close()
	tr := newGuests(t, s.nodes[:1], 0)
	tr.begin()
	tr.goesOn()
	for i := range 3 {
		s.settle(i, 3)
	}
	if err := s.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	s.start(0)
	tr.goesOn()
	tr.gaps()
	begin := time.Now()
	s.start(1, 2)
	grown := func() bool {
		id, err := readNodeID(filepath.Join(s.data(0), "node.id"))
		return err == nil && id.Cluster != ""
	}
	// The stages come in order; a small log passes the middle one sooner than a test can look.
	stages := []func(words string) bool{func(string) bool { return true }}
	for _, percent := range parts {
		stages = append(stages, func(words string) bool {
			_, words, is := strings.Cut(words, "it copies ")
			at, err := strconv.Atoi(strings.TrimSuffix(words, " % of its logs"))
			return is && err == nil && at >= percent && (at < 100 || percent == 0) // 100 before it has begun, too
		})
	}
	stages = append(stages, func(string) bool { return false }) // it has changed over
	var where []string
	for k := range kills {
		if k < len(stages) {
			eventually(t, "it is so far", func() bool {
				b, err := s.members(0)
				return grown() || err == nil && len(b.Members) > 0 && stages[k](b.Members[0].Copying)
			})
		} else {
			<-time.After(time.Duration(rnd.IntN(3000)) * time.Millisecond)
		}
		victim := 0
		if k%4 == 3 {
			victim = 1 + rnd.IntN(2)
		}
		at := "has changed over"
		if !grown() {
			at = "is alone"
			if b, err := s.members(0); err == nil && len(b.Members) > 0 {
				at = b.Members[0].Copying
			}
		}
		where = append(where, fmt.Sprintf("%s, and n1: %s", s.nodes[victim].name, at))
		s.nodes[victim].kill()
		s.start(victim)
	}
	took := s.ready(0, 1, 2)
	t.Logf("%d MiB and %d kills: all ready %.1f s after the other nodes were started, %.1f s after the last kill; longest time without PUBACK %d ms; killed at:\n%s", fill*size>>20, kills,
		time.Since(begin).Seconds(), took.Seconds(), tr.gaps().Milliseconds(), strings.Join(where, "\n"))
	tr.goesOn()
	tr.end()
	for i := range 3 {
		c, present := s.dial(i, "away", opts{version: 5, expiry: 3600})
		if !present {
			t.Fatalf("the session is not there at %s", s.nodes[i].name)
		}
		if i < 2 {
			c.nc.Close()
			continue
		}
		for n := range fill {
			if m := c.take(); !strings.HasPrefix(m.payload, fmt.Sprint(n, " ")) {
				t.Fatalf("message %d is %.20q", n, m.payload)
			}
		}
		c.quiet()
		c.nc.Close()
	}
}
