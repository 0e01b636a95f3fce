package broker

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
)

// The values of Drain.State.
const (
	DrainOff      = "off"
	DrainWaiting  = "waiting"  // /readyz says 503; clients are still taken
	DrainDraining = "draining" // clients are sent away, and new ones are not taken
	DrainDone     = "done"     // none is left, and new ones are not taken
)

// Drain is how far the emptying of a node is.
type Drain struct {
	Node      string    `json:"node"`
	State     string    `json:"state"`
	Began     time.Time `json:"began,omitzero"`
	Rate      int       `json:"rate,omitempty"` // clients per second
	Wait      string    `json:"wait,omitempty"`
	Server    string    `json:"server,omitempty"` // server reference that clients are given
	Code      string    `json:"code,omitempty"`   // reason code that they are given
	Sent      int       `json:"sent_away"`
	Turned    uint64    `json:"turned_away"` // new clients that were refused
	Connected int       `json:"connected"`
}

// Defaults and bounds of a drain.
const (
	drainRate    = 200              // clients per second
	drainRateMax = 100000           // as good as all at once
	drainWait    = 10 * time.Second // a balancer that asks every 3 s and wants 3 failures has noticed by then
	drainWaitMax = time.Hour
	drainTick    = 20 * time.Millisecond
)

// elsewhere is why a client is sent to another server.
type elsewhere struct {
	code   byte   // UseAnotherServer or ServerMoved
	server string // by the administrator; "": the nodes that are ready when the client leaves
}

func (e *elsewhere) Error() string {
	if e.code == mqtt.ServerMoved {
		return "this node is being emptied for good (cluster drain)"
	}
	return "this node is being emptied (cluster drain)"
}

// drainer empties the node: first /readyz fails, so that balancers send nobody any more, then the
// clients that are here are sent away at a set rate, then there are none.
type drainer struct {
	b   *Broker
	ops sync.Mutex // one begin or undo at a time

	mu     sync.Mutex
	d      Drain
	to     *elsewhere
	cancel context.CancelFunc // of the round that runs
	ended  chan struct{}
}

func newDrainer(b *Broker) *drainer { return &drainer{b: b, d: Drain{State: DrainOff}} }

// refusal is why the node should get no new clients, or nil.
func (d *drainer) refusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.to == nil {
		return nil
	}
	return d.to
}

// turnsAway is why a CONNECT is refused, or nil: while the node waits for the balancers to notice,
// clients are still taken, or they would be sent back here again and again.
func (d *drainer) turnsAway() *elsewhere {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.to == nil || d.d.State == DrainWaiting {
		return nil
	}
	d.d.Turned++
	return d.to
}

func (d *drainer) state() Drain {
	d.mu.Lock()
	out := d.d
	d.mu.Unlock()
	out.Node, out.Connected = d.b.cfg.Node.Name, d.b.conns.clients()
	return out
}

