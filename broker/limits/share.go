package limits

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
	shareEvery = time.Second
	maxNews    = 2048    // of one message
	maxWaiting = 1 << 15 // that wait to be told
	maxTold    = maxNews // keys that one who comes up is told, by each node
)

// news is what one key did: it failed, or (Failed is 0) it got in.
type news struct {
	Kind   byte    `json:"t"`
	Key    key     `json:"k"`
	At     key     `json:"a,omitzero"` // the address of one that got in
	Failed int     `json:"n,omitempty"`
	Age    float64 `json:"s,omitempty"` // seconds since the last failure; only in what one is told who comes up
}

// message is what one node tells all.
type message struct {
	From  string `json:"from"`
	Hello bool   `json:"hello,omitempty"` // it comes up, and asks
	For   string `json:"for,omitempty"`   // an answer to this node's hello: sums, not news
	News  []news `json:"news,omitempty"`
}

// MarshalText implements encoding.TextMarshaler.
func (k key) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *key) UnmarshalText(text []byte) error {
	if len(text) != 2*len(k) {
		return fmt.Errorf("%q is no key of a login", text)
	}
	_, err := hex.Decode(k[:], text)
	return err
}

// tell keeps news for the other nodes; l.mu is held.
func (l *Logins) tell(n news) {
	if l.publish == nil {
		return
	}
	if len(l.news) >= maxWaiting {
		l.lost += uint64(n.Failed)
		return
	}
	l.news = append(l.news, n)
}

// Share lets the nodes of a cluster tell each other what failed: publish reaches all of them. Before it nothing is told.
func (l *Logins) Share(node string, publish func([]byte) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.node, l.publish = node, publish
}

// Run tells the other nodes what happened, until ctx ends. The first that they hear is a question.
func (l *Logins) Run(ctx context.Context) {
	l.send(message{Hello: true})
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		news := l.news
		l.news = nil
		l.mu.Unlock()
		for some := range slices.Chunk(news, maxNews) {
			l.send(message{News: some})
		}
	}
}

func (l *Logins) send(m message) {
	m.From = l.node
	data, err := json.Marshal(m)
	if err == nil {
		err = l.publish(data)
	}
	if err != nil {
		l.l.env.Log.Debug("what logins failed is not told", "err", err)
	}
}

// Listen enters what another node published.
func (l *Logins) Listen(data []byte) error {
	var in message
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	l.hear(in)
	return nil
}

func (l *Logins) hear(m message) {
	self := l.node
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
	var told []news
	if m.Hello {
		told = l.table()
	}
	l.mu.Unlock()
	if len(told) > 0 {
		l.send(message{For: m.From, News: told})
	}
}

// sum takes what another node remembers of a key, if it is more; l.mu is held.
func (l *Logins) sum(n news) {
	now := l.l.env.Mono()
	if f := l.failed[n.Key]; f != nil && f.n >= n.Failed || n.Age < 0 {
		return
	}
	age := time.Duration(min(n.Age, l.l.LoginForget.Seconds()) * float64(time.Second))
	l.add(n.Key, n.Kind, n.Failed-l.count(n.Key, now))
	if f := l.failed[n.Key]; f != nil {
		f.last -= age
		f.until -= min(age, f.until)
	}
}

// table is what one who comes up should know; l.mu is held.
func (l *Logins) table() (out []news) {
	now := l.l.env.Mono()
	for k, f := range l.failed {
		if len(out) == maxTold {
			break
		}
		if age := now - f.last; age < l.l.LoginForget {
			out = append(out, news{Kind: f.kind, Key: k, Failed: f.n, Age: age.Seconds()})
		}
	}
	return out
}
