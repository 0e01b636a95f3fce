package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Sessions is the clients' sessions, and what can be learned about one client. In a cluster any
// node answers for all of them. Its errors may be *Error.
type Sessions interface {
	ListSessions(ctx context.Context, q SessionQuery) (any, error)
	ShowSession(ctx context.Context, id string) (any, error)
	// KickSession ends a client's connection; with forget its session too.
	KickSession(ctx context.Context, id string, forget bool) (any, error)
	// TraceClient calls emit for each packet of a client until ctx ends or emit fails; first,
	// once it misses nothing any more, with nil.
	TraceClient(ctx context.Context, id string, emit func(line any) error) error
	// Explain says what becomes of a topic for a client.
	Explain(ctx context.Context, client, topic string) (any, error)
}

// SessionQuery says which sessions to list: in the order of their client ids, a page at a time.
type SessionQuery struct {
	Prefix    string // of the client id
	After     string // client id behind which to begin
	Limit     int    // of a page
	Connected *bool  // only those, or only those away
	Behind    bool   // only those that have not read all of the log
}

// Query is q as the query of a URL.
func (q SessionQuery) Query() url.Values {
	v := url.Values{}
	if q.Prefix != "" {
		v.Set("prefix", q.Prefix)
	}
	if q.After != "" {
		v.Set("after", q.After)
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Connected != nil {
		v.Set("connected", strconv.FormatBool(*q.Connected))
	}
	if q.Behind {
		v.Set("behind", "true")
	}
	return v
}

// Sizes of a page of sessions.
const (
	DefaultPage = 1000
	MaxPage     = 10000
)

// Segment writes a name as the rest of a path: a client id may hold "/" or be "..".
func Segment(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

func (s *Server) showSession(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Sessions.ShowSession(r.Context(), r.PathValue("id"))
	answer(w, v, err)
}

func (s *Server) kickSession(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r, "forget")
	forget := q.flag("forget", &err)
	if err != nil {
		fail(w, err)
		return
	}
	v, err := s.o.Sessions.KickSession(r.Context(), r.PathValue("id"), forget != nil && *forget)
	answer(w, v, err)
}

func (s *Server) trace(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, func(ctx context.Context, emit func(any) error) error {
		return s.o.Sessions.TraceClient(ctx, r.PathValue("id"), emit)
	})
}

func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r, "prefix", "after", "limit", "connected", "behind")
	query := SessionQuery{Prefix: q.v.Get("prefix"), After: q.v.Get("after"), Connected: q.flag("connected", &err)}
	query.Limit = q.number("limit", DefaultPage, MaxPage, &err)
	behind := q.flag("behind", &err)
	query.Behind = behind != nil && *behind
	if err != nil {
		fail(w, err)
		return
	}
	v, err := s.o.Sessions.ListSessions(r.Context(), query)
	answer(w, v, err)
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r, "client", "topic")
	client, topic := q.v.Get("client"), q.v.Get("topic")
	if err == nil && (client == "" || topic == "") {
		err = &Error{http.StatusBadRequest, "client or topic is missing", "ask for /v1/explain?client=ID&topic=TOPIC"}
	}
	if err != nil {
		fail(w, err)
		return
	}
	v, err := s.o.Sessions.Explain(r.Context(), client, topic)
	answer(w, v, err)
}

// query is the query of a request whose names are known.
type query struct{ v url.Values }

// readQuery refuses what is not known: a filter that is misspelt must not list everything.
func readQuery(r *http.Request, known ...string) (query, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{url.Values{}}, &Error{http.StatusBadRequest, "the query cannot be read: " + err.Error(), "escape it as in a URL"}
	}
	for name := range v {
		if !slices.Contains(known, name) {
			return query{v}, &Error{http.StatusBadRequest, fmt.Sprintf("there is no parameter %q here", name), "known are: " + strings.Join(known, ", ")}
		}
	}
	return query{v}, nil
}

// flag reads a boolean; nil: it is not there. A mistake is kept in *err, unless there is one.
func (q query) flag(name string, err *error) *bool {
	s := q.v.Get(name)
	if s == "" {
		return nil
	}
	b, bad := strconv.ParseBool(s)
	if bad != nil && *err == nil {
		*err = &Error{http.StatusBadRequest, fmt.Sprintf("%s=%s", name, s), "write true or false"}
	}
	return &b
}

// number reads a number from 1 to most.
func (q query) number(name string, otherwise, most int, err *error) int {
	s := q.v.Get(name)
	if s == "" {
		return otherwise
	}
	n, bad := strconv.Atoi(s)
	if (bad != nil || n < 1 || n > most) && *err == nil {
		*err = &Error{http.StatusBadRequest, fmt.Sprintf("%s=%s", name, s), fmt.Sprintf("write a number from 1 to %d", most)}
	}
	return n
}
