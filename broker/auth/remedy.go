package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// networkRemedy says what to look at when a server cannot be reached; "" if the error says it all.
func networkRemedy(err error) string {
	var dns *net.DNSError
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time; is it overloaded, or is a firewall between?"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return "nothing listens there; is it running, and is that its address?"
	case errors.As(err, &dns):
		return "the name of the server is not known; check it, or write the address"
	case errors.As(err, &name):
		return "its certificate is for another name; set server_name"
	case errors.As(err, &authority), errors.As(err, &verify):
		return "its certificate is not trusted; set ca_file to what signed it"
	case wantsCertificate(err):
		return "it wants to see a certificate of the broker; set cert_file and key_file to one that it trusts"
	}
	return ""
}

// wantsCertificate says that the server has ended the handshake because of the broker's certificate (RFC 8446, section 6.2:
// certificate_required, bad_certificate, unknown_ca; TLS 1.2 has handshake_failure for the first). The library has no type for it.
func wantsCertificate(err error) bool {
	text := err.Error()
	return strings.Contains(text, "remote error: tls: ") && (strings.Contains(text, "certificate") || strings.Contains(text, "handshake failure"))
}

// hungUp says that the server has closed the connection without a word, as one does that speaks TLS only, or did not like the broker's certificate.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// hostOf is the host of host:port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
