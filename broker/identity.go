package broker

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// This file is about who a node of a cluster is: its name, and a random id of its store. A node that has
// lost its store and came back under the old id would vote with an empty memory, and could outvote what
// was acknowledged. So the id stands twice, beside the store and in it, and when the two do not agree the
// node takes a new one: it joins as a new peer and copies everything from the others.

// clusterIdentity says who the node with this data_dir is, and makes sure that it is written down before
// the engine starts.
func clusterIdentity(dir, name, cluster string, random func(int) []byte, log *slog.Logger) (nodeID, error) {
	file, store := filepath.Join(dir, "node.id"), filepath.Join(dir, "jetstream")
	inside := filepath.Join(store, "holdfast.id")
	id, err := readNodeID(file)
	switch {
	case errors.Is(err, errNoID):
	case err != nil:
		return id, err
	case id.Name != name:
		return id, otherName(dir, id.Name, name)
	case id.Left:
		return id, fmt.Errorf("the node with the store in %s has left the cluster %q for good: to join again, give it an empty data_dir", dir, id.Cluster)
	case id.Cluster != cluster:
		return id, fmt.Errorf("the store in %s is that of a node of cluster %q, and [cluster] name is %q: give the cluster its old name, or the node another data_dir", dir, id.Cluster, cluster)
	}
	if err == nil {
		copied, err := readNodeID(inside)
		if err == nil && copied.Name == id.Name && copied.ID == id.ID && copied.Cluster == id.Cluster {
			return id, nil
		}
		log.Error("the store is not the one that node.id names: this node joins as a new one and copies what it had from the others", "data_dir", dir, "err", err)
	}
	id = nodeID{Name: name, ID: hex.EncodeToString(random(8)), Cluster: cluster}
	if err := setAside(store, "lost", id.ID, log); err != nil {
		return id, err
	}
	for _, f := range []string{inside, file} {
		if err := writeNodeID(f, id); err != nil {
			return id, err
		}
	}
	return id, nil
}

// setAside moves a store away that is not to be used, and makes an empty one.
func setAside(store, what, id string, log *slog.Logger) error {
	entries, err := os.ReadDir(store)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look into the store: %w", err)
	}
	if len(entries) > 0 {
		aside := store + "." + what + "-before-" + id
		if err := os.Rename(store, aside); err != nil {
			return fmt.Errorf("set an unusable store aside: %w", err)
		}
		log.Warn("the old store was set aside; remove it once the node is ready", "at", aside)
	}
	if err := os.MkdirAll(store, 0o700); err != nil {
		return fmt.Errorf("make the store: %w", err)
	}
	return nil
}

// errNoID: there is no identity, or none that can be read.
var errNoID = errors.New("no identity")

func readNodeID(file string) (id nodeID, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("%w: %w", errNoID, err)
	}
	if err != nil {
		return id, fmt.Errorf("read %s: %w", file, err)
	}
	if err := json.Unmarshal(data, &id); err != nil || id.ID == "" {
		return nodeID{}, fmt.Errorf("%w in %s: %q", errNoID, file, data)
	}
	return id, nil
}

func writeNodeID(file string, id nodeID) error {
	data, err := json.Marshal(id)
	if err == nil {
		err = writeSynced(file, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func otherName(dir, was, is string) error {
	return fmt.Errorf("the store in %s is that of node %q, and [node] name is %q: give the node its old name, or another data_dir", dir, was, is)
}
