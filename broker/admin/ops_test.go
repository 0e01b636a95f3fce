package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// ops notes what it is asked.
type ops struct{ asked string }

func (o *ops) note(format string, args ...any) (any, error) {
	o.asked = fmt.Sprintf(format, args...)
	return "ok", nil
}
func (o *ops) ListSessions(_ context.Context, q SessionQuery) (any, error) {
	connected := "any"
	if q.Connected != nil {
		connected = fmt.Sprint(*q.Connected)
	}
	return o.note("list %q %q %d %s %v", q.Prefix, q.After, q.Limit, connected, q.Behind)
}
func (o *ops) ShowSession(_ context.Context, id string) (any, error) { return o.note("show %q", id) }
func (o *ops) KickSession(_ context.Context, id string, forget bool) (any, error) {
	return o.note("kick %q %v", id, forget)
}
func (o *ops) TraceClient(_ context.Context, id string, emit func(any) error) error {
	o.asked = fmt.Sprintf("trace %q", id)
	return errors.Join(emit(nil), emit("line"))
}
func (o *ops) Explain(_ context.Context, client, topic string) (any, error) {
	return o.note("explain %q %q", client, topic)
}
func (o *ops) ShowCluster(context.Context) (any, error) { return o.note("cluster") }
func (o *ops) JoinCluster(_ context.Context, r JoinCluster) (any, error) {
	return o.note("join %q", r.Address)
}
func (o *ops) LeaveCluster(_ context.Context, node string, r LeaveCluster) (any, error) {
	return o.note("leave %q %v", node, r.Force)
}
func (o *ops) DrainNode(_ context.Context, node string, r DrainNode) (any, error) {
	wait := time.Duration(-1)
	if r.Wait != nil {
		wait = time.Duration(*r.Wait)
	}
	return o.note("drain %q %d %v %q %v", node, r.Rate, wait, r.Server, r.Moved)
}
func (o *ops) ShowDrain(_ context.Context, node string) (any, error) {
	return o.note("show drain %q", node)
}
func (o *ops) UndrainNode(_ context.Context, node string) (any, error) {
	return o.note("undrain %q", node)
}

func opsHandler(t *testing.T) (*ops, http.Handler) {
	t.Helper()
	o := &ops{}
	return o, asAdmin(New(Options{Health: &fake{}, Sessions: o, Cluster: o, Metrics: http.NotFoundHandler()}).Handler())
}

func ask(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w
}

func TestOperationRequests(t *testing.T) {
	o, h := opsHandler(t)
	yes := true
	for _, c := range []struct{ method, target, body, want string }{
		{"GET", "/v1/sessions", "", `list "" "" 1000 any false`},
		{"GET", "/v1/sessions?" + SessionQuery{Prefix: "a&b", After: "x=", Limit: 7, Connected: &yes, Behind: true}.Query().Encode(), "", `list "a&b" "x=" 7 true true`},
		{"GET", "/v1/sessions/c1", "", `show "c1"`},
		{"DELETE", "/v1/sessions/c1", "", `kick "c1" false`},
		{"DELETE", "/v1/sessions/c1?forget=true", "", `kick "c1" true`},
		{"GET", "/v1/trace/c1", "", `trace "c1"`},
		{"GET", "/v1/explain?client=c&topic=a%2Fb", "", `explain "c" "a/b"`},
		{"GET", "/v1/cluster", "", "cluster"},
		{"POST", "/v1/cluster/members", `{"address": "h:1"}`, `join "h:1"`},
		{"DELETE", "/v1/cluster/members/n2?force=1", "", `leave "n2" true`},
		{"DELETE", "/v1/cluster/members/" + ThisNode, "", `leave "" false`},
		{"POST", "/v1/cluster/members/n2/drain", `{}`, `drain "n2" 0 -1ns "" false`},
		{"POST", "/v1/cluster/members/~/drain", `{"rate": 5, "wait": "2s", "server": "b:1", "server_moved": true}`, `drain "" 5 2s "b:1" true`},
		{"GET", "/v1/cluster/members/n2/drain", "", `show drain "n2"`},
		{"DELETE", "/v1/cluster/members/n2/drain", "", `undrain "n2"`},
	} {
		if w := ask(h, c.method, c.target, c.body); w.Code != 200 || o.asked != c.want {
			t.Errorf("%s %s: %d %s: %s, want %s", c.method, c.target, w.Code, w.Body, o.asked, c.want)
		}
	}
}

