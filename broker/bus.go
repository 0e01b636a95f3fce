package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// bus carries messages between the nodes, each at most once: nothing that must not be lost.
// In a broker of one node nobody listens.
type bus interface {
	// publish hands data to every subscription of the subject on all nodes that can be reached,
	// this one included. It does not wait for them.
	publish(subject string, data []byte) error
	// subscribe calls fn for each message, one at a time, in a goroutine of its own. Per
	// publisher the order is kept. At most limit messages and busBytes bytes wait; what comes
	// beyond is dropped and counted.
	subscribe(subject string, limit int, fn func(busMessage)) (*busSub, error)
	// request publishes and returns the first answer. Without anybody who listens it fails at once.
	request(ctx context.Context, subject string, data []byte) ([]byte, error)
}

var _ bus = (*engine)(nil)

// errNobody: nobody listens on a subject.
var errNobody = errors.New("nobody listens")

// busBytes is how much may wait in front of one subscription.
const busBytes = 64 << 20

// busMessage is one message; Data is not to be changed.
type busMessage struct {
	Subject string
	Data    []byte
	msg     *nats.Msg
}

// answer answers a request; where nobody waits for an answer it does nothing.
func (m busMessage) answer(data []byte) error {
	if m.msg == nil || m.msg.Reply == "" {
		return nil
	}
	if err := m.msg.Respond(data); err != nil {
		return fmt.Errorf("answer on %s: %w", m.Subject, err)
	}
	return nil
}

// busSub is a subscription. It outlives a restart of the engine.
type busSub struct {
	e       *engine
	subject string
	limit   int
	fn      func(busMessage)
	sub     *nats.Subscription // e.busMu
	lost    atomic.Uint64      // dropped by subscriptions before this one's
}

func (e *engine) publish(subject string, data []byte) error {
	e.gate()
	nc, _, err := e.conn()
	if err == nil {
		err = nc.Publish(subject, data)
	}
	if err != nil {
		e.unsent.Add(1)
		return fmt.Errorf("send on %s: %w", subject, err)
	}
	return nil
}

func (e *engine) subscribe(subject string, limit int, fn func(busMessage)) (*busSub, error) {
	nc, _, err := e.conn()
	if err != nil {
		return nil, err
	}
	s := &busSub{e: e, subject: subject, limit: limit, fn: fn}
	e.busMu.Lock()
	defer e.busMu.Unlock()
	if err := s.bind(nc); err != nil {
		return nil, err
	}
	e.subs[s] = struct{}{}
	return s, nil
}

// bind subscribes on a connection. e.busMu is held.
func (s *busSub) bind(nc *nats.Conn) error {
	sub, err := nc.Subscribe(s.subject, func(m *nats.Msg) {
		s.e.gate()
		s.fn(busMessage{m.Subject, m.Data, m})
	})
	if err == nil {
		err = sub.SetPendingLimits(s.limit, busBytes)
	}
	if err == nil {
		err = nc.Flush() // what is published from now on must find it
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", s.subject, err)
	}
	s.lost.Add(s.dropsNow())
	s.sub = sub
	return nil
}

// dropsNow is what the present subscription has dropped. e.busMu is held.
func (s *busSub) dropsNow() uint64 {
	if s.sub == nil {
		return 0
	}
	n, err := s.sub.Dropped()
	if err != nil {
		return 0
	}
	return uint64(n)
}

// queue names a subscription in the metrics: its subject without the node or the question at its end.
func (s *busSub) queue() string {
	parts := strings.Split(s.subject, ".")
	if len(parts) > 2 {
		parts = parts[:len(parts)-1]
	}
	return strings.Join(parts[1:], "_")
}

// busQueues is those of which one listens on every node of a cluster, so that what has never dropped anything is in the
// metrics too.
var busQueues = []string{"admin", "beat", "end", "have", "log_messages", "log_state", "logins", "loose", "rank", "take", "tip", "trace", "want"}

// busDrops is how many messages had no room since the start, by queue.
func (e *engine) busDrops() map[string]uint64 {
	out := map[string]uint64{}
	for _, q := range busQueues {
		out[q] = 0
	}
	e.busMu.Lock()
	defer e.busMu.Unlock()
	for q, n := range e.busLost {
		out[q] += n
	}
	for s := range e.subs {
		out[s.queue()] += s.lost.Load() + s.dropsNow()
	}
	return out
}

// drops is how many messages had no room.
func (s *busSub) drops() uint64 {
	s.e.busMu.Lock()
	defer s.e.busMu.Unlock()
	return s.lost.Load() + s.dropsNow()
}

// stop ends the subscription; one last call of fn may still run.
func (s *busSub) stop() {
	s.e.busMu.Lock()
	defer s.e.busMu.Unlock()
	delete(s.e.subs, s)
	s.e.busLost[s.queue()] += s.lost.Load() + s.dropsNow()
	_ = s.sub.Unsubscribe() // fails only on a closed connection, where it is not needed
}

// resubscribe brings all subscriptions to a new connection.
func (e *engine) resubscribe(nc *nats.Conn) error {
	e.busMu.Lock()
	defer e.busMu.Unlock()
	for s := range e.subs {
		if err := s.bind(nc); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	e.gate()
	nc, _, err := e.conn()
	if err != nil {
		return nil, err
	}
	m, err := nc.RequestWithContext(ctx, subject, data)
	if errors.Is(err, nats.ErrNoResponders) {
		err = errNobody
	}
	if err != nil {
		return nil, fmt.Errorf("ask on %s: %w", subject, err)
	}
	return m.Data, nil
}

// requestOf is request to a subject of one node. A node that dies with the question is noticed as soon as
// its connections are gone: errNobody, instead of a wait until ctx ends.
func (e *engine) requestOf(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer e.probes.await(node, cancel)()
	data, err := e.request(ctx, subject, data)
	if err != nil && errors.Is(context.Cause(ctx), errNobody) {
		return nil, fmt.Errorf("ask on %s: %w", subject, errNobody)
	}
	return data, err
}

// hereSubject is where each node's engine answers that it is there.
func hereSubject(node string) string { return "hf.here." + hexName(node) }

// logSubject is where a node announces each batch that a quorum has on disk.
func logSubject(kind, node string) string { return "hf.log." + kind + "." + hexName(node) }
