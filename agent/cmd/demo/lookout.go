package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// The states of a node that runs.
const (
	stateReady    = "ready"
	stateDrained  = "drained"
	stateNotReady = "not ready"
)

// lookout asks the nodes and the agent how they fare, a few times a second.
type lookout struct {
	st     *stage
	client http.Client

	mu     sync.Mutex
	states map[*node]string
	agent  *node // that the agent is connected to
}

func newLookout(st *stage) *lookout {
	return &lookout{st: st, client: http.Client{Timeout: time.Second}, states: map[*node]string{}}
}

func (l *lookout) run(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, n := range l.st.nodes {
			state := l.askNode(ctx, n)
			l.mu.Lock()
			l.states[n] = state
			l.mu.Unlock()
		}
		agent := l.askAgent(ctx)
		l.mu.Lock()
		l.agent = agent
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (l *lookout) get(ctx context.Context, url string) (status int, body []byte) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, _ = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body
}

func (l *lookout) askNode(ctx context.Context, n *node) string {
	switch status, body := l.get(ctx, "http://"+n.admin+"/readyz"); {
	case status == http.StatusOK:
		return stateReady
	case strings.Contains(string(body), "being emptied"):
		return stateDrained
	}
	return stateNotReady
}

func (l *lookout) askAgent(ctx context.Context) *node {
	var status struct {
		Uplink struct {
			Connected bool
			Server    string
		}
	}
	_, body := l.get(ctx, "http://"+l.st.status+"/status.json")
	if json.Unmarshal(body, &status) != nil || !status.Uplink.Connected {
		return nil
	}
	for _, n := range l.st.nodes {
		if strings.HasSuffix(status.Uplink.Server, n.mqtt) {
			return n
		}
	}
	return nil
}

func (l *lookout) state(n *node) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.states[n]
}

func (l *lookout) agentAt() *node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agent
}
