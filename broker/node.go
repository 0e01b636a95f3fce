package broker

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// nodeID is data_dir/node.id: whose store this is. It is written when the store has been made, so
// that an empty store beside it means that one was lost.
type nodeID struct {
	Name string `json:"name"`
	ID   string `json:"id"` // random

	Cluster string `json:"cluster,omitempty"`  // its name; "" for a node that runs alone
	Founded bool   `json:"founded,omitempty"`  // it has been a node of a cluster that was complete once; beside the store only
	NotWith string `json:"not_with,omitempty"` // fingerprint of a cluster's secret with which this store, restored from a backup, must not be used
	Left    bool   `json:"left,omitempty"`     // it was taken out of the cluster for good

	Replaced int  `json:"replaced,omitempty"` // how often a damaged store of this node was replaced
	Healing  bool `json:"healing,omitempty"`  // the last of them has not got everything back
	Empty    bool `json:"empty,omitempty"`    // it began empty in a cluster that had data, and has not got everything yet
}

// readIdentity finds out who this node is, before its engine starts.
func (b *Broker) readIdentity() (err error) {
	dir, name := b.cfg.Node.DataDir, b.cfg.Node.Name
	if !b.alone() {
		b.id, err = clusterIdentity(dir, name, b.cfg.Cluster.Name, b.random, b.log)
		return err
	}
	b.id, err = readNodeID(filepath.Join(dir, "node.id"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case b.id.Name != name:
		return otherName(dir, b.id.Name, name)
	case b.id.Cluster != "":
		return fmt.Errorf("the store in %s is that of a node of cluster %q, and there is no [cluster]: put it back, or give a node that runs alone an empty data_dir", dir, b.id.Cluster)
	}
	return nil
}

// identify compares the store of a node that runs alone with what node.id says. In a cluster the
// streams are on other nodes too, and come back from there.
func (b *Broker) identify() error {
	if b.id.ID == "" || !b.alone() {
		return nil
	}
	for _, kind := range []string{"messages", "state"} {
		there, err := b.engine.has(b.ctx, kind)
		if err != nil {
			return fmt.Errorf("look for the %s stream: %w", kind, err)
		}
		if !there {
			return fmt.Errorf("the %s stream is missing or unreadable in %s, though this node had one: restore data_dir from a backup, or move it away to begin anew (what it held is lost)",
				kind, filepath.Join(b.cfg.Node.DataDir, "jetstream"))
		}
	}
	return nil
}

// sign writes node.id for a store that is new.
func (b *Broker) sign() error {
	if b.id.ID != "" {
		return nil
	}
	b.id = nodeID{Name: b.cfg.Node.Name, ID: hex.EncodeToString(b.random(8))}
	return writeNodeID(filepath.Join(b.cfg.Node.DataDir, "node.id"), b.id)
}

// writeSynced writes a small file whole or not at all.
func writeSynced(file string, data []byte) error {
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
