package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"holdfast/systemd/settings"
)

// quick is a hash that costs a test little.
func quick(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func usersText(t testing.TB) string {
	return `# who works here
[[user]]
name = "alice"  # from accounting
password = "` + quick(t, "secret") + `"
client_ids = ["%u", "alice-*"]
publish = ["a/%u/#"]
subscribe = ["b/#"]

  [[user.rule]]
  action = "deny"
  access = "subscribe"
  filters = ["b/secret/#"]

# the one who may everything
[[user]]
name = "root"
password = '` + quick(t, "toor") + `'
superuser = true

[[rule]]
action = "allow"
access = "publish"
filters = ["status/%c"]
max_qos = 1
retain = false
addresses = ["10.0.0.0/8"]
`
}

func openFile(t *testing.T, path string, changed func()) *file {
	t.Helper()
	doc, problems := settings.Parse("broker.toml", []byte("[[auth]]\ntype = \"file\"\npath = \""+path+"\"\n"))
	env := testEnv(t, &clock{})
	env.Changed = changed
	f, ok := newFile(doc.Tables("auth")[0], env).(*file)
	if !ok || len(problems) > 0 {
		t.Fatal(problems)
	}
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestFileReloads: the file is read again when it changes; one that cannot be used changes nothing.
func TestFileReloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(usersText(t))
	var changed atomic.Int32
	f := openFile(t, path, func() { changed.Add(1) })
	decision := func(user string) Decision {
		a, err := f.Check(t.Context(), &Client{ID: user, Username: user})
		if err != nil {
			t.Fatal(err)
		}
		return a.Decision
	}
	if decision("alice") != Allow || decision("bob") != NotMine || decision("") != NotMine {
		t.Error("the file is not what is asked")
	}
	for _, broken := range []string{"[[user]\n", "", "[[user]]\nname = \"alice\"\npassword = \"x\"\n"} {
		f.broken.Store(false)
		write(broken)
		eventually(t, "the broken file is seen", f.Broken)
		if decision("alice") != Allow {
			t.Error("a broken file has changed something")
		}
	}
	f.broken.Store(false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is seen that the file is gone", f.Broken)
	if decision("alice") != Allow || changed.Load() != 0 {
		t.Errorf("a file that is gone has changed something (%d)", changed.Load())
	}
	write(strings.Replace(usersText(t), `"alice"`, `"bob"`, 1))
	eventually(t, "the new file is in force", func() bool { return decision("bob") == Allow && changed.Load() == 1 })
	if decision("alice") != NotMine || f.Broken() {
		t.Error("the old file is still in force")
	}
	if err := os.WriteFile(path, []byte(usersText(t)), 0o600); err != nil { // in place
		t.Fatal(err)
	}
	eventually(t, "a file that was written in place is in force", func() bool { return decision("alice") == Allow })
}

// TestFileAnswers: what the file says of a client.
func TestFileAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.toml")
	text := usersText(t) + "[[user]]\nname = \"off\"\npassword = \"" + quick(t, "x") + "\"\ndisabled = true\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ch := NewChain([]Link{{Label: "file", Timeout: patience, Open: func(Env) Source { return openFile(t, path, func() {}) }}}, testEnv(t, &clock{}), func(string) {})
	admit := func(id, user, password, addr string) (*Grant, error) {
		return ch.Admit(t.Context(), &Client{ID: id, Username: user, Password: []byte(password), Addr: mustAddr(t, addr)})
	}
	g, err := admit("alice-1", "alice", "secret", "10.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	for what, yes := range map[string]bool{
		"publish a/alice/x": true, "publish a/bob/x": false, "publish b/x": false, "publish status/alice-1": true,
		"subscribe b/x": true, "subscribe b/secret/x": false, "subscribe b/#": false, "subscribe b/x/#": true, "subscribe a/alice/x": false,
	} {
		how, topic, _ := strings.Cut(what, " ")
		v := g.MaySubscribe(topic)
		if how == "publish" {
			v = g.MayPublish(topic, 1, false)
		}
		if v.Allowed != yes {
			t.Errorf("%s: %v (%s)", what, v.Allowed, g.Why(v))
		}
	}
	if g.MayPublish("status/alice-1", 2, false).Allowed || g.MayPublish("status/alice-1", 0, true).Allowed {
		t.Error("the limits of a rule do not count")
	}
	if g, err := admit("alice", "alice", "secret", "11.0.0.1:1"); err != nil || g.MayPublish("status/alice", 0, false).Allowed {
		t.Errorf("a rule for other addresses counts (%v)", err)
	}
	for _, c := range []struct {
		id, user, password string
		is                 error
	}{{"alice", "alice", "wrong", ErrCredentials}, {"bob", "alice", "secret", ErrForbidden}, {"bob", "alice", "wrong", ErrCredentials}, {"x", "nobody", "x", ErrCredentials},
		{"x", "", "", ErrCredentials}, {"x", "off", "x", ErrForbidden}, {"x", "off", "y", ErrCredentials}, {"x", "root", "toor", nil}} {
		if g, err := admit(c.id, c.user, c.password, "10.0.0.1:1"); (c.is == nil) != (err == nil) || c.is != nil && !isErr(err, c.is) || g != nil && !g.MaySubscribe("#").Allowed {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestUsersProblems: what is wrong with a file is said with its line.
func TestUsersProblems(t *testing.T) {
	hash := quick(t, "x")
	for text, want := range map[string]string{
		"[[user]]\npassword = \"" + hash + "\"":                          "users.toml:1: user #1: name: a user needs a name",
		"[[user]]\nname = \"a\"":                                         `users.toml:1: user "a": password: is missing`,
		"[[user]]\nname = \"a\"\npassword = \"secret\"":                  `users.toml:3: user "a": password: it is no hash`,
		"[[user]]\nname = \"a\"\npassword = \"$2a$31$" + hash[7:] + "\"": "bcrypt cost 31",
		"[[user]]\nname = \"a\"\npassword = \"$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA\"": "is too much for a login",
		"[[user]]\nname = \"a\"\npassword = \"" + hash + "\"\npublish = [\"a/#/b\"]":                                 `users.toml:4: user "a": publish: "a/#/b"`,
		"[[user]]\nname = \"a\"\npassword = \"" + hash + "\"\nsubscribe = [\"a/x%u\"]":                               "stand for whole levels",
		"[[user]]\nname = \"a\"\npassword = \"" + hash + "\"\n[[user]]\nname = \"a\"\npassword = \"" + hash + "\"":   "stands in the file twice",
		"[[user]]\nname = \"a\"\npassword = \"" + hash + "\"\ntopic = 1":                                             "users.toml:4: user \"a\": topic: unknown key",
		"[[rule]]\nfilters = [\"a\"]":                                                                             `rule #1: action: is ""`,
		"[[rule]]\naction = \"allow\"":                                                                            `filters: are missing`,
		"[[rule]]\naction = \"allow\"\nfilters = [\"a\"]\nmax_qos = 3":                                            "users.toml:4: rule #1: max_qos: is 3",
		"[[rule]]\naction = \"allow\"\nfilters = [\"a\"]\naddresses = [\"x\"]":                                    `"x" is no network`,
		"[[rule]]\naction = \"allow\"\nfilters = [\"a\"]\naccess = \"all\"":                                       `access: is "all"`,
		"[[user]]\nname = \"a\"\npassword = \"" + hash + "\"\n[[user.rule]]\naction = \"yes\"\nfilters = [\"a\"]": `user "a": rule[0].action: is "yes"`,
	} {
		_, problems := ParseUsers("users.toml", []byte(text))
		var all []string
		for _, p := range settings.Errors(problems) {
			all = append(all, p.String())
		}
		if len(all) != 1 || !strings.Contains(all[0], want) {
			t.Errorf("%s\nsaid %q, want %q", text, all, want)
		}
	}
}

// TestEditor: it changes what it has to and nothing else, keeps mode and links, and two at once wait for each other.
func TestEditor(t *testing.T) {
	dir := t.TempDir()
	real, path := filepath.Join(dir, "real.toml"), filepath.Join(dir, "users.toml")
	text := usersText(t)
	if err := os.WriteFile(real, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, path); err != nil {
		t.Fatal(err)
	}
	edit := func(fn func(*Editor) error) error {
		t.Helper()
		e, err := OpenUsers(path, dir, false)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		return fn(e)
	}
	hash := quick(t, "new")
	if err := edit(func(e *Editor) error { return e.Passwd("root", hash) }); err != nil {
		t.Fatal(err)
	}
	var adding sync.WaitGroup
	for _, name := range []string{"bob", `we"ird\`, "carol"} {
		adding.Go(func() {
			e, err := OpenUsers(path, dir, false)
			if err != nil {
				t.Error(err)
				return
			}
			defer e.Close()
			if err := e.Add(NewUser{Name: name, Hash: hash, Publish: []string{"a/%u"}, ClientIDs: []string{"%u"}}); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	if err := edit(func(e *Editor) error { return e.Add(NewUser{Name: "bob", Hash: hash}) }); !isErr(err, ErrHasUser) {
		t.Errorf("%v", err)
	}
	if err := edit(func(e *Editor) error { return e.Add(NewUser{Name: "x", Hash: hash, Publish: []string{"#/a"}}) }); err == nil {
		t.Error("a filter that is none is written")
	}
	for _, gone := range []string{"alice", `we"ird\`, "carol"} {
		if err := edit(func(e *Editor) error { return e.Remove(gone) }); err != nil {
			t.Fatal(gone, err)
		}
	}
	if err := edit(func(e *Editor) error { return e.Remove("alice") }); !isErr(err, ErrNoUser) {
		t.Errorf("%v", err)
	}
	got, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	rest := text[strings.Index(text, "# the one who"):]
	old := rest[strings.Index(rest, "'$2a$")+1:]
	rest = "# who works here\n\n" + strings.Replace(rest, old[:60], hash, 1)
	if !strings.HasPrefix(string(got), rest) && !strings.HasPrefix(string(got), strings.Replace(rest, "\n\n", "\n", 1)) {
		t.Errorf("%s\ndoes not begin with\n%s", got, rest)
	}
	users, problems := ParseUsers(path, got)
	if len(problems) > 0 || strings.Join(users.names, " ") != "root bob" {
		t.Errorf("%v, %v", users.names, problems)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".real.toml.*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestEditorMakesTheFile: with the mode and the group that the broker needs.
func TestEditorMakesTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users.toml")
	if _, err := OpenUsers(path, dir, false); err == nil {
		t.Error("a file that is not there is opened")
	}
	e, err := OpenUsers(path, dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Add(NewUser{Name: "a", Hash: quick(t, "x"), Superuser: true}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != newUsersMode || info.Sys().(*syscall.Stat_t).Gid != parent.Sys().(*syscall.Stat_t).Gid {
		t.Errorf("mode %v", info.Mode())
	}
}

// TestHashes: what is made can be read and verified, and nothing else matches.
func TestHashes(t *testing.T) {
	for _, kind := range []string{HashBcrypt, HashArgon2} {
		h, err := HashPassword(kind, []byte("secret"), testEnv(t, &clock{}).Rand)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseHash(h)
		if err != nil || !p.Verify([]byte("secret")) || p.Verify([]byte("Secret")) || p.Verify(nil) {
			t.Errorf("%s: %v", h, err)
		}
	}
	if _, err := HashPassword(HashBcrypt, []byte(strings.Repeat("x", 73)), nil); err == nil {
		t.Error("bcrypt takes a password that it does not look at whole")
	}
	if _, err := HashPassword("md5", []byte("x"), nil); err == nil {
		t.Error("md5 is made")
	}
}

func isErr(err, is error) bool { return errors.Is(err, is) }
