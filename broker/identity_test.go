package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClusterIdentity: a node keeps its id for as long as its store is the one that it had, and takes a new
// one when the store is gone, is another, or has no owner.
func TestClusterIdentity(t *testing.T) {
	dir, n := t.TempDir(), byte(0)
	who := func(name, cluster string) (nodeID, error) {
		return clusterIdentity(dir, name, cluster, func(k int) []byte { n++; return append(make([]byte, k-1), n) }, testLog(t))
	}
	must := func(what string, same bool, before nodeID) nodeID {
		t.Helper()
		id, err := who("n1", "c")
		if err != nil || (id == before) != same || id.Name != "n1" || id.Cluster != "c" {
			t.Fatalf("%s: %+v after %+v, %v", what, id, before, err)
		}
		return id
	}
	store, file := filepath.Join(dir, "jetstream"), filepath.Join(dir, "node.id")
	id := must("an empty data_dir", false, nodeID{})
	must("a restart", true, id)
	for what, spoil := range map[string]func() error{
		"the store is gone":       func() error { return os.RemoveAll(store) },
		"the store is empty":      func() error { return os.Remove(filepath.Join(store, "holdfast.id")) },
		"node.id is gone":         func() error { return os.Remove(file) },
		"node.id is damaged":      func() error { return os.WriteFile(file, []byte("\x00\x00"), 0o600) },
		"the store is another's":  func() error { return os.WriteFile(filepath.Join(store, "holdfast.id"), []byte(`{"id":"x"}`), 0o600) },
		"the store has something": func() error { _ = os.Remove(file); return os.WriteFile(filepath.Join(store, "x"), nil, 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		id = must(what, false, id)
		id = must(what+", and a restart", true, id)
		if _, err := os.Stat(filepath.Join(store, "x")); err == nil {
			t.Errorf("%s: the old store is used", what)
		}
	}
	for _, c := range []struct{ name, cluster, want string }{{"n2", "c", `node "n1"`}, {"n1", "d", `cluster "c"`}} {
		if _, err := who(c.name, c.cluster); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := os.WriteFile(file, []byte(`{"name":"n1","id":"1","cluster":"c","left":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := who("n1", "c"); err == nil || !strings.Contains(err.Error(), "has left") {
		t.Errorf("a node that has left: %v", err)
	}
}
