package broker

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// A client that this node cannot serve is told where to go instead (5.0 section 4.11): to the same
// listener of nodes that are ready.

func (b *Broker) doorways() []listen.Doorway {
	if p := b.doorway.Load(); p != nil {
		return *p
	}
	return nil
}

// reach is where clients come to this node themselves, "listener=host:port". A listener behind a load
// balancer is in there without an address: whoever comes again comes by the balancer.
func (b *Broker) reach() []string {
	var out []string
	for _, d := range b.doorways() {
		addr := ""
		if !d.Proxied {
			addr = b.named(d.Addr.String())
		}
		out = append(out, d.Name+"="+addr)
	}
	return out
}

// named is an address with a host that means something elsewhere, or "": a listener on all addresses is
// reached where the other nodes reach this one.
func (b *Broker) named(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	if unnamed(host) && b.cfg.Cluster != nil {
		for _, a := range []string{b.cfg.Cluster.Advertise, b.cfg.Cluster.Listen} {
			if h, _, err := net.SplitHostPort(a); err == nil && !unnamed(h) {
				host = h
				break
			}
		}
	}
	if unnamed(host) {
		return ""
	}
	return net.JoinHostPort(host, port)
}

// unnamed: it is on all addresses of its host.
func unnamed(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// reference names where the other nodes that are ready take clients of a listener, with a space between
// them, "" if nobody has said so; ready is whether there is any such node. A node that has just died is named for up to
// deadAfter, but behind those that were heard since.
func (c peerCluster) reference(listener string) (server string, ready bool) {
	var out, old []string
	for _, m := range c.b.peers.members.list() {
		if !m.Alive || !m.Ready || m.Draining || m.Node == c.b.cfg.Node.Name {
			continue
		}
		at := slices.IndexFunc(m.Reach, func(r string) bool { return strings.HasPrefix(r, listener+"=") })
		if at < 0 {
			continue
		}
		ready = true
		switch addr := m.Reach[at][len(listener)+1:]; {
		case addr == "":
		case m.Age < freshFor:
			out = append(out, addr)
		default:
			old = append(old, addr)
		}
	}
	return strings.Join(append(out, old...), " "), ready
}

// mainListener is the first that is open.
func (b *Broker) mainListener() string {
	for _, d := range b.doorways() {
		return d.Name
	}
	return listen.MQTT
}

// listener is the name of the listener that a connection came by.
func (c *conn) listener() string {
	local, ok := c.nc.LocalAddr().(*net.TCPAddr)
	for _, d := range c.b.doorways() {
		if a, is := d.Addr.(*net.TCPAddr); ok && is && a.Port == local.Port {
			return d.Name
		}
	}
	return listen.MQTT
}

// instead is what a client is told that this node cannot serve: another server, if one is ready, or else
// code.
func (c *conn) instead(code byte) (byte, string) {
	if server, ready := c.b.cluster.reference(c.listener()); ready {
		return mqtt.UseAnotherServer, server
	}
	return code, ""
}
