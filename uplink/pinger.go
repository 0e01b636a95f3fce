package uplink

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"
	paholog "github.com/eclipse/paho.golang/paho/log"
)

// pinger keeps the connection alive (§3.1.2.10) and finds out when it is dead: after a
// keep alive's silence in either direction it asks, and whoever then says nothing for
// half as long again is gone. Every packet counts as an answer: on a slow link the
// PINGREQ waits behind what is being sent, and its PUBACKs show that the peer lives.
type pinger struct {
	c     *conn
	limit time.Duration // ours; the server's Keep Alive may only shorten it
}

// Run pings until ctx ends. keepAlive is the server's, or ours if it named none
// (§3.2.2.3.14); 0 lets the server wait for ever, not us.
func (p *pinger) Run(ctx context.Context, _ net.Conn, keepAlive uint16) error {
	interval := p.limit
	if server := time.Duration(keepAlive) * time.Second; server > 0 {
		interval = min(interval, server)
	}
	written := make(chan struct{}, 1)
	asked := time.Duration(-1) // when the PINGREQ that is not answered was sent
	writing := false
	defer func() {
		if writing {
			<-written
		}
	}()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-written:
			writing = false
			continue
		case <-timer.C:
		}
		now, heard, said := p.c.now(), time.Duration(p.c.heard.Load()), time.Duration(p.c.said.Load())
		if asked >= 0 && heard >= asked {
			asked = -1
		}
		var due time.Duration
		if asked >= 0 {
			due = asked + interval/2
			if now >= due {
				return p.c.fail(fmt.Errorf("nothing heard from the server for %v", (now - heard).Round(time.Millisecond)))
			}
		} else if due = min(heard, said) + interval; now >= due {
			asked, due = now, now+interval/2
			if !writing { // a writer that is stuck has a deadline of its own
				writing = true
				go func() {
					_, _ = packets.NewControlPacket(packets.PINGREQ).WriteTo(p.c)
					written <- struct{}{}
				}()
			}
		}
		timer.Reset(due - now)
	}
}

// The conn sees all of this itself.
func (p *pinger) PacketSent()             {}
func (p *pinger) PacketReceived()         {}
func (p *pinger) PingResp()               {}
func (p *pinger) SetDebug(paholog.Logger) {}