// TestAnyClientIDHasAPath: what a client may call itself comes through a path whole.
func TestAnyClientIDHasAPath(t *testing.T) {
	o, h := opsHandler(t)
	for _, id := range []string{".", "..", "...", "a/b", "/", "//", "a/../b", "%2F", "?x=1", "#", " ", "ü", "a b", "+", "~", `"`, "trace", strings.Repeat("x", 5000)} {
		for prefix, want := range map[string]string{"/v1/sessions/": "show %q", "/v1/trace/": "trace %q"} {
			o.asked = ""
			if w := ask(h, "GET", prefix+Segment(id), ""); w.Code != 200 || o.asked != fmt.Sprintf(want, id) {
				t.Errorf("%.20q: %d, %.50s", id, w.Code, o.asked)
			}
		}
	}
}

// TestOperationGarbage: what is not understood is said, and nothing is done.
func TestOperationGarbage(t *testing.T) {
	o, h := opsHandler(t)
	for _, c := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/v1/sessions?prefx=a", "", 400},
		{"GET", "/v1/sessions?limit=0", "", 400},
		{"GET", "/v1/sessions?limit=99999999999999999999", "", 400},
		{"GET", "/v1/sessions?connected=perhaps", "", 400},
		{"GET", "/v1/sessions?behind=%zz", "", 400},
		{"DELETE", "/v1/sessions/c?forget=yes", "", 400},
		{"DELETE", "/v1/sessions/c?foget=true", "", 400},
		{"GET", "/v1/explain?client=c", "", 400},
		{"GET", "/v1/explain", "", 400},
		{"GET", "/v1/explain?client=c&topic=t&user=u", "", 400},
		{"POST", "/v1/cluster/members", "", 400},
		{"POST", "/v1/cluster/members", `{"address": ""}`, 400},
		{"POST", "/v1/cluster/members", `{"adress": "x"}`, 400},
		{"POST", "/v1/cluster/members", `{"address": "x"} {"address": "y"}`, 400},
		{"DELETE", "/v1/cluster/members/n?force=maybe", "", 400},
		{"POST", "/v1/cluster/members/n/drain", `{"rate": "fast"}`, 400},
		{"POST", "/v1/cluster/members/n/drain", `{"wait": "soon"}`, 400},
		{"POST", "/v1/cluster/members/n/drain", `{"wait": 5}`, 400},
		{"POST", "/v1/cluster/members/n/drain", `[]`, 400},
		{"POST", "/v1/cluster/members/n/drain", `{`, 400},
		{"PUT", "/v1/sessions/c", "", 404},
		{"GET", "/v1/cluster/members/a/b/drain", "", 404},
	} {
		o.asked = ""
		w := ask(h, c.method, c.target, c.body)
		var e Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != c.status || e.Message == "" || e.Hint == "" {
			t.Errorf("%s %s %s: %d %s", c.method, c.target, c.body, w.Code, w.Body)
		}
		if o.asked != "" {
			t.Errorf("%s %s did something: %s", c.method, c.target, o.asked)
		}
	}
}

// FuzzRequests: no request makes a handler panic, and every answer of /v1 is JSON.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/v1/sessions?limit=5", "")
	f.Add("DELETE", "/v1/sessions/a%2Fb?forget=true", "")
	f.Add("POST", "/v1/cluster/members/n1/drain", `{"rate": 5, "wait": "1s"}`)
	f.Add("POST", "/v1/cluster/members", `{"address": "x"}`)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		if !strings.HasPrefix(target, "/v1/") {
			return
		}
		r, err := http.NewRequest(method, target, strings.NewReader(body))
		if err != nil || strings.HasPrefix(target, "/v1/devices") || strings.HasPrefix(target, "/v1/ledger") || strings.HasPrefix(target, "/v1/tail") {
			return
		}
		_, h := opsHandler(t)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code < 300 || w.Code >= 400 { // a path that is not clean is redirected
			if err := json.NewDecoder(w.Body).Decode(new(any)); err != nil {
				t.Errorf("%s %s: %d, not JSON: %v", method, target, w.Code, err)
			}
		}
	})
}
