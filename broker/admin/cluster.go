package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Cluster is the nodes that work together; a node that runs alone is a cluster of one. Any node
// answers for all. Its errors may be *Error.
type Cluster interface {
	ShowCluster(ctx context.Context) (any, error)
	JoinCluster(ctx context.Context, r JoinCluster) (any, error)
	// LeaveCluster takes a node out for good; node "" is the one that is asked.
	LeaveCluster(ctx context.Context, node string, r LeaveCluster) (any, error)
	// DrainNode begins to send a node's clients elsewhere, and returns at once.
	DrainNode(ctx context.Context, node string, r DrainNode) (any, error)
	// ShowDrain says how far it is.
	ShowDrain(ctx context.Context, node string) (any, error)
	// UndrainNode lets a node take clients again.
	UndrainNode(ctx context.Context, node string) (any, error)
}

// JoinCluster is the body of POST /v1/cluster/members.
type JoinCluster struct {
	Address string `json:"address"` // host:port of the node's cluster listener
}

// LeaveCluster is the body of DELETE /v1/cluster/members/{node}.
type LeaveCluster struct {
	Force bool       `json:"force,omitempty"` // the node is dead and will not come back
	Undo  bool       `json:"undo,omitempty"`  // it stays after all, if it is there yet
	Drain *DrainNode `json:"drain,omitempty"` // how its clients are sent away
}

// DrainNode is the body of POST /v1/cluster/members/{node}/drain. What is absent has a default.
type DrainNode struct {
	Rate   int     `json:"rate,omitempty"`         // clients per second
	Wait   *Period `json:"wait,omitempty"`         // between /readyz failing and the first client being sent away
	Server string  `json:"server,omitempty"`       // server reference for MQTT 5 clients
	Moved  bool    `json:"server_moved,omitempty"` // for good: 0x9D instead of 0x9C
}

// Period is a duration that JSON spells "10s".
type Period time.Duration

// MarshalText implements encoding.TextMarshaler.
func (p Period) MarshalText() ([]byte, error) { return []byte(time.Duration(p).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Period) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	*p = Period(d)
	return err
}

func (s *Server) showCluster(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Cluster.ShowCluster(r.Context())
	answer(w, v, err)
}

func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	var in JoinCluster
	err := readBody(r, &in, `send {"address": "10.0.0.4:6222"}`)
	if err == nil && in.Address == "" {
		err = &Error{http.StatusBadRequest, "no address", `send {"address": "10.0.0.4:6222"}: the node's cluster listener`}
	}
	if err != nil {
		fail(w, err)
		return
	}
	detail(r, "address", in.Address)
	v, err := s.o.Cluster.JoinCluster(r.Context(), in)
	answer(w, v, err)
}

func (s *Server) leave(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r, "force", "undo", "rate", "wait", "server")
	force := q.flag("force", &err)
	undo := q.flag("undo", &err)
	drain := DrainNode{Server: q.v.Get("server")}
	if q.v.Get("rate") != "" {
		drain.Rate = q.number("rate", 0, 1<<30, &err)
	}
	if wait := q.v.Get("wait"); wait != "" && err == nil {
		drain.Wait = new(Period)
		if bad := drain.Wait.UnmarshalText([]byte(wait)); bad != nil {
			err = &Error{http.StatusBadRequest, "wait=" + wait, "write a duration, such as 10s"}
		}
	}
	if err != nil {
		fail(w, err)
		return
	}
	v, err := s.o.Cluster.LeaveCluster(r.Context(), nodeOf(r), LeaveCluster{Force: force != nil && *force, Undo: undo != nil && *undo, Drain: &drain})
	answer(w, v, err)
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	var in DrainNode
	if err := readBody(r, &in, `send {"rate": 200, "wait": "10s"}; {} takes the defaults`); err != nil {
		fail(w, err)
		return
	}
	detail(r, "drain", in)
	v, err := s.o.Cluster.DrainNode(r.Context(), nodeOf(r), in)
	answer(w, v, err)
}

func (s *Server) showDrain(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Cluster.ShowDrain(r.Context(), nodeOf(r))
	answer(w, v, err)
}

func (s *Server) undrain(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Cluster.UndrainNode(r.Context(), nodeOf(r))
	answer(w, v, err)
}

// ThisNode stands for the node that is asked, where a path names a node.
const ThisNode = "~"

func nodeOf(r *http.Request) string {
	if node := r.PathValue("node"); node != ThisNode {
		return node
	}
	return ""
}

// readBody reads a JSON body that has no unknown fields.
func readBody(r *http.Request, v any, hint string) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{http.StatusBadRequest, fmt.Sprintf("the body is not what is expected: %v", err), hint}
	}
	if d.More() {
		return &Error{http.StatusBadRequest, "the body goes on behind what is expected", hint}
	}
	return nil
}
