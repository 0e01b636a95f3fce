package admin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"sync"
)

// A change is written down before it is made, and again with its result: one whose end a crash has taken is there as
// "begun". What cannot be written down is not done.

// details is what a handler adds to the line of its change.
type details struct {
	mu sync.Mutex
	m  map[string]any
}

type detailsKey struct{}

// detail notes what a change is about, beside its path: never a secret.
func detail(r *http.Request, key string, value any) {
	d, _ := r.Context().Value(detailsKey{}).(*details)
	if d == nil {
		return
	}
	if text, err := json.Marshal(value); err != nil || len(text) > maxDetail {
		value = cut(string(text))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.m[key] = value
}

// maxDetail bounds what somebody can write into a line of the audit log; the longest line has a few of them, escaped.
const maxDetail = 1 << 10

func cut(s string) string {
	if len(s) <= maxDetail {
		return s
	}
	return s[:maxDetail] + "…"
}

func (d *details) all() map[string]any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.m)
}

func entryOf(who Who, rt route, r *http.Request) AuditEntry {
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	target := r.URL.RequestURI()
	return AuditEntry{ID: hex.EncodeToString(id[:]), Who: who.Name, Role: who.Role, From: who.From, What: rt.pattern, Target: cut(target)}
}

// refusedChange writes down what somebody tried who may not.
func (s *Server) refusedChange(who Who, rt route, r *http.Request, err *Error) {
	if s.o.Audit == nil {
		return
	}
	e := entryOf(who, rt, r)
	e.Result, e.Status, e.Error = AuditRefused, err.Status, err.Message
	if err := s.o.Audit.Write(e); err != nil {
		s.o.Log.Error("a refused change is not in the audit log", "who", who.Name, "what", rt.pattern, "err", err)
	}
}

// change makes a change between its two lines.
func (s *Server) change(w http.ResponseWriter, r *http.Request, who Who, rt route) {
	if s.o.Audit == nil {
		rt.serve(w, r)
		return
	}
	e := entryOf(who, rt, r)
	e.Result = AuditBegun
	if err := s.o.Audit.Write(e); err != nil {
		s.o.Log.Error("a change is refused because it cannot be written down", "who", who.Name, "what", rt.pattern, "err", err)
		fail(w, &Error{http.StatusServiceUnavailable, err.Error(), "what cannot be written down is not done: make room on the disk of data_dir"})
		return
	}
	d := &details{m: map[string]any{}}
	answered := &statusWriter{ResponseWriter: w}
	rt.serve(answered, r.WithContext(context.WithValue(r.Context(), detailsKey{}, d)))
	e.Result, e.Status, e.Details = AuditDone, answered.status, d.all()
	if e.Status >= http.StatusBadRequest {
		e.Result, e.Error = AuditFailed, cut(answered.failure)
	}
	if err := s.o.Audit.Write(e); err != nil {
		s.o.Log.Error("how a change ended is not in the audit log", "who", who.Name, "what", rt.pattern, "status", e.Status, "err", err)
	}
}

// statusWriter notes what was answered.
type statusWriter struct {
	http.ResponseWriter
	status  int
	failure string // the error of the answer
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// failed notes the error that is answered.
func failed(w http.ResponseWriter, e *Error) {
	if s, is := w.(*statusWriter); is {
		s.failure = e.Error()
	}
}

// audit answers the newest lines.
func (s *Server) audit(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r, "limit")
	limit := q.number("limit", 100, maxAudit, &err)
	if err == nil && s.o.Audit == nil {
		err = &Error{http.StatusNotImplemented, "this node keeps no audit log", ""}
	}
	if err != nil {
		fail(w, err)
		return
	}
	lines, err := s.o.Audit.Last(limit)
	if lines == nil {
		lines = []AuditEntry{}
	}
	answer(w, lines, err)
}

// maxAudit is how many lines are answered at most.
const maxAudit = 10000
