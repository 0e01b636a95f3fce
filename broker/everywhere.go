package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"holdfast/broker/admin"
)

// What the console says of the whole cluster, whichever node is asked.

// ListSessions implements admin.Sessions: the pages of all nodes, merged, and what nodes that are down have saved.
func (c *Console) ListSessions(ctx context.Context, q admin.SessionQuery) (any, error) {
	out := c.b.listSessions(q)
	cut := out.Next // beyond it not everything has been heard
	down := c.b.down()
	saved := c.b.listSaved(q, down)
	out.Total += len(saved)
	for _, s := range saved {
		if s.Client > q.After {
			out.Sessions = append(out.Sessions, s)
		}
	}
	for _, s := range askAll[SessionList](ctx, c.b, question{Do: askSessions, Query: q}) {
		if _, is := down[s.node]; is {
			continue
		}
		if s.err != nil {
			out.Missing = append(out.Missing, s.node)
			continue
		}
		out.Sessions = append(out.Sessions, s.body.Sessions...)
		out.Total += s.body.Total
		if n := s.body.Next; n != "" && (cut == "" || n < cut) {
			cut = n
		}
	}
	slices.SortFunc(out.Sessions, func(a, b SessionInfo) int {
		return cmp.Or(strings.Compare(a.Client, b.Client), strings.Compare(a.Node, b.Node))
	})
	if cut != "" {
		out.Sessions = slices.DeleteFunc(out.Sessions, func(s SessionInfo) bool { return s.Client > cut })
	}
	if len(out.Sessions) > q.Limit {
		out.Sessions, cut = out.Sessions[:q.Limit], out.Sessions[q.Limit-1].Client
	}
	out.Next = cut
	return out, nil
}

// find is the detail of a session wherever it is; where only discards are known, those.
func (b *Broker) find(ctx context.Context, id string) (SessionDetail, error) {
	best, err := b.detail(ctx, id)
	if err == nil && !best.NoSession || len(b.others()) == 0 {
		return best, err
	}
	found := err == nil
	var silent []string
	down := b.down()
	for _, s := range askAll[SessionDetail](ctx, b, question{Do: askSession, Client: id}) {
		var e *admin.Error
		_, is := down[s.node]
		switch {
		case is:
		case errors.As(s.err, &e) && e.Status == http.StatusNotFound:
		case s.err != nil:
			silent = append(silent, s.node)
		case !found || best.NoSession && !s.body.NoSession || !best.Connected && s.body.Connected:
			best, found = s.body, true
		}
	}
	if !found || best.NoSession {
		if s, ok := b.savedOf(id); ok {
			return s.detail(ctx, b), nil
		}
	}
	if len(silent) > 0 && (!found || best.NoSession) { // "no" would be a guess
		return best, &admin.Error{Status: http.StatusServiceUnavailable, Hint: "holdfast-broker cluster show",
			Message: "no node that answers has a session of client " + quoted(id) + ", and not heard is: " + strings.Join(silent, ", ")}
	}
	if !found && len(down) > 0 {
		return best, &admin.Error{Status: http.StatusNotFound, Hint: "holdfast-broker session list shows those that are",
			Message: "there is no session of client " + quoted(id) + "; nodes that are down (" + downWords(down) + ") had none that outlives its connection"}
	}
	if !found {
		return best, errNoSession(id)
	}
	return best, nil
}

func quoted(s string) string {
	b, _ := json.Marshal(s) // a string: it cannot fail
	return string(b)
}

// owner is the node that has a session; this one if none has.
func (b *Broker) owner(ctx context.Context, id string) (string, error) {
	if b.sessions.get(id) != nil {
		return b.cfg.Node.Name, nil
	}
	d, err := b.find(ctx, id)
	if err == nil && d.NodeDown != nil { // any node can say what it had saved
		return b.cfg.Node.Name, nil
	}
	if err == nil && !d.NoSession {
		return d.Node, nil
	}
	if e := (*admin.Error)(nil); err == nil || errors.As(err, &e) && e.Status == http.StatusNotFound {
		return b.cfg.Node.Name, nil
	}
	return "", err
}

// ShowSession implements admin.Sessions.
func (c *Console) ShowSession(ctx context.Context, id string) (any, error) {
	d, err := c.b.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// KickSession implements admin.Sessions.
func (c *Console) KickSession(ctx context.Context, id string, forget bool) (any, error) {
	node, err := c.b.owner(ctx, id)
	if err != nil {
		return nil, err
	}
	if s, ok := c.b.savedOf(id); ok && c.b.sessions.get(id) == nil && node == c.b.cfg.Node.Name {
		return s.kick(ctx, c.b, forget)
	}
	if node == c.b.cfg.Node.Name {
		return c.b.kickSession(ctx, id, forget)
	}
	var out SessionKicked
	err = c.b.peers.question(ctx, node, question{Do: askKick, Client: id, Forget: forget}, &out)
	return out, err
}

// Explain implements admin.Sessions: the node that has the client knows best.
func (c *Console) Explain(ctx context.Context, client, topic string) (any, error) {
	if err := checkTopic(topic); err != nil {
		return c.b.explain(ctx, client, topic) // which says what is wrong
	}
	node, err := c.b.owner(ctx, client)
	if err != nil {
		return nil, err
	}
	if node == c.b.cfg.Node.Name {
		return c.b.explain(ctx, client, topic)
	}
	var out Explanation
	err = c.b.peers.question(ctx, node, question{Do: askExplain, Client: client, Topic: topic}, &out)
	return out, err
}
