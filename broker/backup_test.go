package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackupAndBack: a cluster of three is backed up under load, and once more when nobody writes any more; one node
// is made of that, with everything the three had, and three again of the one.
func TestBackupAndBack(t *testing.T) {
	t.Parallel()
	s := newPlace(t, buildBroker(t), 3, 3)
	all := []int{0, 1, 2}
	for _, i := range all {
		s.settle(i, 3)
	}
	s.start(all...)
	s.ready(all...)
	for _, i := range all { // a session on each node, and messages of each that nobody has read
		c := s.kept(i, fmt.Sprint("away-", i))
		c.subscribe(1, "a/#")
		c.nc.Close()
	}
	for _, i := range all {
		pub, _ := s.dial(i, "pub", opts{version: 5, clean: true})
		for k := range 20 {
			pub.publish(fmt.Sprintf("a/%d", i), fmt.Sprint(k), uint16(k+1))
		}
		pub.write(pub.publishPacket(fmt.Sprintf("kept/%d", i), "retained", 3, 100, nil))
		pub.expect(4)
		pub.nc.Close()
	}
	tr := newGuests(t, s.nodes, 0, 1)
	tr.begin()
	tr.goesOn()
	first := filepath.Join(s.dir, "first.backup")
	t.Logf("%s", s.must(1, "backup", first))
	if out, code := s.run(1, "backup", first); code != 2 || !strings.Contains(out, "is there already") {
		t.Errorf("a backup over another: %d %s", code, out)
	}
	tr.goesOn()
	tr.end()
	for _, i := range all {
		s.must(i, "cluster", "drain", "--wait", "0s")
	}
	second := filepath.Join(s.dir, "second.backup")
	s.must(0, "backup", second)
	s.must(0, "backup", "--check", second)
	damaged := filepath.Join(s.dir, "damaged.backup")
	data, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(damaged, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := s.run(0, "backup", "--check", damaged); code != 1 {
		t.Errorf("a damaged backup: %d %s", code, out)
	}

	s.settle(0, 1)
	if out, code := s.run(0, "restore", second); code == 0 || !strings.Contains(out, "runs on") {
		t.Errorf("restore of a node that runs: %d %s", code, out)
	}
	for _, i := range all {
		s.nodes[i].kill()
	}
	if out, code := s.run(0, "restore", second); code == 0 || !strings.Contains(out, "is not empty") {
		t.Errorf("restore over a store: %d %s", code, out)
	}
	for _, backup := range []string{first, second} {
		for _, i := range all {
			if err := os.RemoveAll(s.data(i)); err != nil {
				t.Fatal(err)
			}
		}
		s.settle(0, 3)
		if out, code := s.run(0, "restore", backup); code == 0 || !strings.Contains(out, "secret") {
			t.Errorf("restore with the old secret: %d %s", code, out)
		}
		if err := os.RemoveAll(s.data(0)); err != nil {
			t.Fatal(err)
		}
		s.settle(0, 1)
		t.Logf("%s", s.must(0, "restore", backup))
		s.start(0)
		s.ready(0)
		s.hasAll(0, backup == second)
		if backup == first {
			s.nodes[0].kill()
		}
	}
	if err := s.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		s.settle(i, 3)
	}
	if out, code := s.run(0, "run"); code == 0 || !strings.Contains(out, "make a new secret") {
		t.Errorf("growth with the old secret: %d %s", code, out)
	}
	if err := os.WriteFile(s.secret, []byte("fedcba9876543210fedcba9876543210\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(all...)
	s.ready(all...)
	for _, i := range all {
		s.hasAll(i, false)
	}
	pub, _ := s.dial(2, "pub", opts{version: 5, clean: true})
	pub.publish("a/new", "new", 1)
	for i, id := range []string{"away-0", "away-1", "away-2"} {
		c := s.kept(i, id)
		for c.take().topic != "a/new" {
		}
	}
}

// kept connects a client whose session stays.
func (s *place) kept(i int, id string) *rawClient {
	c, _ := s.dial(i, id, opts{version: 5, expiry: 3600})
	return c
}

// hasAll looks whether a node knows what TestBackupAndBack has stored; read: also what waits for the sessions.
func (s *place) hasAll(i int, read bool) {
	s.t.Helper()
	for k := range 3 {
		c, present := s.dial(i, fmt.Sprint("away-", k), opts{version: 5, expiry: 3600})
		if !present {
			s.t.Fatalf("session away-%d is gone", k)
		}
		if read {
			next := map[string]int{}
			for range 60 {
				m := c.take()
				if m.payload != fmt.Sprint(next[m.topic]) {
					s.t.Fatalf("away-%d got %s %q in place of %d", k, m.topic, m.payload, next[m.topic])
				}
				next[m.topic]++
			}
			c.quiet()
		}
		c.nc.Close()
	}
	c, _ := s.dial(i, "fresh", opts{version: 5, clean: true})
	c.subscribe(1, "kept/#")
	for range 3 {
		if m := c.take(); m.payload != "retained" || !m.retain {
			s.t.Errorf("retained: %+v", m)
		}
	}
	c.nc.Close()
}

// FuzzBackup: whatever a file holds, it is a whole backup or an error.
func FuzzBackup(f *testing.F) {
	var whole bytes.Buffer
	bw := newBackupWriter(&whole)
	h := BackupHeader{Node: "n1", Logs: []BackupLog{{"n1", kindState, 1, 2}, {"n1", kindMessages, 7, 7}}}
	err := bw.header(h)
	for _, b := range []struct {
		log  int
		slot uint64
	}{{0, 1}, {0, 2}, {1, 7}} {
		err = errors.Join(err, bw.batch(b.log, b.slot, []byte("batch")))
	}
	if err = errors.Join(err, bw.finish(&whole, nil)); err != nil {
		f.Fatal(err)
	}
	if in, err := CheckBackup(bytes.NewReader(whole.Bytes())); err != nil || in.Batches != 3 {
		f.Fatalf("%+v, %v", in, err)
	}
	for i := range whole.Len() { // no bit may be wrong
		bad := bytes.Clone(whole.Bytes())
		bad[i] ^= 0x10
		if _, err := CheckBackup(bytes.NewReader(bad)); err == nil {
			f.Errorf("byte %d is wrong and nobody notices", i)
		}
		if _, err := CheckBackup(bytes.NewReader(bad[:i])); err == nil {
			f.Errorf("it ends at byte %d and nobody notices", i)
		}
	}
	f.Add(whole.Bytes())
	f.Add([]byte(backupMagic + "{}\n\xff\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		br, err := NewBackupReader(bytes.NewReader(data))
		for err == nil {
			_, _, _, _, err = br.Next()
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, errBackup) {
			t.Error(err)
		}
	})
}
