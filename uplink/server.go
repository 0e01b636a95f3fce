package uplink

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// server is one place to connect to.
type server struct {
	scheme string // mqtt, mqtts, ws, wss
	host   string // name or address, for TLS
	addr   string // host:port
	path   string // of a WebSocket
}

func (s server) tls() bool { return s.scheme == "mqtts" || s.scheme == "wss" }
func (s server) ws() bool  { return s.scheme == "ws" || s.scheme == "wss" }

func (s server) String() string {
	return s.scheme + "://" + strings.ReplaceAll(s.addr, "%", "%25") + s.path // %: an IPv6 zone
}

// defaultPort is the scheme's registered port.
func defaultPort(scheme string) string {
	switch scheme {
	case "mqtt":
		return "1883"
	case "mqtts":
		return "8883"
	case "ws":
		return "80"
	}
	return "443"
}

// parseServer reads "mqtts://host:8883" or "wss://host/mqtt".
func parseServer(text string) (server, error) {
	u, err := url.Parse(text)
	if err != nil {
		return server{}, fmt.Errorf("%q is not a URL: want mqtt, mqtts, ws or wss://host:port", text)
	}
	s := server{scheme: u.Scheme, host: u.Hostname(), path: u.EscapedPath()}
	switch {
	case s.scheme != "mqtt" && s.scheme != "mqtts" && s.scheme != "ws" && s.scheme != "wss":
		return s, fmt.Errorf("%q: scheme must be mqtt, mqtts, ws or wss", u.Redacted())
	case u.User != nil:
		return s, fmt.Errorf("%q: credentials do not belong into the URL; use username and password_file", u.Redacted())
	case s.host == "":
		return s, fmt.Errorf("%q: no host", text)
	case !validHost(s.host):
		return s, fmt.Errorf("%q: %q is neither a host name nor an address", text, s.host)
	case u.RawQuery != "" || u.Fragment != "":
		return s, fmt.Errorf("%q: a query or fragment has no meaning here", text)
	case !s.ws() && strings.Trim(s.path, "/") != "":
		return s, fmt.Errorf("%q: a path has a meaning only for ws and wss", text)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort(s.scheme)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return s, fmt.Errorf("%q: port must be 1 to 65535", text)
	}
	s.addr = net.JoinHostPort(s.host, port)
	switch {
	case !s.ws():
		s.path = ""
	case strings.Trim(s.path, "/") == "":
		s.path = "/mqtt"
	}
	return s, nil
}

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == ""
}

// parseReference takes the first usable entry of a Server Reference (§4.11): names or
// addresses with or without port, separated by spaces. The scheme stays: a server
// cannot talk us out of TLS.
func parseReference(ref string, from server) (server, bool) {
	for _, entry := range strings.Fields(ref) {
		if i := strings.LastIndex(entry, "]:"); i < 0 && strings.Count(entry, ":") > 1 && entry[0] != '[' {
			entry = "[" + entry + "]" // a bare IPv6 address
		}
		s, err := parseServer(from.scheme + "://" + entry + from.path)
		if err == nil {
			return s, true
		}
	}
	return server{}, false
}

// roster takes the servers in turn. Each has its own backoff, so that a dead one does
// not delay the next; one that refuses us or is busy is tried slowly.
type roster struct {
	list  []seat
	at    int     // the one in use, or next
	guest *server // followed from a Server Reference, once
}

type seat struct {
	server
	wait      outage
	stop      backoff
	notBefore time.Duration
}

func newRoster(list []server, t tuning) *roster {
	r := &roster{}
	for _, s := range list {
		r.list = append(r.list, seat{
			server: s,
			wait:   outage{backoff: backoff{base: t.backoffBase, max: t.backoffBrisk}, most: t.backoffMax},
			stop:   backoff{base: t.stopBase, max: t.stopMax},
		})
	}
	return r
}

// next returns the server to try and the earliest moment for it: the one whose turn it
// is if it is nearly due, else the one that is due first.
func (r *roster) next(now time.Duration) (s server, guest bool, notBefore time.Duration) {
	if r.guest != nil {
		s = *r.guest
		r.guest = nil
		return s, true, 0
	}
	best := r.at
	if s := r.list[best]; s.notBefore-now <= s.wait.base {
		return s.server, false, s.notBefore
	}
	for i := range r.list {
		n := (r.at + i) % len(r.list)
		if r.list[n].notBefore < r.list[best].notBefore {
			best = n
		}
	}
	r.at = best
	return r.list[best].server, false, r.list[best].notBefore
}

// failed puts the current server back: if slow, for longer and never for next to nothing.
func (r *roster) failed(now time.Duration, slow bool, rand func() float64) {
	s := &r.list[r.at]
	if slow {
		s.notBefore = now + s.stop.slow(rand)
	} else {
		s.notBefore = now + s.wait.next(now, rand)
	}
	r.at = (r.at + 1) % len(r.list)
}

// lost notes the end of a connection that was accepted: the session is on this server,
// so it comes first again, after a jitter. Only a stable connection clears its record;
// one that at least got something through eases it.
func (r *roster) lost(now time.Duration, stable, progress bool, rand func() float64) {
	s := &r.list[r.at]
	s.stop.reset()
	if stable {
		s.wait.reset()
	} else if progress {
		s.wait.ease(now, 2)
	}
	s.notBefore = now + s.wait.next(now, rand)
}
