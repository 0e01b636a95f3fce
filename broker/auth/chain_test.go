package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// told is a source that says what a test wants.
type told struct {
	check   func(ctx context.Context, c *Client) (Answer, error)
	refresh func(ctx context.Context, c *Client) (Answer, error)
	closed  atomic.Bool
}

func (s *told) Check(ctx context.Context, c *Client) (Answer, error) { return s.check(ctx, c) }
func (s *told) Refresh(ctx context.Context, c *Client) (Answer, error) {
	if c.Password != nil {
		return Answer{}, errors.New("a password was kept")
	}
	return s.refresh(ctx, c)
}
func (s *told) Close() error { s.closed.Store(true); return nil }

func chainOf(t *testing.T, c *clock, links ...Link) *Chain {
	t.Helper()
	for i := range links {
		if links[i].Timeout == 0 {
			links[i].Timeout = patience
		}
	}
	return NewChain(links, testEnv(t, c), func(string) {})
}

func source(label string, s *told) Link {
	return Link{Label: label, Open: func(Env) Source { return s }}
}

func always(a Answer, err error) func(context.Context, *Client) (Answer, error) {
	return func(context.Context, *Client) (Answer, error) { return a, err }
}

func plain(password string) *Password {
	return &Password{Stored: password, Verify: func(p []byte) bool { return string(p) == password }}
}

// TestChainOrder: who decides, whose rules count, and that an error is never an allow.
func TestChainOrder(t *testing.T) {
	allow := Answer{Decision: Allow, Rules: []Rule{{Allow: true, Access: Publish, Filter: "a", MaxQoS: 2}}}
	rulesOnly := source("acl", &told{check: always(Answer{Rules: []Rule{{Access: Publish, Filter: "a"}}}, nil)})
	rulesOnly.Kind.RulesOnly = true
	broken := errors.New("connection refused")
	for _, c := range []struct {
		name  string
		links []Link
		is    error // nil: let in
		may   bool  // publish to a
	}{
		{"nobody knows it", []Link{source("1", &told{check: always(Answer{}, nil)})}, ErrCredentials, false},
		{"the second knows it", []Link{source("1", &told{check: always(Answer{}, nil)}), source("2", &told{check: always(allow, nil)})}, nil, true},
		{"the first denies", []Link{source("1", &told{check: always(Answer{Decision: Deny}, nil)}), source("2", &told{check: always(allow, nil)})}, ErrCredentials, false},
		{"it may not", []Link{source("1", &told{check: always(Answer{Decision: Deny, Forbidden: true}, nil)})}, ErrForbidden, false},
		{"the first fails", []Link{source("1", &told{check: always(allow, broken)}), source("2", &told{check: always(allow, nil)})}, ErrUnavailable, false},
		{"the second fails, and is not asked", []Link{source("1", &told{check: always(allow, nil)}), source("2", &told{check: always(Answer{}, broken)})}, nil, true},
		{"rules before", []Link{rulesOnly, source("1", &told{check: always(allow, nil)})}, nil, false},
		{"rules behind", []Link{source("1", &told{check: always(allow, nil)}), rulesOnly}, nil, true},
		{"rules alone", []Link{rulesOnly}, ErrCredentials, false},
		{"an answer that has ended", []Link{source("1", &told{check: always(Answer{Decision: Allow, Until: time.Date(2026, 5, 6, 7, 8, 8, 0, time.UTC)}, nil)})}, ErrCredentials, false},
		{"a wrong password", []Link{source("1", &told{check: always(Answer{Decision: Allow, Password: plain("other")}, nil)})}, ErrCredentials, false},
		{"forbidden, and a wrong password", []Link{source("1", &told{check: always(Answer{Decision: Deny, Forbidden: true, Password: plain("other")}, nil)})}, ErrCredentials, false},
		{"a right password", []Link{source("1", &told{check: always(Answer{Decision: Allow, Password: plain("secret")}, nil)})}, nil, false},
		{"no rules", []Link{source("1", &told{check: always(Answer{Decision: Allow}, nil)})}, nil, false},
		{"a superuser", []Link{source("1", &told{check: always(Answer{Decision: Allow, Superuser: true}, nil)})}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch := chainOf(t, &clock{}, c.links...)
			g, err := ch.Admit(t.Context(), &Client{ID: "c", Username: "u", Password: []byte("secret")})
			var no *Refusal
			if !errors.Is(err, c.is) || err != nil && !errors.As(err, &no) || (err == nil) != (g != nil) {
				t.Fatalf("%v, %v", g, err)
			}
			if g != nil && g.MayPublish("a", 1, false).Allowed != c.may {
				t.Errorf("it may publish: %v", !c.may)
			}
			if g == nil && (&Grant{}).MayPublish("a", 0, false).Allowed {
				t.Error("a grant of nobody allows something")
			}
		})
	}
}

