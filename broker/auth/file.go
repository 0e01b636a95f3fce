package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/systemd/settings"
)

// DefaultUsersFile is where users are if nothing else is said.
const DefaultUsersFile = "/etc/holdfast-broker/users.toml"

// fileEvery is how often the users' file is looked at. It is looked at, and not watched: what watches sees neither a change
// on a network's disk nor, without as much code again, one behind a link or a rename.
const fileEvery = time.Second

// fileSettles: a file that was changed so shortly before it was read may change again within the same tick of its
// time, so it is read once more.
const fileSettles = 2 * time.Second

// file is the source that reads users and rules from a TOML file (docs/AUTH.md).
type file struct {
	path    string
	env     Env
	current atomic.Pointer[Users]
	broken  atomic.Bool // the file cannot be used, and what it was is

	seen   os.FileInfo // of the poller, as what follows
	readAt time.Time
	sum    [sha256.Size]byte
	stop   context.CancelFunc
	polls  sync.WaitGroup
}

func newFile(t *settings.Table, env Env) Source {
	cfg := struct {
		Path string `toml:"path"`
	}{DefaultUsersFile}
	t.Decode(&cfg)
	f := &file{path: env.Path(cfg.Path), env: env}
	users, problems, err := f.read()
	if err != nil {
		t.Problem("path", "%v; holdfast-broker user add NAME makes the file", err)
		return f
	}
	for _, p := range problems {
		if p.Warning {
			t.Warn("path", "%s", p)
		} else {
			t.Problem("path", "%s", p)
		}
	}
	if info, err := os.Stat(f.path); err == nil && info.Mode().Perm()&0o004 != 0 {
		t.Warn("path", "%s can be read by everybody on this host (mode %04o), and it holds hashes of passwords: chmod 640", f.path, info.Mode().Perm())
	}
	if len(settings.Errors(problems)) == 0 {
		f.current.Store(users)
	}
	return f
}

// maxUsersFile is room for 100,000 users.
const maxUsersFile = 4 << 20

// read reads the file as it is now.
func (f *file) read() (*Users, []settings.Problem, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, nil, err
	}
	at := f.env.Wall()
	data, err := os.ReadFile(f.path)
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxUsersFile {
		return nil, nil, fmt.Errorf("%s is larger than %s", f.path, settings.FormatSize(maxUsersFile))
	}
	f.seen, f.readAt, f.sum = info, at, sha256.Sum256(data)
	users, problems := ParseUsers(f.path, data)
	return users, problems, nil
}

// Start implements Starter: it fails if the file cannot be used.
func (f *file) Start(context.Context) error {
	if f.current.Load() == nil {
		users, problems, err := f.read()
		if err == nil {
			err = firstError(problems)
		}
		if err != nil {
			return err
		}
		f.current.Store(users)
	}
	f.env.Log.Info("users read", "file", f.path, "users", f.current.Load().Len(), "rules", f.current.Load().rules)
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.polls.Go(func() { f.poll(ctx) })
	return nil
}

func firstError(problems []settings.Problem) error {
	errs := settings.Errors(problems)
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errors.New(errs[0].String())
	}
	return fmt.Errorf("%s (and %d more)", errs[0], len(errs)-1)
}

func (f *file) poll(ctx context.Context) {
	tick := time.NewTicker(fileEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look()
		}
	}
}

// look reads the file if it is another than before. What cannot be used is said and changes nothing.
func (f *file) look() {
	info, err := os.Stat(f.path)
	if err == nil && os.SameFile(info, f.seen) && info.Size() == f.seen.Size() && info.ModTime().Equal(f.seen.ModTime()) &&
		f.readAt.Sub(info.ModTime()) > fileSettles {
		return
	}
	was, sum := f.current.Load(), f.sum
	var users *Users
	var problems []settings.Problem
	if err == nil {
		users, problems, err = f.read()
	}
	if err == nil && bytes.Equal(f.sum[:], sum[:]) {
		return
	}
	if err == nil {
		err = firstError(problems)
	}
	if err == nil && users.Len() == 0 && was.Len() > 0 {
		err = errors.New("it has no users any more: somebody may be writing it")
	}
	if err != nil {
		if !f.broken.Swap(true) {
			f.env.Log.Error("the users' file cannot be used: what it was stays in force; mend it, it is looked at again", "file", f.path, "err", err)
		}
		return
	}
	f.broken.Store(false)
	f.current.Store(users)
	f.env.Log.Info("users read again", "file", f.path, "users", users.Len(), "rules", users.rules)
	f.env.Changed()
}

// Broken says that the file cannot be used as it is, and the users that it had are in force.
func (f *file) Broken() bool { return f.broken.Load() }

// Check implements Source.
func (f *file) Check(_ context.Context, c *Client) (Answer, error) {
	return f.current.Load().answer(c), nil
}

// Refresh implements Refresher.
func (f *file) Refresh(ctx context.Context, c *Client) (Answer, error) { return f.Check(ctx, c) }

// Close implements Source.
func (f *file) Close() error {
	if f.stop != nil {
		f.stop()
		f.polls.Wait()
	}
	return nil
}
