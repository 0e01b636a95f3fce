package admin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// holders has one token per role, whose secret is the role's name.
type holders struct{ removed string }

func (h *holders) FindToken(sum [sha256.Size]byte) (APIToken, bool) {
	for _, r := range Roles {
		if sha256.Sum256([]byte(r)) == sum {
			return APIToken{Name: string(r) + "-1", Role: r}, true
		}
	}
	return APIToken{}, false
}
func (h *holders) ListTokens() (any, error) { return []APIToken{}, nil }
func (h *holders) AddToken(_ context.Context, r AddToken, _ string) (any, error) {
	return NewToken{APIToken: APIToken{Name: r.Name, Role: Role(r.Role)}, Secret: "hfb_secret"}, nil
}
func (h *holders) RemoveToken(_ context.Context, name string) (any, error) {
	h.removed = name
	return name, nil
}

// everything answers every request of the table.
func everything(t *testing.T) (*Server, *AuditLog) {
	t.Helper()
	a, err := OpenAudit(t.TempDir(), "n1", time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	f, o := &fake{lines: make(chan any), tailing: make(chan string, maxTails)}, &ops{}
	return New(Options{Health: f, Devices: f, Ledger: f, Tail: f, Sessions: o, Cluster: o, Tokens: &holders{}, Enrol: f, Audit: a,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {})}), a
}

// example is a request that a pattern matches.
func example(pattern string) *http.Request {
	method, path, _ := strings.Cut(pattern, " ")
	path = regexp.MustCompile(`\{[^}$]*\}`).ReplaceAllString(strings.TrimSuffix(path, "{$}"), "x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a tail ends at once
	return httptest.NewRequestWithContext(ctx, method, path, strings.NewReader("{}"))
}

// TestRoles: each request of the table wants its role and not more; one without an author gets nothing.
func TestRoles(t *testing.T) {
	s, _ := everything(t)
	h := s.Handler()
	for _, rt := range s.routes() {
		if rt.role == "" && strings.Contains(rt.pattern, "/v1/") {
			t.Errorf("%s asks for no role", rt.pattern)
		}
		if method, _, _ := strings.Cut(rt.pattern, " "); method != http.MethodGet && !rt.audited {
			t.Errorf("%s changes something and is not in the audit log", rt.pattern)
		}
		for _, role := range append([]Role{""}, Roles...) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, as(example(rt.pattern), Who{Name: "t", Role: role}))
			may := rt.role == "" || role.allows(rt.role)
			if refused := w.Code == http.StatusForbidden; refused == may {
				t.Errorf("%s as %q: %d %s", rt.pattern, role, w.Code, w.Body)
			}
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, example(rt.pattern)); rt.role != "" && w.Code != http.StatusForbidden {
			t.Errorf("%s without an author: %d", rt.pattern, w.Code)
		}
	}
}

// TestNoOtherWayIn: nothing is handed to the mux but what the table has.
func TestNoOtherWayIn(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, is := n.(*ast.CallExpr)
			if !is {
				return true
			}
			if sel, is := call.Fun.(*ast.SelectorExpr); is && (sel.Sel.Name == "HandleFunc" || sel.Sel.Name == "Handle") {
				found = append(found, file)
			}
			return true
		})
	}
	if !slices.Equal(found, []string{"routes.go", "routes.go"}) {
		t.Errorf("handlers are registered in %q; all belong into the table of routes.go", found)
	}
}

// TestDocumented: docs/BROKER.md has every request with its role.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/BROKER.md")
	if err != nil {
		t.Fatal(err)
	}
	s, _ := everything(t)
	for _, rt := range s.routes() {
		role := string(rt.role)
		if role == "" {
			role = "–"
		}
		if want := fmt.Sprintf("| `%s` | %s |", strings.ReplaceAll(rt.pattern, "{$}", ""), role); !strings.Contains(string(doc), want) {
			t.Errorf("docs/BROKER.md has no line that begins %s", want)
		}
	}
}