// begin starts to empty the node; one that is being emptied goes on with the new rate.
func (d *drainer) begin(r admin.DrainNode) (Drain, error) {
	wait := drainWait
	if r.Wait != nil {
		wait = time.Duration(*r.Wait)
	}
	if r.Rate == 0 {
		r.Rate = drainRate
	}
	switch {
	case r.Rate < 1 || r.Rate > drainRateMax:
		return Drain{}, badDrain("rate %d", r.Rate, fmt.Sprintf("give 1 to %d clients per second", drainRateMax))
	case wait < 0 || wait > drainWaitMax:
		return Drain{}, badDrain("wait %v", wait, "give 0s to 1h")
	case len(r.Server) > 1024:
		return Drain{}, badDrain("a server reference of %d bytes", len(r.Server), "give host:port, or several with a space between them")
	}
	to := &elsewhere{code: mqtt.UseAnotherServer, server: r.Server}
	if r.Moved {
		to.code = mqtt.ServerMoved
	}
	server := to.server
	if server == "" {
		server, _ = d.b.cluster.reference(d.b.mainListener())
	}
	d.ops.Lock()
	defer d.ops.Unlock()
	d.halt()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.b.ctx.Err() != nil {
		return Drain{}, errStopping
	}
	was := d.d
	d.to = to
	d.d = Drain{State: DrainWaiting, Began: d.b.wall().UTC(), Rate: r.Rate, Wait: wait.String(), Server: server, Code: codeName(to.code)}
	if was.State == DrainDraining || was.State == DrainDone { // the balancers know
		d.d.State, d.d.Began, d.d.Sent, d.d.Turned, wait = DrainDraining, was.Began, was.Sent, was.Turned, 0
	}
	ctx, cancel := context.WithCancel(d.b.ctx)
	d.cancel, d.ended = cancel, make(chan struct{})
	ended := d.ended
	d.b.log.Warn("this node is being emptied: /readyz fails, then its clients are sent away", "wait", wait, "rate", r.Rate, "server", server)
	d.b.background(func(context.Context) {
		defer close(ended)
		d.run(ctx, wait, r.Rate)
	})
	out := d.d
	out.Node, out.Connected = d.b.cfg.Node.Name, d.b.conns.clients()
	return out, nil
}

func badDrain(format string, value any, hint string) error {
	return &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, value), Hint: hint}
}

// undo lets the node take clients again.
func (d *drainer) undo() Drain {
	d.ops.Lock()
	defer d.ops.Unlock()
	d.halt()
	d.mu.Lock()
	if d.to != nil {
		d.b.log.Warn("this node takes clients again")
	}
	d.to, d.d = nil, Drain{State: DrainOff}
	d.mu.Unlock()
	return d.state()
}

// halt ends the round that runs.
func (d *drainer) halt() {
	d.mu.Lock()
	cancel, ended := d.cancel, d.ended
	d.cancel = nil
	d.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// run waits, then sends clients away until none is left. What came before the door was shut and is
// here only now is sent away too.
func (d *drainer) run(ctx context.Context, wait time.Duration, rate int) {
	if !pause(ctx, wait) {
		return
	}
	d.mu.Lock()
	d.d.State = DrainDraining
	to := d.to
	d.mu.Unlock()
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	began, sent := d.b.mono(), 0
	for ctx.Err() == nil {
		due := 1 + int((d.b.mono()-began).Seconds()*float64(rate)) - sent
		n, left := d.b.conns.sendAway(due, to)
		sent += n
		d.mu.Lock()
		d.d.Sent += n
		if left == 0 {
			d.d.State = DrainDone
		}
		d.mu.Unlock()
		if left == 0 {
			d.b.log.Warn("this node is empty", "sent_away", sent)
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// sendAway ends up to n connections that are not ending yet; left is how many there are still,
// those that are ending included.
func (s *connSet) sendAway(n int, to *elsewhere) (sent, left int) {
	var chosen []*conn
	s.mu.Lock()
	for c := range s.m {
		if !c.client.Load() { // not yet one, and then it is refused
			continue
		}
		if left++; len(chosen) < n && c.sentAway.CompareAndSwap(false, true) {
			chosen = append(chosen, c)
		}
	}
	s.mu.Unlock()
	for _, c := range chosen {
		c.sendAway(to)
	}
	return len(chosen), left
}

// clients is how many connections are those of clients: their CONNECT was accepted.
func (s *connSet) clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.m {
		if c.client.Load() {
			n++
		}
	}
	return n
}

// sendAway ends the connection of a client.
func (c *conn) sendAway(to *elsewhere) { c.redirect(to.code, c.why(to.Error()), to.of(c)) }

// turnAway answers a CONNECT that the node does not take.
func (c *conn) turnAway(to *elsewhere) error { return c.refuseTo(to.code, to.Error(), to.of(c)) }

// of is the server reference for a client.
func (e *elsewhere) of(c *conn) string {
	if e.server != "" {
		return e.server
	}
	server, _ := c.b.cluster.reference(c.listener())
	return server
}
