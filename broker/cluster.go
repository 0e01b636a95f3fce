package broker

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"holdfast/systemd/settings"
)

// ClusterConfig is [cluster]. Without it a broker is one node.
type ClusterConfig struct {
	Name       string   `toml:"name"`        // the same on all nodes
	Listen     string   `toml:"listen"`      // host:port for the other nodes
	Peers      []string `toml:"peers"`       // host:port of the other nodes
	Advertise  string   `toml:"advertise"`   // host:port where others reach this node, if not Listen
	SecretFile string   `toml:"secret_file"` // the same content on all nodes, mode 0600 or 0640
	Replicas   int      `toml:"replicas"`    // on how many nodes each log is stored
}

// address is where the other nodes reach this one.
func (cl *ClusterConfig) address() string {
	if cl.Advertise != "" {
		return cl.Advertise
	}
	return cl.Listen
}

// readCluster reads [cluster], if it is there.
func (c *Config) readCluster(doc *settings.Doc) {
	file := struct {
		Cluster ClusterConfig `toml:"cluster"`
	}{ClusterConfig{Name: "holdfast", Listen: ":6222"}}
	doc.Decode(&file) // absent or not: a misspelled [clustr] is told what was meant
	if !doc.Has("cluster") {
		return
	}
	c.Cluster = &file.Cluster
	cl := c.Cluster
	if cl.SecretFile != "" {
		cl.SecretFile = doc.Path(cl.SecretFile)
	}
	if err := checkName(cl.Name); err != nil {
		doc.Problem("cluster.name", "%q is not a name: 1 to 64 letters, digits, \"-\" and \"_\"", cl.Name)
	}
	for key, addr := range map[string]string{"listen": cl.Listen, "advertise": cl.Advertise} {
		if _, _, err := splitAddress(addr); err != nil && addr != "" {
			doc.Problem("cluster."+key, "%v", err)
		}
	}
	if cl.Listen == "" {
		doc.Problem("cluster.listen", `is empty; write listen = ":6222"`)
	}
	if _, err := readSecret(cl.SecretFile); err != nil {
		doc.Problem("cluster.secret_file", "%v", err)
	}
	cl.checkPeers(doc)
	cl.checkReplicas(doc)
}

func (cl *ClusterConfig) checkPeers(doc *settings.Doc) {
	const key = "cluster.peers"
	if len(cl.Peers) == 0 {
		doc.Problem(key, `is empty; name the other nodes, peers = ["host:6222"], or remove [cluster] to run one node`)
	}
	self := map[string]bool{}
	for _, addr := range []string{cl.Listen, cl.Advertise} {
		for _, a := range resolved(addr) {
			self[a] = true
		}
	}
	seen := map[string]string{}
	for _, p := range cl.Peers {
		host, _, err := splitAddress(p)
		if err == nil && host == "" {
			err = fmt.Errorf("%q has no host; write \"host:port\"", p)
		}
		if err != nil {
			doc.Problem(key, "%v", err)
			continue
		}
		addrs := resolved(p)
		if len(addrs) == 0 {
			doc.Problem(key, "%q has no address: the name %q cannot be resolved on this host", p, host)
			addrs = []string{strings.ToLower(p)}
		}
		for _, a := range addrs {
			if self[a] {
				doc.Problem(key, "%q is this node itself; name only the others", p)
			} else if other, again := seen[a]; again {
				doc.Problem(key, "%q and %q are the same node; remove one", other, p)
			}
		}
		for _, a := range addrs {
			seen[a] = p
		}
	}
}

// lookUp is how long a name may take to be resolved.
const lookUp = 2 * time.Second

// resolved is a host:port as IP addresses; none if it cannot be resolved.
func resolved(addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil {
		return []string{net.JoinHostPort(ip.String(), port)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookUp)
	defer cancel()
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil
	}
	slices.Sort(ips)
	out := []string{}
	for _, ip := range slices.Compact(ips) {
		out = append(out, net.JoinHostPort(ip, port))
	}
	return out
}

func (cl *ClusterConfig) checkReplicas(doc *settings.Doc) {
	nodes := len(cl.Peers) + 1
	if nodes == 1 {
		return // said already
	}
	if !doc.Has("cluster.replicas") {
		cl.Replicas = min(3, nodes)
	}
	switch {
	case cl.Replicas < 2 || cl.Replicas > 5:
		doc.Problem("cluster.replicas", "is %d; 3 or 5, or 2 with two nodes", cl.Replicas)
	case cl.Replicas > nodes:
		doc.Problem("cluster.replicas", "is %d, and peers and this node are only %d nodes; name all other nodes in peers, or write replicas = %d", cl.Replicas, nodes, nodes)
	case cl.Replicas%2 == 0 && doc.Has("cluster.replicas"):
		doc.Warn("cluster.replicas", "%d: one dead node among them is as many as can be borne with %d, and with 2 none: an odd number is better", cl.Replicas, cl.Replicas-1)
	}
	switch {
	case nodes == 2:
		doc.Warn("cluster.peers", "two nodes: when one dies the other stores nothing either; three go on")
	case nodes%2 == 0:
		doc.Warn("cluster.peers", "%d nodes bear no more dead ones than %d; an odd number is better", nodes, nodes-1)
	}
}
