package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	systemUser = "system"
	plainUser  = "broker"
)

// hexName: a node name may have characters that a stream's or a subject's may not.
func hexName(node string) string { return hex.EncodeToString([]byte(node)) }

// serverName is the node's name among the engines. In a cluster it has the id of the node's store in it: a
// node that has lost its store must not vote as the one that had it.
func (e *engine) serverName() string {
	if !e.clustered() {
		return "holdfast-" + hexName(e.cfg.node)
	}
	return hexName(e.cfg.node) + "-" + e.cfg.id
}

// splitServer is the reverse of serverName; node is "" if the server is none of ours.
func splitServer(server string) (node, id string) {
	h, id, _ := strings.Cut(server, "-")
	name, err := hex.DecodeString(h)
	if err != nil {
		return "", ""
	}
	return string(name), id
}

// join adds what makes the engine one of several.
func (e *engine) join(o *server.Options, password string) error {
	c := e.cfg.cluster
	secret, err := readSecret(c.SecretFile)
	if err != nil {
		return fmt.Errorf("[cluster] secret_file %w", err)
	}
	tlsConfig, err := clusterTLS(secret, c.Name)
	if err != nil {
		return err
	}
	host, port, err := splitAddress(c.Listen)
	if err != nil {
		return fmt.Errorf("[cluster] listen: %w", err)
	}
	advertise := c.Advertise
	if ip := net.ParseIP(host); advertise == "" && host != "" && (ip == nil || !ip.IsUnspecified()) {
		advertise = c.Listen
	}
	if host == "" {
		host = "0.0.0.0"
	}
	o.Cluster = server.ClusterOpts{
		Name: c.Name, Host: host, Port: port, Advertise: advertise,
		TLSConfig: tlsConfig, TLSTimeout: 5, AuthTimeout: 6,
		// A hung node black-holes questions for as long as it is believed to live.
		PingInterval: time.Second, MaxPingsOut: 2,
		// Behind this the route is cut, and what waits in it with it.
		WriteDeadline: 5 * time.Second,
		Compression:   server.CompressionOpts{Mode: server.CompressionOff},
	}
	for _, p := range c.Peers {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: p})
	}
	o.Routes = append(o.Routes, itself(port, advertise))
	system := server.NewAccount(server.DEFAULT_SYSTEM_ACCOUNT)
	o.Accounts = []*server.Account{system}
	o.SystemAccount = server.DEFAULT_SYSTEM_ACCOUNT
	// The engine starts its routes only behind a listener for clients. This one is on a port of the loopback
	// that the system chooses, and nobody can log in there: only connections inside the process may.
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
	inside := map[string]struct{}{"IN_PROCESS": {}}
	o.Users = []*server.User{
		{Username: systemUser, Password: password, Account: system, AllowedConnectionTypes: inside},
		{Username: plainUser, Password: password, AllowedConnectionTypes: inside},
	}
	o.ConnectErrorReports, o.ReconnectErrorReports = 600, 600 // one line in ten minutes, not one a second
	o.Tags = []string{nodeTag(e.cfg.node)}                    // see ring.go
	return nil
}

// itself is a route to this node, as the engine's settings usually have one. The engine never opens it: it knows its own
// addresses. But it takes the number of routes for the number of nodes whose votes a new group needs. With one less, two
// empty stores of three elect each other beside the third that has everything, which then follows them.
func itself(port int, advertise string) *url.URL {
	if _, p, err := splitAddress(advertise); err == nil {
		port = p // that is what the engine compares
	}
	return &url.URL{Scheme: "nats-route", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

func splitAddress(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not an address; write \"host:port\"", addr)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%q has no port number from 1 to 65535", addr)
	}
	return host, int(n), nil
}

// enginePeer is a member of the engines' cluster as this node's engine sees it.
type enginePeer struct {
	node, id string // "" if this engine has not met it since its start
	peer     string // the engines' name for it
	offline  bool
}

// engineView is what this node's engine knows, asked of nobody else.
type engineView struct {
	leader string // the node that leads the engines' cluster, "" if none
	self   bool   // that is this node
	peers  []enginePeer
}

func (e *engine) view() (engineView, error) {
	srv := e.server()
	if srv == nil {
		return engineView{}, errEngine
	}
	info, err := srv.Jsz(&server.JSzOptions{})
	if err != nil {
		return engineView{}, fmt.Errorf("look at the storage engine: %w", err)
	}
	if info.Meta == nil {
		return engineView{}, nil
	}
	v := engineView{}
	v.leader, _ = splitServer(info.Meta.Leader)
	v.self = srv.JetStreamIsLeader()
	for _, p := range info.Meta.Replicas {
		node, id := splitServer(p.Name)
		v.peers = append(v.peers, enginePeer{node, id, p.Peer, p.Offline})
	}
	return v, nil
}

