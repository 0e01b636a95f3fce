package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/systemd/settings"
)

// Editor changes a users' file. It changes the lines that it has to and leaves all others as people wrote them, reads the
// result again before it counts, and puts it in the place of the old one in one step. Who else edits waits.
type Editor struct {
	path  string
	mode  fs.FileMode
	owner [2]int // user and group; -1: whoever runs this
	lock  *os.File
	text  []byte
	users *Users
	fresh bool
}

// The errors of an Editor.
var (
	ErrNoUser  = errors.New("there is no such user")
	ErrHasUser = errors.New("there is such a user already")
)

// newUsersMode is the mode of a file that the Editor makes: its group, that of the settings' file, is the broker's.
const newUsersMode = 0o640

// OpenUsers opens a users' file to change it, and makes it if it is not there and create says so: it then
// belongs to the group of the file like. Close lets others edit.
func OpenUsers(path, like string, create bool) (*Editor, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a rename would replace the link
	}
	e := &Editor{path: path, mode: newUsersMode, owner: [2]int{-1, -1}}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the users' file: %w", err)
	}
	e.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock the users' file: %w", err)
	}
	if err := e.read(like, create); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Editor) read(like string, create bool) error {
	info, err := os.Stat(e.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		e.fresh = true
		if parent, err := os.Stat(like); err == nil {
			if st, ok := unixOwner(parent); ok {
				e.owner[1] = st[1]
			}
		}
	case err != nil:
		return fmt.Errorf("read the users' file: %w", err)
	default:
		e.mode = info.Mode().Perm()
		if st, ok := unixOwner(info); ok {
			e.owner = st
		}
		if e.text, err = os.ReadFile(e.path); err != nil {
			return fmt.Errorf("read the users' file: %w", err)
		}
	}
	users, problems := ParseUsers(e.path, e.text)
	if err := firstError(problems); err != nil {
		return fmt.Errorf("the users' file has a mistake, mend it first: %w", err)
	}
	e.users = users
	return nil
}

// Close lets others edit. The lock's file stays.
func (e *Editor) Close() { _ = e.lock.Close() } // which unlocks it

// Users is those of the file as it is now.
func (e *Editor) Users() *Users { return e.users }

// NewUser is what Add writes.
type NewUser struct {
	Name      string
	Hash      string // as HashPassword makes it
	Superuser bool
	ClientIDs []string
	Publish   []string
	Subscribe []string
}

// Add adds a user.
func (e *Editor) Add(u NewUser) error {
	if err := CheckUserName(u.Name); err != nil {
		return err
	}
	if e.users.m[u.Name] != nil {
		return fmt.Errorf("%w: %s", ErrHasUser, u.Name)
	}
	var b strings.Builder
	b.Write(e.text)
	if n := len(e.text); n > 0 {
		if e.text[n-1] != '\n' {
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "[[user]]\nname = %s\npassword = %s\n", quote(u.Name), quote(u.Hash))
	if u.Superuser {
		b.WriteString("superuser = true\n")
	}
	for _, list := range []struct {
		key    string
		values []string
	}{{"client_ids", u.ClientIDs}, {"publish", u.Publish}, {"subscribe", u.Subscribe}} {
		if len(list.values) == 0 {
			continue
		}
		var quoted []string
		for _, v := range list.values {
			quoted = append(quoted, quote(v))
		}
		fmt.Fprintf(&b, "%s = [%s]\n", list.key, strings.Join(quoted, ", "))
	}
	return e.write(b.String(), u.Name)
}

// quote is a TOML string (basic strings, TOML v1.0): names have no control characters.
func quote(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

// Passwd replaces a user's hash.
func (e *Editor) Passwd(name, hash string) error {
	t, lines, err := e.find(name)
	if err != nil {
		return err
	}
	at := t.Line("password") - 1
	old := e.users.m[name].Password // no hash has a character that TOML writes in another way
	if strings.Count(lines[at], old) != 1 {
		return fmt.Errorf("line %d of %s does not have the password's hash: change it by hand", at+1, e.path)
	}
	lines[at] = strings.Replace(lines[at], old, hash, 1)
	return e.write(strings.Join(lines, ""), name)
}

// Remove takes a user out, with the rules under it.
func (e *Editor) Remove(name string) error {
	t, lines, err := e.find(name)
	if err != nil {
		return err
	}
	from := t.Line("") - 1
	to := from + 1
	for to < len(lines) && !begins(lines[to]) {
		to++
	}
	if to < len(lines) { // what stands right above the next table belongs to that
		for to > from+1 && (strings.TrimSpace(lines[to-1]) == "" || strings.HasPrefix(strings.TrimSpace(lines[to-1]), "#")) {
			to--
		}
	}
	return e.write(strings.Join(slices.Delete(lines, from, to), ""), name)
}

// begins says whether a line begins a table that is not a part of a user.
func begins(line string) bool {
	line = strings.TrimSpace(line)
	inner := strings.TrimLeft(line, "[ \t")
	return strings.HasPrefix(line, "[") && !strings.HasPrefix(inner, "user.") && !strings.HasPrefix(inner, "user .")
}

// find is a user's table, and the lines of the file with their ends.
func (e *Editor) find(name string) (*settings.Table, []string, error) {
	if e.users.m[name] == nil {
		return nil, nil, fmt.Errorf("%w: %s", ErrNoUser, name)
	}
	doc, _ := settings.Parse(e.path, e.text)
	for _, t := range doc.Tables("user") {
		if n, _ := t.Text("name"); n == name {
			return t, strings.SplitAfter(string(e.text), "\n"), nil
		}
	}
	return nil, nil, fmt.Errorf("%w: %s", ErrNoUser, name)
}

// write puts a text in the place of the file, if it says what was meant: nothing has changed but the one user.
func (e *Editor) write(text, changed string) error {
	users, problems := ParseUsers(e.path, []byte(text))
	if err := firstError(problems); err != nil {
		return fmt.Errorf("the changed file would have a mistake: %w; change it by hand", err)
	}
	if !sameButFor(e.users, users, changed) {
		return fmt.Errorf("%s is written in a way that cannot be changed safely: change it by hand", e.path)
	}
	if err := e.replace(text); err != nil {
		return fmt.Errorf("write the users' file: %w", err)
	}
	e.text, e.users, e.fresh = []byte(text), users, false
	return nil
}

// sameButFor says whether two files have the same users apart from one.
func sameButFor(a, b *Users, name string) bool {
	plain := func(u *Users) map[string]UserInfo {
		out := map[string]UserInfo{}
		for _, i := range u.List() {
			if i.Name != name {
				i.Hash = u.m[i.Name].Password
				for j, r := range i.Rules { // the lines may move
					_, i.Rules[j], _ = strings.Cut(r, ": ")
				}
				out[i.Name] = i
			}
		}
		return out
	}
	return reflect.DeepEqual(plain(a), plain(b))
}

// replace writes beside the file, syncs, and renames.
func (e *Editor) replace(text string) error {
	dir := filepath.Dir(e.path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(e.path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Chmod(e.mode)
	}
	if err == nil && (e.owner[0] >= 0 && e.owner[0] != os.Getuid() || e.owner[1] >= 0 && e.owner[1] != os.Getgid()) {
		if err = f.Chown(e.owner[0], e.owner[1]); e.fresh && errors.Is(err, fs.ErrPermission) {
			err = nil // a new file of somebody who is not in that group
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), e.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func unixOwner(info fs.FileInfo) ([2]int, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return [2]int{}, false
	}
	return [2]int{int(st.Uid), int(st.Gid)}, true
}
