package auth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// handler is a server of users whose answers a test sets.
type handler struct {
	answer atomic.Pointer[func(w http.ResponseWriter, q map[string]any)]
	asked  atomic.Int64
	mu     sync.Mutex
	heads  []http.Header
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.asked.Add(1)
	var q map[string]any
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.heads = append(h.heads, r.Header)
	h.mu.Unlock()
	(*h.answer.Load())(w, q)
}

func (h *handler) says(text string) {
	f := func(w http.ResponseWriter, _ map[string]any) { _, _ = io.WriteString(w, text) }
	h.answer.Store(&f)
}

func httpServer(t testing.TB) (*handler, *httptest.Server) {
	h := &handler{}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return h, s
}

func TestHTTP(t *testing.T) {
	h, server := httpServer(t)
	env, log := sourceEnv(t)
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "t0ken\n")
	s := openSource(t, "http", fmt.Sprintf("url = %q\ntoken_file = %q\nmax_ttl = \"10m\"", server.URL+"/mqtt", token), env)
	var question map[string]any
	f := func(w http.ResponseWriter, q map[string]any) {
		question = q
		_, _ = io.WriteString(w, `{"result":"allow","ttl":3600,"until":"2030-01-02T03:04:05Z","rules":[
			{"access":"publish","filter":"a/%c/#","max_qos":1,"retain":false},{"allow":false,"access":"both","filter":"b","literal":true},{"access":"subscribe","filter":"c"}]}`)
	}
	h.answer.Store(&f)
	c := who("c1", "u1", "192.0.2.7")
	c.Password, c.Listener = []byte("s3cret"), "mqtt"
	a, _, err := check(t, s, c)
	if err != nil || a.Decision != Allow || a.Password != nil || a.TTL != 10*time.Minute || !a.Until.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Fatalf("%+v %v", a, err)
	}
	var rules []string
	for _, r := range a.Rules {
		rules = append(rules, r.String())
	}
	if got := strings.Join(rules, ", "); got != `allow publish "a/%c/#", QoS at most 1, no retain, deny publish and subscribe eq "b", allow subscribe "c"` {
		t.Error(got)
	}
	if got := fmt.Sprint(question); got != "map[address:192.0.2.7 client_id:c1 listener:mqtt password:s3cret username:u1]" || h.heads[0].Get("Authorization") != "Bearer t0ken" {
		t.Error(got, h.heads)
	}
	c.Password = []byte("\xff\xfe")
	if _, _, err := check(t, s, c); err != nil || question["password"] != nil || question["password_base64"] != "//4=" {
		t.Error(question, err)
	}
	c.Password, c.Certificate = nil, newCA(t, "CA").leaf(t, "gw-1", nil)
	if _, _, err := check(t, s, c); err != nil || question["password"] != nil || question["certificate"].(map[string]any)["common_name"] != "gw-1" {
		t.Error(question, err)
	}
	h.says(`{"result":"deny","reason":"blocked","forbidden":true}`)
	if a, _, err := check(t, s, c); err != nil || a.Decision != Deny || a.Reason != "blocked" || !a.Forbidden {
		t.Error(a, err)
	}
	h.says(`{"result":"ignore"}`)
	if a, _, err := check(t, s, c); err != nil || a.Decision != NotMine {
		t.Error(a, err)
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Error(log)
	}
}

// answersNotTaken: nothing of that is an allow.
var answersNotTaken = map[string]string{
	``: "is not what docs", `hello`: "is not what docs", `[]`: "is not what docs", `{}`: `its result is ""`, `{"result":"yes"}`: `its result is "yes"`, `{"result":true}`: "is not what docs",
	`{"result":"allow"}{"result":"deny"}`: "goes on", `{"result":"allow","superusr":true}`: "superusr", `{"result":"allow","ttl":-1}`: "ttl", `{"result":"allow","until":"soon"}`: "is not what docs",
	`{"result":"allow","rules":[{"access":"pub","filter":"a"}]}`:                 `rules[0]: access is "pub"`,
	`{"result":"allow","rules":[{"access":"publish","filter":"a/#/b"}]}`:         "rules[0]: ",
	`{"result":"allow","rules":[{"access":"publish","filter":"a","max_qos":3}]}`: "rules[0]: QoS 3",
	`{"result":"allow","rules":[{"access":"publish"}]}`:                          "rules[0]: ",
}