// size is how many nodes the cluster has, dead ones included: those that count in its quorum. What the engine
// said counts for a second: it is asked with every beat.
func (e *engine) size() int {
	if !e.clustered() {
		return 1
	}
	e.sizeMu.Lock()
	defer e.sizeMu.Unlock()
	if e.sized == 0 || time.Since(e.sizedAt) > time.Second {
		e.sized, e.sizedAt = len(e.cfg.cluster.Peers)+1, time.Now()
		if v, err := e.view(); err == nil && v.leader != "" {
			e.sized = v.size(e.cfg.node, e.sized)
		}
	}
	return e.sized
}

// size counts nodes, not stores: that of a node which has lost one is a peer until it is taken out. A peer
// that was not met yet may be one; it counts as a node up to as many as the settings name.
func (v engineView) size(self string, named int) int {
	known, unknown := map[string]bool{self: true}, 0
	for _, p := range v.peers {
		if p.node == "" {
			unknown++
		}
		known[p.node] = true
	}
	delete(known, "")
	return max(len(known), min(len(known)+unknown, named))
}

// whyNot says why batches are not stored, as far as the engine knows.
func (e *engine) whyNot() error {
	if !e.clustered() {
		return errEngine
	}
	if srv := e.server(); srv == nil || !srv.JetStreamEnabled() {
		return fmt.Errorf("%w: its store has failed", errEngine)
	}
	v, err := e.view()
	if err != nil {
		return err
	}
	if v.leader == "" {
		return fmt.Errorf("%w: too few of the %d nodes reach each other", errNoQuorum, v.size(e.cfg.node, len(e.cfg.cluster.Peers)+1))
	}
	return fmt.Errorf("%w yet: the log's replicas have no leader or do not answer", errNoQuorum)
}

// dropOld removes this node's earlier stores from the cluster. One that is still in touch is another node
// under this one's name. Homeless is a node whose store is so new that it has no replica yet of its own
// log: then a peer too many that nobody of a complete cluster is must be its old store.
func (e *engine) dropOld(ctx context.Context, homeless bool) error {
	if !e.clustered() {
		return nil
	}
	v, err := e.view()
	if err != nil {
		return err
	}
	online := map[string]bool{e.cfg.node: true, v.leader: true}
	for _, p := range v.peers {
		online[p.node] = online[p.node] || !p.offline
	}
	complete := true
	delete(online, "")
	for _, on := range online {
		complete = complete && on
	}
	complete = complete && len(online) == len(e.cfg.cluster.Peers)+1
	for _, p := range v.peers {
		switch {
		case p.node == e.cfg.node && p.id != e.cfg.id && !p.offline:
			return fmt.Errorf("another node with the name %q is in the cluster: stop one of them, and give it a name of its own", p.node)
		case p.node == e.cfg.node && p.id != e.cfg.id, p.node == "" && p.offline && homeless && complete:
			if err := e.removeServer(ctx, map[string]string{"peer_id": p.peer}); err != nil {
				return err
			}
			e.log.Warn("this node's lost store was taken out of the cluster", "peer", p.peer, "id", p.id)
		}
	}
	return nil
}

// removePeer takes a node's store out of the engines' cluster, so that it counts in no quorum any more and
// its replicas are made elsewhere.
func (e *engine) removePeer(ctx context.Context, node, id string) error {
	return e.removeServer(ctx, map[string]string{"peer": hexName(node) + "-" + id})
}

func (e *engine) removeServer(ctx context.Context, which map[string]string) error {
	e.mu.RLock()
	sys := e.sys
	e.mu.RUnlock()
	if sys == nil {
		return errEngine
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := json.Marshal(which)
	if err != nil {
		return fmt.Errorf("remove a peer: %w", err)
	}
	m, err := sys.RequestWithContext(ctx, server.JSApiRemoveServer, req)
	if err != nil {
		return fmt.Errorf("remove %v from the cluster: %w", which, err)
	}
	return apiError(m.Data)
}

// apiError is the error in an answer of the engine.
func apiError(data []byte) error {
	var r struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%w: answer %q", errEngine, data)
	}
	if r.Error != nil {
		return fmt.Errorf("storage engine: %s (%d)", r.Error.Description, r.Error.Code)
	}
	return nil
}

// patience is how long a batch may stay without an answer before its slot is read.
func (e *engine) patience() time.Duration {
	if e.clustered() {
		return clusterTimeout
	}
	return storeTimeout
}

// announcer tells the other nodes of each batch; one that misses it reads it from the stream.
func (e *engine) announcer(kind string) func(data []byte) {
	if !e.clustered() {
		return nil
	}
	subject := logSubject(kind, e.cfg.node)
	return func(data []byte) {
		if err := e.publish(subject, data); err != nil {
			e.log.Debug("a batch was not announced", "err", err)
		}
	}
}
