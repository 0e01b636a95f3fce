package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
)

// node is a broker.
type node struct {
	name  string
	file  string // what its files are called
	mqtt  string // host:port
	admin string
	peer  string // for the other nodes
	child *child // nil: it is dead
}

func (n *node) runs() bool { return n.child != nil }

// kill is kill -9.
func (n *node) kill() {
	n.child.kill()
	n.child = nil
}

func (s *stage) config(n *node) string { return s.path(n.file + ".toml") }

func (s *stage) writeNodes() error {
	if len(s.nodes) > 1 {
		if err := os.WriteFile(s.path("secret"), []byte(rand.Text()), 0o600); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		text := fmt.Sprintf(`[node]
name = %q
data_dir = %q

[listen]
mqtt = %q
mqtts = ""
ws = ""
wss = ""
admin = %q
%s
[[verify]]
filter = "gw/#"
policy = "reject"
`, n.name, s.path(n.file), n.mqtt, n.admin, s.clusterTable(n))
		if err := os.WriteFile(s.config(n), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// clusterTable tells a node of the others, if there are any.
func (s *stage) clusterTable(n *node) string {
	var peers []string
	for _, o := range s.nodes {
		if o != n {
			peers = append(peers, fmt.Sprintf("%q", o.peer))
		}
	}
	if peers == nil {
		return ""
	}
	return fmt.Sprintf("\n[cluster]\nlisten = %q\npeers = [%s]\nsecret_file = %q\n", n.peer, strings.Join(peers, ", "), s.path("secret"))
}

// startNode returns at once.
func (s *stage) startNode(n *node) error {
	c, err := s.start(n.file, s.command("holdfast-broker", "run", "--config", s.config(n)))
	if err != nil {
		return err
	}
	n.child = c
	return nil
}

// startNodes returns when all are ready. A node of a cluster is not until it has a quorum.
func (s *stage) startNodes(ctx context.Context, nodes ...*node) error {
	for _, n := range nodes {
		if err := s.startNode(n); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := s.ready(ctx, n.child, n.admin); err != nil {
			return err
		}
	}
	return nil
}
