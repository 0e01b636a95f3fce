package broker

import "holdfast/broker/limits"

// limits is what clients do against the limits, and when certificates expire.
func (c collector) limits(m metrics) {
	b := c.b
	for i, name := range limits.Names {
		m.counter(figure{"limit_reached", "How often a limit was reached, by its key under [limits].", b.stats.Limits[i].Load()}, "limit", name)
	}
	keys, lost := b.logins.Remembered()
	m.gauge(figure{"logins_remembered", "Users, addresses and pairs of them whose failed logins are remembered.", uint64(keys)})
	m.counter(figure{"logins_not_remembered", "Failed logins that were not counted against anybody, or not told to the other nodes, for want of room.", lost})
	if book := b.book.Load(); book != nil {
		known, half := book.Addresses()
		m.gauge(figure{"addresses", "Addresses of clients that are connected, or were so lately that their connect rate counts.", uint64(known)})
		m.gauge(figure{"half_open_connections", "Connections whose CONNECT has not come yet.", uint64(half)})
	}
	files := b.files.Load()
	if files == nil {
		return
	}
	for use, until := range files.Ends() {
		m.gauge(figure{"certificate_not_after_seconds", "When a TLS certificate expires, in seconds since 1970: the listeners' own, and of the CAs of client certificates the first.", uint64(max(0, until.Unix()))}, "use", use)
	}
}