// TestTokensLetIn: over TCP each token has its role, the file's is an administrator's, and so is who comes by the socket.
func TestTokensLetIn(t *testing.T) {
	s, audit := everything(t)
	h, err := NewHost(testToken, func() string { return "" }, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Show(t.Context(), s)
	for token, want := range map[string]string{"": "401", "nobody": "401", "viewer": "403", "operator": "403", "admin": "token admin-1", testToken: TokenFile} {
		r := httptest.NewRequest("DELETE", "http://127.0.0.1/v1/tokens/x", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.guard(h).ServeHTTP(w, r)
		got := fmt.Sprint(w.Code)
		if w.Code == http.StatusOK {
			lines, err := audit.Last(1)
			if err != nil || len(lines) != 1 {
				t.Fatal(lines, err)
			}
			got = lines[0].Who
		}
		if got != want {
			t.Errorf("token %q: %s, want %s", token, got, want)
		}
	}
	if h.Strangers() != 2 {
		t.Errorf("%d strangers", h.Strangers())
	}
	dir := t.TempDir()
	l, err := ListenUnix(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, nil, l) }()
	if err := client(t, "unix:"+filepath.Join(dir, SocketFile), "").Delete(t.Context(), "/v1/tokens/y", new(any)); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	lines, err := audit.Last(1)
	if want := fmt.Sprintf("uid %d", os.Getuid()); err != nil || len(lines) != 1 || lines[0].Who != want || lines[0].From != "socket" {
		t.Errorf("%+v, %v; want %s", lines, err, want)
	}
}

// TestChangesAreWrittenDown: before and after, with the result, and without the secret.
func TestChangesAreWrittenDown(t *testing.T) {
	s, audit := everything(t)
	h := s.Handler()
	who := Who{"token ann", RoleOperator, "192.0.2.1:5"}
	ask := func(method, target, body string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, as(httptest.NewRequest(method, target, strings.NewReader(body)), who))
		return w.Code
	}
	ask("POST", "/v1/devices", `{"gateway": "gw-1", "key": "-----very secret-----", "pending": true}`)
	ask("DELETE", "/v1/devices/gw-1", "")
	ask("DELETE", "/v1/sessions/c1?forget=perhaps", "")
	ask("GET", "/v1/sessions", "")
	defer func() { // nobody writes a line that cannot be read back
		long := strings.Repeat("\x00", 100<<10)
		body, err := json.Marshal(AddDevice{Gateway: long, Epochs: []string{long, long}})
		if err != nil {
			t.Fatal(err)
		}
		ask("POST", "/v1/devices", string(body))
		ask("DELETE", "/v1/sessions/"+strings.Repeat("%00", 60<<10), "")
		lines, err := audit.Last(1)
		if err != nil || len(lines) != 1 || !strings.HasPrefix(lines[0].Target, "/v1/sessions/") || lines[0].Result != AuditDone {
			t.Errorf("%.300v, %v", lines, err)
		}
	}()
	lines, err := audit.Last(100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		if l.Who != who.Name || l.From != who.From || l.Role != who.Role || l.Node != "n1" || l.ID == "" || l.Time.IsZero() {
			t.Errorf("%+v", l)
		}
		got = append(got, fmt.Sprintf("%s %s %d %v", l.What, l.Result, l.Status, l.Details["gateway"]))
	}
	want := []string{"POST /v1/devices begun 0 <nil>", "POST /v1/devices done 200 gw-1", "DELETE /v1/devices/{gateway} refused 403 <nil>",
		"DELETE /v1/sessions/{id...} begun 0 <nil>", "DELETE /v1/sessions/{id...} failed 400 <nil>"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if lines[0].ID != lines[1].ID || lines[1].Details["pending"] != true || lines[4].Error == "" || lines[4].Target != "/v1/sessions/c1?forget=perhaps" {
		t.Errorf("%+v", lines)
	}
	data, err := os.ReadFile(audit.path(0))
	if err != nil || strings.Contains(string(data), "secret") {
		t.Errorf("%s, %v", data, err)
	}
}

// TestWhatCannotBeWrittenDown is not done.
func TestWhatCannotBeWrittenDown(t *testing.T) {
	s, audit := everything(t)
	if err := audit.Close(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, as(httptest.NewRequest("DELETE", "/v1/tokens/x", nil), Who{"t", RoleAdmin, ""}))
	if w.Code != http.StatusServiceUnavailable || s.o.Tokens.(*holders).removed != "" {
		t.Errorf("%d %s, removed %q", w.Code, w.Body, s.o.Tokens.(*holders).removed)
	}
}

// TestAuditRotates: the files have a bound, the newest lines are there, and a torn line harms none but itself.
func TestAuditRotates(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1e9, 0)
	a, err := OpenAudit(dir, "n1", func() time.Time { return now }, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.limit = 4096
	for i := range 200 {
		if err := a.Write(AuditEntry{ID: fmt.Sprint(i), What: "x", Result: AuditDone}); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := a.Last(50)
	if err != nil || len(lines) != 50 || lines[49].ID != "199" || lines[0].ID != "150" {
		t.Errorf("%d lines, %v: %+v", len(lines), err, lines)
	}
	all, err := filepath.Glob(filepath.Join(dir, AuditFile+"*"))
	if err != nil || len(all) != auditFiles {
		t.Errorf("%q, %v", all, err)
	}
	for _, f := range all {
		if info, err := os.Stat(f); err != nil || info.Size() > a.limit || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, AuditFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"id": "torn`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if a, err = OpenAudit(dir, "n1", func() time.Time { return now }, nil); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Write(AuditEntry{ID: "whole", Result: AuditDone}); err != nil {
		t.Fatal(err)
	}
	lines, err = a.Last(3)
	if err != nil || len(lines) != 3 || lines[0].ID != "199" || lines[1].Error == "" || lines[2].ID != "whole" {
		t.Errorf("%+v, %v", lines, err)
	}
	if _, err := readAudit(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzAuditLine: whatever stands in the file, it is shown or named.
func FuzzAuditLine(f *testing.F) {
	f.Add([]byte(`{"id":"1","what":"x","result":"done"}`))
	f.Add([]byte(`{"details":{"a":[1,{"b":null}]},"time":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"time":5}`))
	f.Fuzz(func(t *testing.T, line []byte) { parseAudit(line) })
}

// TestPeerOfTCP: only a socket has a user.
func TestPeerOfTCP(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := peerOf(a); got != "" {
		t.Errorf("%q", got)
	}
}
