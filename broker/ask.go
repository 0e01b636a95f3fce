package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"holdfast/broker/admin"
)

// An administrator may ask any node: what another node knows, that one is asked over the bus.
const (
	askSubject   = "hf.admin."
	askTimeout   = 3 * time.Second
	askWait      = 20 * time.Second // for what ends a connection or reads the log
	askAtOnce    = 16               // questions that are being answered
	traceSubject = "hf.trace."
)

// The questions.
const (
	askSessions  = "sessions"
	askSession   = "session"
	askKick      = "kick"
	askExplain   = "explain"
	askTrace     = "trace"
	askDrain     = "drain"
	askShowDrain = "show-drain"
	askUndrain   = "undrain"
	askAgain     = "duplicates"
	askShare     = "share" // Topic is its name
)

// question is what one node asks another.
type question struct {
	From   string             `json:"from"`
	Do     string             `json:"do"`
	Client string             `json:"client,omitempty"`
	Topic  string             `json:"topic,omitempty"`
	Of     string             `json:"of,omitempty"` // a gateway; "": all
	Query  admin.SessionQuery `json:"query"`
	Forget bool               `json:"forget,omitempty"`
	Drain  admin.DrainNode    `json:"drain"`
	Lines  string             `json:"lines,omitempty"` // subject for a trace's lines
}

// adminReply is the answer, or why there is none.
type adminReply struct {
	Body   json.RawMessage `json:"body,omitempty"`
	Status int             `json:"status,omitempty"` // of an error
	Error  string          `json:"error,omitempty"`
	Hint   string          `json:"hint,omitempty"`
}

// listenQuestions answers the other nodes.
func (p *peers) listenQuestions() error {
	slots := make(chan struct{}, askAtOnce)
	return p.subscribe(askSubject+hexName(p.b.cfg.Node.Name), 256, func(m busMessage) {
		var q question
		if err := json.Unmarshal(m.Data, &q); err != nil {
			p.b.log.Warn("a question of another node cannot be read", "err", err)
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			p.answer(m, q, nil, &admin.Error{Status: http.StatusServiceUnavailable, Message: "node " + p.b.cfg.Node.Name + " is asked too much at once", Hint: "try again"})
			return
		}
		p.b.background(func(ctx context.Context) {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askWait)
			defer cancel()
			v, err := p.b.answerTo(ctx, q)
			p.answer(m, q, v, err)
		})
	})
}

func (p *peers) answer(m busMessage, q question, v any, err error) {
	var r adminReply
	if err == nil {
		r.Body, err = json.Marshal(v)
	}
	if err != nil {
		r = adminReply{Status: http.StatusInternalServerError, Error: err.Error()}
		if e := (*admin.Error)(nil); errors.As(err, &e) {
			r = adminReply{Status: e.Status, Error: e.Message, Hint: e.Hint}
		}
	}
	data, err := json.Marshal(r)
	if err == nil {
		err = m.answer(data)
	}
	if err != nil {
		p.b.log.Warn("another node gets no answer", "node", q.From, "question", q.Do, "err", err)
	}
}

// answerTo is what this node, and only it, knows.
func (b *Broker) answerTo(ctx context.Context, q question) (any, error) {
	switch q.Do {
	case askSessions:
		return b.listSessions(q.Query), nil
	case askSession:
		return b.detail(ctx, q.Client)
	case askKick:
		return b.kickSession(ctx, q.Client, q.Forget)
	case askExplain:
		return b.explain(ctx, q.Client, q.Topic)
	case askShare:
		i, _ := b.ownShare(q.Topic)
		return i, nil
	case askTrace:
		return b.peers.lend(q.Client, q.Lines), nil
	case askDrain:
		return b.drainer.begin(q.Drain)
	case askShowDrain:
		return b.drainer.state(), nil
	case askUndrain:
		return b.drainer.undo(), nil
	case askAgain:
		return cameAgain(b.ledger, q.Of), nil
	}
	return nil, &admin.Error{Status: http.StatusNotImplemented, Message: fmt.Sprintf("node %s does not know the question %q", b.cfg.Node.Name, q.Do),
		Hint: "it runs another version: ask that node itself"}
}

// question asks one node and reads its answer into out.
func (p *peers) question(ctx context.Context, node string, q question, out any) error {
	if !p.members.alive(node) {
		return &admin.Error{Status: http.StatusServiceUnavailable, Message: "node " + node + " is not heard", Hint: "holdfast-broker cluster show"}
	}
	wait := askTimeout
	if q.Do == askKick || q.Do == askSession || q.Do == askExplain {
		wait = askWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	q.From = p.b.cfg.Node.Name
	data, err := json.Marshal(q)
	if err != nil {
		return err
	}
	data, err = p.b.engine.request(ctx, askSubject+hexName(node), data)
	var r adminReply
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	switch {
	case err != nil:
		return &admin.Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("node %s does not answer: %v", node, err), Hint: "holdfast-broker cluster show"}
	case r.Status != 0:
		return &admin.Error{Status: r.Status, Message: r.Error, Hint: r.Hint}
	}
	return json.Unmarshal(r.Body, out)
}

// others are the nodes that should be asked besides this one: all that were heard since the start.
func (b *Broker) others() []string {
	if b.peers == nil {
		return nil
	}
	var out []string
	for _, m := range b.peers.members.list() {
		if m.Node != b.cfg.Node.Name {
			out = append(out, m.Node)
		}
	}
	return out
}

// said is what one node answered.
type said[T any] struct {
	node string
	body T
	err  error
}

// askAll asks all others at once.
func askAll[T any](ctx context.Context, b *Broker, q question) []said[T] {
	nodes := b.others()
	out := make([]said[T], len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		out[i].node = node
		asking.Go(func() { out[i].err = b.peers.question(ctx, node, q, &out[i].body) })
	}
	asking.Wait()
	return out
}
