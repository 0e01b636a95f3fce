package broker

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A rush of clients that come or go leaves a heap that is twice as large as what they need, and the runtime keeps it
// for the next rush. When it has become quiet, what is not needed is given back to the system, once.
const (
	breathClients = 1000             // came or went since the last time
	breathQuiet   = 20 * time.Second // and for so long hardly anything happens
	breathPackets = 2000             // a second: the keep alives of more than 100,000 clients
)

// breath is what the house remembers of that.
type breath struct {
	clients int    // when memory was last given back
	before  int    // at the last look
	packets uint64 // at the last look
	quiet   time.Duration
	looked  time.Duration
	busy    atomic.Bool
	times   atomic.Uint64
}

// breathe gives memory back after a rush, if it is quiet now.
func (b *Broker) breathe() {
	m := &b.breath
	now := b.mono()
	passed := now - m.looked
	if passed < time.Second {
		return
	}
	clients := b.conns.clients()
	in, out := b.conns.traffic()
	packets := in.Packets + out.Packets
	moved := max(clients-m.before, m.before-clients)
	busy := packets - min(packets, m.packets)
	m.before, m.packets, m.looked = clients, packets, now
	if moved > breathClients/10 || float64(busy) > breathPackets*passed.Seconds() {
		m.quiet = 0
		return
	}
	if m.quiet += passed; m.quiet < breathQuiet || max(clients-m.clients, m.clients-clients) < breathClients {
		return
	}
	if !m.busy.CompareAndSwap(false, true) {
		return
	}
	m.clients = clients
	b.background(func(context.Context) {
		defer m.busy.Store(false)
		debug.FreeOSMemory()
		m.times.Add(1)
	})
}