// TestTimeout: a source that does not answer costs its time and no more, and lets nobody in.
func TestTimeout(t *testing.T) {
	l := source("slow", &told{check: func(ctx context.Context, _ *Client) (Answer, error) {
		<-ctx.Done()
		return Answer{Decision: Allow}, ctx.Err()
	}})
	l.Timeout = time.Millisecond
	ch := chainOf(t, &clock{}, l)
	if _, err := ch.Admit(t.Context(), &Client{ID: "c"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if n := ch.Counts()[0]; n.Failed != 1 || n.Asked != 1 {
		t.Errorf("%+v", n)
	}
}

// TestLastKnown: who was let in lately and says the same is let in while its source is away; nobody else is.
func TestLastKnown(t *testing.T) {
	var down atomic.Bool
	c := &clock{}
	s := &told{check: func(_ context.Context, c *Client) (Answer, error) {
		if down.Load() {
			return Answer{}, errors.New("away")
		}
		return Answer{Decision: Allow, Password: plain("secret")}, nil
	}}
	l := source("s", s)
	l.OnError, l.LastKnown = OnErrorLastKnown, time.Hour
	ch := chainOf(t, c, l)
	client := func(password string) *Client {
		return &Client{ID: "c", Username: "u", Password: []byte(password), Addr: mustAddr(t, "10.0.0.1:1")}
	}
	admit := func(what string, cl *Client, want error) {
		t.Helper()
		if _, err := ch.Admit(t.Context(), cl); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	admit("up", client("secret"), nil)
	admit("up, wrong", client("wrong"), ErrCredentials)
	down.Store(true)
	admit("down, known", client("secret"), nil)
	admit("down, wrong", client("wrong"), ErrUnavailable)
	admit("down, nobody", &Client{ID: "d", Username: "u", Password: []byte("secret")}, ErrUnavailable)
	far := client("secret")
	far.Addr = mustAddr(t, "10.0.0.2:1")
	admit("down, from elsewhere", far, ErrUnavailable)
	c.forward(59 * time.Minute)
	admit("down for long", client("secret"), nil)
	c.forward(2 * time.Minute)
	admit("down for too long: what is remembered does not become younger", client("secret"), ErrUnavailable)
	if n := ch.Counts()[0]; n.LastKnown != 2 {
		t.Errorf("%+v", n)
	}
}

// TestTTL: an answer is used again for as long as it says, and not after the source has said that something changed.
func TestTTL(t *testing.T) {
	var asked atomic.Int32
	var env Env
	c := &clock{}
	s := &told{check: func(context.Context, *Client) (Answer, error) {
		asked.Add(1)
		return Answer{Decision: Allow, TTL: time.Minute}, nil
	}}
	var changed atomic.Value
	ch := NewChain([]Link{{Label: "s", Timeout: patience, Open: func(e Env) Source { env = e; return s }}}, testEnv(t, c), func(l string) { changed.Store(l) })
	for i, want := range []int32{1, 1, 2, 3} {
		switch i {
		case 2:
			c.forward(time.Minute)
		case 3:
			env.Changed()
		}
		if _, err := ch.Admit(t.Context(), &Client{ID: "c", Password: []byte("p")}); err != nil || asked.Load() != want {
			t.Errorf("%d: asked %d times, want %d (%v)", i, asked.Load(), want, err)
		}
	}
	if changed.Load() != "s" {
		t.Errorf("told of %v", changed.Load())
	}
	if err := ch.Close(); err != nil || !s.closed.Load() {
		t.Errorf("not closed: %v", err)
	}
}

// TestRefresh: what a connected client may do follows its source, and an error changes nothing.
func TestRefresh(t *testing.T) {
	answer, fail := Answer{Decision: Allow, Password: plain("p"), Rules: []Rule{{Allow: true, Access: Both, Filter: "a", MaxQoS: 2}}}, error(nil)
	s := &told{check: func(context.Context, *Client) (Answer, error) { return answer, nil }}
	s.refresh = func(context.Context, *Client) (Answer, error) { return answer, fail }
	ch := chainOf(t, &clock{}, source("s", s))
	g, err := ch.Admit(t.Context(), &Client{ID: "c", Username: "u", Password: []byte("p")})
	if err != nil {
		t.Fatal(err)
	}
	same, err := ch.Refresh(t.Context(), g, "")
	if same != g || err != nil {
		t.Errorf("nothing has changed: %v", err)
	}
	answer.Rules = []Rule{{Allow: true, Access: Both, Filter: "b", MaxQoS: 2}}
	if other, err := ch.Refresh(t.Context(), g, "another source"); other != g || err != nil {
		t.Errorf("another source has changed: %v", err)
	}
	next, err := ch.Refresh(t.Context(), g, "s")
	if err != nil || next == g || next.MayPublish("a", 0, false).Allowed || !next.MayPublish("b", 0, false).Allowed {
		t.Errorf("%v", err)
	}
	fail = errors.New("away")
	var no *Refusal
	if kept, err := ch.Refresh(t.Context(), next, ""); kept != next || err == nil || errors.As(err, &no) {
		t.Errorf("%v", err)
	}
	fail = nil
	for what, a := range map[string]Answer{"gone": {}, "denied": {Decision: Deny}, "another password": {Decision: Allow, Password: plain("q")}} {
		answer = a
		if _, err := ch.Refresh(t.Context(), next, ""); !errors.As(err, &no) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if g, err := ch.Refresh(t.Context(), &Grant{}, ""); err != nil || g == nil {
		t.Errorf("a grant of nobody: %v", err)
	}
}

// TestPasswordsAreHashedOnce: a right password is remembered and its hash computed once, however many come with it at
// once; a wrong one is never remembered.
func TestPasswordsAreHashedOnce(t *testing.T) {
	c := &clock{}
	p := NewPasswords(testEnv(t, c).Rand, c.now)
	var hashes atomic.Int32
	begun, go_ := make(chan struct{}, 100), make(chan struct{})
	want := &Password{Stored: "h", Verify: func(b []byte) bool {
		hashes.Add(1)
		begun <- struct{}{}
		<-go_
		return string(b) == "right"
	}}
	var all sync.WaitGroup
	var in atomic.Int32
	for range 50 {
		all.Go(func() {
			if ok, err := p.Verify(t.Context(), want, []byte("right")); ok && err == nil {
				in.Add(1)
			}
		})
	}
	<-begun
	close(go_)
	all.Wait()
	if hashes.Load() != 1 || in.Load() != 50 {
		t.Errorf("%d hashes, %d let in", hashes.Load(), in.Load())
	}
	for range 3 {
		if ok, _ := p.Verify(t.Context(), want, []byte("wrong")); ok {
			t.Error("a wrong password is right")
		}
	}
	other := &Password{Stored: "another hash", Verify: func([]byte) bool { hashes.Add(1); return false }}
	if ok, _ := p.Verify(t.Context(), other, []byte("right")); ok || hashes.Load() != 5 {
		t.Errorf("a password is remembered for another hash (%d)", hashes.Load())
	}
	c.forward(verifiedFor)
	if ok, _ := p.Verify(t.Context(), want, []byte("right")); !ok || hashes.Load() != 6 {
		t.Errorf("it is remembered for too long (%d)", hashes.Load())
	}
	if n := p.Counts(); n.Remembered != 1 || n.Hashed != 6 || n.Wrong != 4 {
		t.Errorf("%+v", n)
	}
}

// TestPasswordsBusy: who waits for too long is told so, and not that its password is wrong; who waits for the same hash
// as somebody who gives up takes over.
func TestPasswordsBusy(t *testing.T) {
	c := &clock{}
	p := NewPasswords(testEnv(t, c).Rand, c.now)
	stop := make(chan struct{})
	var hashing sync.WaitGroup
	for i := range cap(p.slots) {
		begun := make(chan struct{})
		hashing.Go(func() {
			_, _ = p.Verify(t.Context(), &Password{Stored: fmt.Sprint(i), Verify: func([]byte) bool { close(begun); <-stop; return true }}, []byte("p"))
		})
		<-begun
	}
	ctx, cancel := context.WithCancel(t.Context())
	want := &Password{Stored: "h", Verify: func([]byte) bool { return true }}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := p.Verify(ctx, want, []byte("p")); first <- err }()
	eventually(t, "the first waits", func() bool { return p.waiting.Load() == int64(cap(p.slots))+1 })
	go func() {
		ok, err := p.Verify(t.Context(), want, []byte("p"))
		if err == nil && !ok {
			err = errors.New("it is said to be wrong")
		}
		second <- err
	}()
	cancel()
	if err := <-first; !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	close(stop)
	if err := <-second; err != nil {
		t.Errorf("%v", err)
	}
	hashing.Wait()
}

// TestBounds: what is remembered has an end.
func TestBounds(t *testing.T) {
	c := &clock{}
	p := NewPasswords(testEnv(t, c).Rand, c.now)
	p.mu.Lock()
	for i := range verifiedMost + 10 {
		p.remember(p.digest(fmt.Sprint(i)))
	}
	p.mu.Unlock()
	if n := p.Counts(); n.Remembered != verifiedMost || n.Forgotten != 10 {
		t.Errorf("%+v", n)
	}
	k := newKnown(p, c.now)
	for i := range maxKnown + 10 {
		k.put(k.key(&Client{ID: fmt.Sprint(i)}), Answer{Decision: Allow}, time.Hour)
	}
	if len(k.m) != maxKnown {
		t.Errorf("%d answers", len(k.m))
	}
	x := newSets()
	for i := range maxSets + 10 {
		x.of([]Rule{{Allow: true, Access: Both, Filter: fmt.Sprint("a", i)}}, &Client{})
	}
	if x.len() != maxSets || x.forgotten.Load() != 10 {
		t.Errorf("%d sets, %d forgotten", x.len(), x.forgotten.Load())
	}
}
