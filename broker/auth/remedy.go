package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
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
	}
	return ""
}

// hostOf is the host of host:port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
