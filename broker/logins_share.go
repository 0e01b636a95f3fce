package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// What fails at one node counts at all. The nodes tell each other once a second what happened, over the bus, where a message
// may be lost: a failure that another node does not learn of makes it slower to say no, and nothing else. One that
// comes up asks, and is told what is remembered.

const (
	loginSubject = "hf.logins"
	loginEvery   = time.Second
	maxNews      = 2048    // of one message
	maxWaiting   = 1 << 15 // that wait to be told
	maxTold      = maxNews // keys that one who comes up is told, by each node
)

// loginNews is what one key did: it failed, or (Failed is 0) it got in.
type loginNews struct {
	Kind   byte     `json:"t"`
	Key    loginKey `json:"k"`
	At     loginKey `json:"a,omitzero"` // the address of one that got in
	Failed int      `json:"n,omitempty"`
	Age    float64  `json:"s,omitempty"` // seconds since the last failure; only in what one is told who comes up
}

// loginMessage is what one node tells all.
type loginMessage struct {
	From  string      `json:"from"`
	Hello bool        `json:"hello,omitempty"` // it comes up, and asks
	For   string      `json:"for,omitempty"`   // an answer to this node's hello: sums, not news
	News  []loginNews `json:"news,omitempty"`
}

// MarshalText implements encoding.TextMarshaler.
func (k loginKey) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *loginKey) UnmarshalText(text []byte) error {
	if len(text) != 2*len(k) {
		return fmt.Errorf("%q is no key of a login", text)
	}
	_, err := hex.Decode(k[:], text)
	return err
}

// tell keeps news for the other nodes; l.mu is held.
func (l *logins) tell(n loginNews) {
	if l.b.peers == nil {
		return
	}
	if len(l.news) >= maxWaiting {
		l.lost += uint64(n.Failed)
		return
	}
	l.news = append(l.news, n)
}

// listenLogins hears what the other nodes tell.
func (p *peers) listenLogins() error {
	return p.subscribe(loginSubject, 1024, func(m busMessage) {
		var in loginMessage
		if err := json.Unmarshal(m.Data, &in); err != nil {
			p.b.log.Warn("what another node tells of logins cannot be read", "err", err)
			return
		}
		p.b.logins.hear(in)
	})
}

// run tells the other nodes what happened, until ctx ends. The first that they hear is a question.
func (l *logins) run(ctx context.Context) {
	l.send(loginMessage{Hello: true})
	for pause(ctx, loginEvery) {
		l.mu.Lock()
		news := l.news
		l.news = nil
		l.mu.Unlock()
		for some := range slices.Chunk(news, maxNews) {
			l.send(loginMessage{News: some})
		}
	}
}

func (l *logins) send(m loginMessage) {
	m.From = l.b.cfg.Node.Name
	data, err := json.Marshal(m)
	if err == nil {
		err = l.b.engine.publish(loginSubject, data)
	}
	if err != nil {
		l.b.log.Debug("what logins failed is not told", "err", err)
	}
}

// hear enters what another node tells.
func (l *logins) hear(m loginMessage) {
	self := l.b.cfg.Node.Name
	if m.From == self || m.For != "" && m.For != self || len(m.News) > maxNews {
		return
	}
	l.mu.Lock()
	for _, n := range m.News {
		n.Failed = min(n.Failed, maxFailures)
		switch {
		case n.Failed <= 0:
			l.in(n.Key, n.At)
		case m.For != "":
			l.sum(n)
		default:
			l.add(n.Key, n.Kind, n.Failed)
		}
	}
	var told []loginNews
	if m.Hello {
		told = l.table()
	}
	l.mu.Unlock()
	if len(told) > 0 {
		l.send(loginMessage{For: m.From, News: told})
	}
}

// sum takes what another node remembers of a key, if it is more; l.mu is held.
func (l *logins) sum(n loginNews) {
	now := l.b.mono()
	if f := l.failed[n.Key]; f != nil && f.n >= n.Failed || n.Age < 0 {
		return
	}
	age := time.Duration(min(n.Age, l.b.limits.LoginForget.Seconds()) * float64(time.Second))
	l.add(n.Key, n.Kind, n.Failed-l.count(n.Key, now))
	if f := l.failed[n.Key]; f != nil {
		f.last -= age
		f.until -= min(age, f.until)
	}
}

// table is what one who comes up should know; l.mu is held.
func (l *logins) table() (out []loginNews) {
	now := l.b.mono()
	for k, f := range l.failed {
		if len(out) == maxTold {
			break
		}
		if age := now - f.last; age < l.b.limits.LoginForget {
			out = append(out, loginNews{Kind: f.kind, Key: k, Failed: f.n, Age: age.Seconds()})
		}
	}
	return out
}
