package listen

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"holdfast/systemd/settings"
)

// Config is [listen]. An empty address is a closed listener.
type Config struct {
	MQTT     string `toml:"mqtt"`      // host:port
	MQTTS    string `toml:"mqtts"`     // MQTT over TLS
	WS       string `toml:"ws"`        // MQTT over WebSocket
	WSS      string `toml:"wss"`       // MQTT over WebSocket over TLS
	Admin    string `toml:"admin"`     // admin API, dashboard, metrics, health
	CertFile string `toml:"cert_file"` // for mqtts and wss
	KeyFile  string `toml:"key_file"`  // for mqtts and wss

	ClientCAFile       string   `toml:"client_ca_file"`       // PEM: who may have signed clients' certificates
	ClientCertRequired []string `toml:"client_cert_required"` // TLS listeners where clients must show one
	ClientCertOptional []string `toml:"client_cert_optional"` // TLS listeners where one that is shown must be good

	WSOrigins      []string `toml:"ws_origins"`      // web pages that may connect, besides those of the same host
	ProxyProtocol  []string `toml:"proxy_protocol"`  // listeners that require PROXY v1/v2
	TrustedProxies []string `toml:"trusted_proxies"` // networks that may send it
	MaxConnections int      `toml:"max_connections"` // 0: as many as the file descriptors allow
}

// The names of the listeners for MQTT, in the order in which they are opened.
const (
	MQTT  = "mqtt"
	MQTTS = "mqtts"
	WS    = "ws"
	WSS   = "wss"
)

// clientListener is what the settings say about one listener for MQTT.
type clientListener struct {
	name, addr string
	tls, ws    bool
}

// clients is the listeners for MQTT, open or closed.
func (l *Config) clients() []clientListener {
	return []clientListener{
		{MQTT, l.MQTT, false, false}, {MQTTS, l.MQTTS, true, false},
		{WS, l.WS, false, true}, {WSS, l.WSS, true, true},
	}
}

// Describe names the open MQTT listeners.
func (l Config) Describe() string {
	var out []string
	for _, o := range l.clients() {
		if o.addr != "" {
			out = append(out, o.name+" "+o.addr)
		}
	}
	return strings.Join(out, ", ")
}

// Check reports what cannot be meant. asked: whoever comes is asked who he is.
func (l *Config) Check(doc *settings.Doc, asked bool) {
	to := toAnybody
	if asked {
		to = toUsers
	}
	l.MQTT = checkAddress(doc, MQTT, l.MQTT, to)
	l.MQTTS = checkAddress(doc, MQTTS, l.MQTTS, to)
	l.WS = checkAddress(doc, WS, l.WS, to)
	l.WSS = checkAddress(doc, WSS, l.WSS, to)
	l.Admin = checkAddress(doc, "admin", l.Admin, toAdmin)
	if l.Describe() == "" && !doc.Broken() {
		doc.Problem("listen", `no listener is open; write mqtt = ":1883"`)
	}
	l.checkTLS(doc)
	l.checkClientCerts(doc)
	l.checkOrigins(doc)
	l.checkProxies(doc)
	if l.MaxConnections < 0 {
		doc.Problem("listen.max_connections", "%d is less than none; 0 means as many as the file descriptors allow", l.MaxConnections)
	}
}

func (l *Config) checkTLS(doc *settings.Doc) {
	user := ""
	for _, o := range l.clients() {
		if o.tls && o.addr != "" && user == "" {
			user = o.name
		}
	}
	files := []struct {
		key  string
		file *string
	}{{"listen.cert_file", &l.CertFile}, {"listen.key_file", &l.KeyFile}}
	sound := user != ""
	for _, f := range files {
		switch {
		case *f.file == "" && user != "":
			doc.Problem("listen."+user, "needs %s: a PEM file", f.key)
			sound = false
		case *f.file != "" && user == "":
			doc.Warn(f.key, `has no effect: mqtts and wss are closed; write mqtts = ":8883"`)
		case *f.file != "":
			*f.file = doc.Path(*f.file)
			if file, err := os.Open(*f.file); err != nil {
				doc.Problem(f.key, "cannot be read: %v", err)
				sound = false
			} else {
				file.Close()
			}
		}
	}
	if sound {
		if _, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile); err != nil {
			doc.Problem("listen.cert_file", "%v", pairError(l.CertFile, l.KeyFile, err))
		}
	}
}