func TestHTTPAnswersNotTaken(t *testing.T) {
	h, server := httpServer(t)
	env, _ := sourceEnv(t)
	s := openSource(t, "http", fmt.Sprintf("url = %q\nbreak_after = 1000", server.URL), env)
	for text, want := range answersNotTaken {
		h.says(text)
		if a, _, err := check(t, s, who("c", "u", "")); err == nil || a.Decision == Allow || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), server.URL) {
			t.Errorf("%s: %+v %v", text, a, err)
		}
	}
	for _, f := range []func(w http.ResponseWriter, q map[string]any){
		func(w http.ResponseWriter, _ map[string]any) { w.WriteHeader(http.StatusNoContent) },
		func(w http.ResponseWriter, _ map[string]any) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"result":"allow"}`)
		},
		func(w http.ResponseWriter, _ map[string]any) {
			w.Header().Set("Location", server.URL+"/other")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		func(w http.ResponseWriter, _ map[string]any) {
			_, _ = io.WriteString(w, `{"result":"allow","reason":"`+strings.Repeat("x", 2<<20)+`"}`)
		},
		func(w http.ResponseWriter, _ map[string]any) { panic(http.ErrAbortHandler) },
	} {
		h.answer.Store(&f)
		if a, _, err := check(t, s, who("c", "u", "")); err == nil || a.Decision == Allow {
			t.Errorf("%+v %v", a, err)
		}
	}
}

func FuzzHTTPAnswer(f *testing.F) {
	for text := range answersNotTaken {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"result":"allow","ttl":1e3,"until":"2030-01-02T03:04:05Z","superuser":true,"rules":[{"access":"publish","filter":"a/%c/#","max_qos":1,"retain":false,"allow":true,"literal":false}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseHTTPAnswer(data, time.Hour)
		if err != nil && a.Decision != NotMine || a.TTL < 0 || a.TTL > time.Hour {
			t.Errorf("%+v %v", a, err)
		}
		for _, r := range a.Rules {
			if err := r.Check(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestBreaker: a server that fails is left alone, tried once after the pause, and asked again when it is well.
func TestBreaker(t *testing.T) {
	now := time.Duration(0)
	b := &breaker{failures: 2, pause: time.Second, now: func() time.Duration { return now }}
	failed := fmt.Errorf("failed")
	step := func(what string, may bool) {
		t.Helper()
		if err := b.allow(); (err == nil) != may {
			t.Errorf("%s: %v", what, err)
		}
	}
	step("new", true)
	b.done(failed)
	step("after one failure", true)
	b.done(fmt.Errorf("the client went away: %w", context.Canceled))
	step("after a client that went away", true)
	b.done(failed)
	step("after two failures", false)
	now += time.Second
	step("after the pause", true)
	step("beside the one that tries", false)
	b.done(failed)
	step("it failed again", false)
	now += time.Second
	step("after another pause", true)
	b.done(nil)
	step("it is well", true)
	step("for all", true)
}

// TestHTTPComesAndGoes: hanging, dead and back; the breaker spares the clients the wait, and the server the questions.
func TestHTTPComesAndGoes(t *testing.T) {
	h, server := httpServer(t)
	env, _ := sourceEnv(t)
	var clock atomic.Int64
	env.Now = func() time.Duration { return time.Duration(clock.Load()) }
	s := openSource(t, "http", fmt.Sprintf("url = %q\nbreak_after = 2\nbreaker_pause = \"5s\"", server.URL), env)
	hang := make(chan struct{})
	f := func(http.ResponseWriter, map[string]any) { <-hang }
	h.answer.Store(&f)
	c := who("c", "u", "")
	for range 2 {
		if _, err := checkWithin(t, s, c, shortly); err == nil || !strings.Contains(err.Error(), "no answer in time") {
			t.Error(err)
		}
	}
	before := h.asked.Load()
	if _, err := checkWithin(t, s, c, patience); err == nil || !strings.Contains(err.Error(), "not asked: it has failed 2 times") {
		t.Error(err)
	}
	if n := h.asked.Load(); n != before {
		t.Errorf("it was asked %d times all the same", n-before)
	}
	close(hang)
	h.says(`{"result":"allow"}`)
	clock.Add(int64(5 * time.Second))
	if a, err := checkWithin(t, s, c, patience); err != nil || a.Decision != Allow {
		t.Error(a, err)
	}
}

// TestHTTPConcurrency: no more questions at a time than configured.
func TestHTTPConcurrency(t *testing.T) {
	h, server := httpServer(t)
	env, _ := sourceEnv(t)
	s := openSource(t, "http", fmt.Sprintf("url = %q\nconcurrency = 3", server.URL), env)
	var at, most atomic.Int64
	f := func(w http.ResponseWriter, _ map[string]any) {
		n := at.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		at.Add(-1)
		_, _ = io.WriteString(w, `{"result":"allow"}`)
	}
	h.answer.Store(&f)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if a, err := checkWithin(t, s, who(fmt.Sprint(i), "u", ""), patience); err != nil || a.Decision != Allow {
				t.Error(a, err)
			}
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d at a time", most.Load())
	}
}

func TestHTTPS(t *testing.T) {
	h := &handler{}
	h.says(`{"result":"allow"}`)
	server := httptest.NewUnstartedServer(h)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	env, _ := sourceEnv(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	s := openSource(t, "http", fmt.Sprintf("url = %q\nca_file = %q", server.URL, ca), env)
	if a, _, err := check(t, s, who("c", "u", "")); err != nil || a.Decision != Allow {
		t.Error(a, err)
	}
	s = openSource(t, "http", fmt.Sprintf("url = %q", server.URL), env)
	if _, _, err := check(t, s, who("c", "u", "")); err == nil || !strings.Contains(err.Error(), "set ca_file") {
		t.Error(err)
	}
	for text, want := range map[string]string{
		``: "url: is missing", `url = "users"`: "url: is not such as", `url = "http://u:p@h/"`: "has a password in it", `url = "http://users.example/"`: "use https",
		"url = \"https://h/\"\nconcurrency = 0": "concurrency", "url = \"https://h/\"\nbreak_after = 0": "break_after", "url = \"https://h/\"\nbreaker_pause = \"1ms\"": "too short",
		"url = \"https://h/\"\nca_file = \"/does/not/exist\"": "/does/not/exist", "url = \"https://h/\"\ntoken_file = \"/does/not/exist\"": "token_file",
	} {
		if got := problems("http", text, env); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}
