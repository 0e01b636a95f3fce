package broker

import (
	"encoding/hex"
	"encoding/json"
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

	Cluster string `json:"cluster,omitempty"` // its name; "" for a node that runs alone
}

// readIdentity reads node.id, if there is one.
func (b *Broker) readIdentity() error {
	file := filepath.Join(b.cfg.Node.DataDir, "node.id")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.id)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if b.id.Name != b.cfg.Node.Name {
		return fmt.Errorf("the store in %s is that of node %q, and [node] name is %q: give the node its old name, or another data_dir",
			b.cfg.Node.DataDir, b.id.Name, b.cfg.Node.Name)
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
	data, err := json.Marshal(b.id)
	if err != nil {
		return fmt.Errorf("write node.id: %w", err)
	}
	if err := writeSynced(filepath.Join(b.cfg.Node.DataDir, "node.id"), append(data, '\n')); err != nil {
		return fmt.Errorf("write node.id: %w", err)
	}
	return nil
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