func (l *Config) checkOrigins(doc *settings.Doc) {
	if len(l.WSOrigins) > 0 && l.WS == "" && l.WSS == "" {
		doc.Warn("listen.ws_origins", `has no effect: ws and wss are closed; write ws = ":8083"`)
	}
	for _, o := range l.WSOrigins {
		if o == anyOrigin {
			doc.Warn("listen.ws_origins", `"*" lets every web page that a user opens connect from that user's browser`)
		} else if u, err := url.Parse(o); err != nil || u.Host == "" || u.Scheme == "" || u.Path != "" {
			doc.Problem("listen.ws_origins", `%q is not an origin; write "https://host", "https://host:port" or "*"`, o)
		}
	}
}

func (l *Config) checkProxies(doc *settings.Doc) {
	const key, trusted = "listen.proxy_protocol", "listen.trusted_proxies"
	var names []string
	for _, o := range l.clients() {
		names = append(names, o.name)
		if o.addr == "" && slices.Contains(l.ProxyProtocol, o.name) {
			doc.Problem(key, "%q is closed; give listen.%s an address, or take it out of this list", o.name, o.name)
		}
	}
	for i, name := range l.ProxyProtocol {
		if !slices.Contains(names, name) {
			doc.Problem(key, "%q is no listener; there are %q", name, names)
		} else if slices.Contains(l.ProxyProtocol[:i], name) {
			doc.Problem(key, "%q stands in it twice", name)
		}
	}
	switch {
	case len(l.ProxyProtocol) > 0 && len(l.TrustedProxies) == 0:
		doc.Problem(key, `needs listen.trusted_proxies: the networks that the proxies connect from, such as ["10.0.0.0/8"]`)
	case len(l.ProxyProtocol) == 0 && len(l.TrustedProxies) > 0:
		doc.Warn(trusted, `has no effect: no listener requires the PROXY protocol; write proxy_protocol = ["mqtt"]`)
	}
	nets, err := parseNetworks(l.TrustedProxies)
	if err != nil {
		doc.Problem(trusted, "%v", err)
	}
	for _, n := range nets {
		if n.Bits() == 0 {
			doc.Warn(trusted, "%s: everybody who reaches the listener can claim any address", n)
		}
	}
}

// parseNetworks reads networks ("10.0.0.0/8") and single addresses ("10.0.0.1").
func parseNetworks(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil {
				p = netip.PrefixFrom(a.WithZone("").Unmap(), a.Unmap().BitLen())
			}
		}
		if err != nil {
			return nil, fmt.Errorf(`%q is no network; write "10.0.0.0/8", "2001:db8::/32" or one address`, s)
		}
		if p.Masked() != p {
			return nil, fmt.Errorf("%q has bits beyond its length; did you mean %q?", s, p.Masked())
		}
		out = append(out, p)
	}
	return out, nil
}

// Whom an address is for.
type audience uint8

const (
	toAnybody audience = iota // there is no [[auth]]
	toUsers                   // whoever comes is asked who he is
	toAdmin
)

// checkAddress checks host:port. Without [[auth]] nobody who reaches a listener would be asked who he is: it stays on
// loopback. The admin API stays there in any case. A PROXY header changes nothing: it says who is there, not whether he
// may.
func checkAddress(doc *settings.Doc, name, addr string, to audience) string {
	if addr == "" {
		return ""
	}
	key := "listen." + name
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		doc.Problem(key, `%q is not an address; write "host:port" or ":port"`, addr)
		return addr
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		doc.Problem(key, "%q has no port number from 0 to 65535", addr)
	} else if n == 0 {
		doc.Warn(key, "port 0 lets the system choose a port; the log says which")
	}
	ip := net.ParseIP(host)
	local := net.JoinHostPort("127.0.0.1", port)
	switch {
	case host == "localhost" || ip != nil && ip.IsLoopback():
	case to == toUsers && (name == MQTT || name == WS) && doc.Has(key):
		doc.Warn(key, "%q has no TLS: passwords and messages can be read on their way; %ss has it", addr, name)
	case to == toUsers:
	case host == "" && to == toAnybody:
		doc.Warn(key, "without [[auth]] anyone who reaches the broker could publish and subscribe, so it listens on loopback only: %s", local)
		return local
	case to == toAnybody:
		doc.Problem(key, "%q is not loopback, and without [[auth]] anyone who reaches it could publish and subscribe; write %q", addr, local)
	default:
		doc.Problem(key, "%q is not loopback: the admin API is for this host; write %q and reach it by SSH or a proxy of yours", addr, local)
	}
	return addr
}
