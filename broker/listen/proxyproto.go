package listen

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol, versions 1 and 2, as its specification has it (haproxy.org, doc/proxy-protocol.txt,
// sections 2.1 and 2.2): what a proxy says, ahead of everything, about who is connected to it.

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n" // section 2.2
	proxyV1Min     = 15                       // "PROXY UNKNOWN\r\n"
	proxyV1Max     = 107                      // section 2.1: the longest line
	proxyV2Head    = 16
	proxyV2Max     = 4096 // bytes of addresses and TLVs; the specification wants at most 520 without fragmentation
)

// errNoProxyHeader: what came first is not a PROXY header.
var errNoProxyHeader = errors.New("no PROXY header")

// readProxyHeader reads one header and not a byte more. The result is where the client is; it is
// not valid if the proxy speaks for itself (LOCAL, UNKNOWN: its health checks) or the client has
// no IP address. TLVs are read over.
func readProxyHeader(r io.Reader) (netip.AddrPort, error) {
	var head [proxyV2Head]byte
	const start = len("PROXY ")
	if _, err := io.ReadFull(r, head[:start]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	if !LooksProxied(head[:start]) { // an MQTT packet may be shorter than any header: do not wait for more
		return netip.AddrPort{}, fmt.Errorf("%w: it begins with %q", errNoProxyHeader, head[:start])
	}
	if _, err := io.ReadFull(r, head[start:proxyV1Min]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	switch {
	case head[0] == 'P':
		return readProxyV1(r, head[:proxyV1Min])
	case bytes.HasPrefix(head[:], []byte(proxySignature)):
		return readProxyV2(r, &head)
	}
	return netip.AddrPort{}, fmt.Errorf("%w: it begins with %q", errNoProxyHeader, head[:proxyV1Min])
}

// readProxyV1 reads on to the end of the line, byte by byte: what follows is not ours.
func readProxyV1(r io.Reader, head []byte) (netip.AddrPort, error) {
	line := append(make([]byte, 0, proxyV1Max), head...)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == proxyV1Max {
			return netip.AddrPort{}, fmt.Errorf("PROXY v1 line of more than %d bytes", proxyV1Max)
		}
		next := line[len(line) : len(line)+1]
		if _, err := io.ReadFull(r, next); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
		}
		line = line[:len(line)+1]
	}
	return parseProxyV1(string(line[:len(line)-2]))
}

func parseProxyV1(line string) (netip.AddrPort, error) {
	if line == "PROXY UNKNOWN" || strings.HasPrefix(line, "PROXY UNKNOWN ") {
		return netip.AddrPort{}, nil
	}
	bad := fmt.Errorf("malformed PROXY v1 line %q", line)
	f := strings.Split(line, " ")
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return netip.AddrPort{}, bad
	}
	src, err := parseProxyAddr(f[1], f[2], f[4])
	if err == nil {
		_, err = parseProxyAddr(f[1], f[3], f[5])
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", bad, err)
	}
	return src, nil
}

func parseProxyAddr(family, addr, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if a.Is4() != (family == "TCP4") || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%s is no address of %s", addr, family)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// Fields of a version 2 header.
const (
	proxyV2Local = 0x20
	proxyV2Proxy = 0x21
	proxyUnspec  = 0x0
	proxyInet    = 0x1
	proxyInet6   = 0x2
	proxyUnix    = 0x3
)

func readProxyV2(r io.Reader, head *[proxyV2Head]byte) (netip.AddrPort, error) {
	if _, err := io.ReadFull(r, head[proxyV1Min:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[14:]))
	if n > proxyV2Max {
		return netip.AddrPort{}, fmt.Errorf("PROXY v2 header of %d bytes; at most %d", n, proxyV2Max)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	return parseProxyV2(head[12], head[13], body)
}

func parseProxyV2(command, family byte, body []byte) (netip.AddrPort, error) {
	switch command {
	case proxyV2Local: // "the receiver must ignore the protocol block"
		return netip.AddrPort{}, nil
	case proxyV2Proxy:
	default:
		return netip.AddrPort{}, fmt.Errorf("PROXY v2 header with version and command 0x%02x", command)
	}
	size := 0
	switch family >> 4 {
	case proxyUnspec, proxyUnix:
		return netip.AddrPort{}, nil
	case proxyInet:
		size = 4
	case proxyInet6:
		size = 16
	default:
		return netip.AddrPort{}, fmt.Errorf("PROXY v2 header with address family 0x%02x", family)
	}
	if len(body) < 2*size+4 { // two addresses, two ports
		return netip.AddrPort{}, fmt.Errorf("PROXY v2 header of %d bytes, too short for its addresses", len(body))
	}
	a, _ := netip.AddrFromSlice(body[:size])
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(body[2*size:])), nil
}

// LooksProxied says whether what came first on a listener without the PROXY protocol is such a
// header: a proxy in front of it, and a setting that is missing.
func LooksProxied(head []byte) bool {
	const start = len("PROXY ")
	return len(head) >= start && (string(head[:start]) == "PROXY " || string(head[:start]) == proxySignature[:start])
}

// proxied is a connection whose other end said, by way of its proxy, who it is.
type proxied struct {
	net.Conn
	client net.Addr
}

// RemoteAddr is the client's address, not the proxy's.
func (p *proxied) RemoteAddr() net.Addr { return p.client }
