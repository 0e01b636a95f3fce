package listen

import (
	"os"
	"slices"

	"holdfast/systemd/settings"
)

// clientCert is what a listener wants of its clients.
func (l *Config) clientCert(name string) string {
	switch {
	case slices.Contains(l.ClientCertRequired, name):
		return clientCertRequired
	case slices.Contains(l.ClientCertOptional, name):
		return clientCertOptional
	}
	return ClientCertNone
}

func (l *Config) checkClientCerts(doc *settings.Doc) {
	const file, required, optional = "listen.client_ca_file", "listen.client_cert_required", "listen.client_cert_optional"
	for _, list := range []struct {
		key   string
		names []string
	}{{required, l.ClientCertRequired}, {optional, l.ClientCertOptional}} {
		for i, name := range list.names {
			l.checkTLSListener(doc, list.key, name)
			if slices.Contains(list.names[:i], name) {
				doc.Problem(list.key, "%q stands in it twice", name)
			}
		}
	}
	for _, name := range l.ClientCertOptional {
		if slices.Contains(l.ClientCertRequired, name) {
			doc.Problem(optional, "%q is in client_cert_required too; take it out of one of them", name)
		}
	}
	asks := len(l.ClientCertRequired)+len(l.ClientCertOptional) > 0
	switch {
	case l.ClientCAFile == "" && asks:
		doc.Problem(file, "is missing: a PEM file with the certificates of those who sign the clients'")
	case l.ClientCAFile != "":
		l.ClientCAFile = doc.Path(l.ClientCAFile)
		if !asks {
			doc.Warn(file, `has no effect: no listener asks for certificates; write client_cert_required = ["mqtts"]`)
		}
		if data, err := os.ReadFile(l.ClientCAFile); err != nil {
			doc.Problem(file, "cannot be read: %v", err)
		} else if _, err := parseCAs(data); err != nil {
			doc.Problem(file, "%s: %v", l.ClientCAFile, err)
		}
	}
}

// checkTLSListener wants the name of an open listener with TLS.
func (l *Config) checkTLSListener(doc *settings.Doc, key, name string) {
	for _, o := range l.clients() {
		switch {
		case o.name != name:
		case !o.tls:
			doc.Problem(key, "%q has no TLS, where certificates are shown; name mqtts or wss", name)
			return
		case o.addr == "":
			doc.Problem(key, "%q is closed; give listen.%s an address, or take it out of this list", name, name)
			return
		default:
			return
		}
	}
	doc.Problem(key, "%q is no listener; those with TLS are mqtts and wss", name)
}
