package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"holdfast/broker/mqtt"
)

const annFile = `[[user]]
name = "ann"
password = "` + annHash + `"
client_ids = ["c-*"]
publish = ["up/%%c", "id/%%u/#"]
subscribe = [%q, "keep/#"]

  [[user.rule]]
  action = "allow"
  access = "subscribe"
  filters = ["near/#"]
  addresses = ["127.0.0.0/8"]

  [[user.rule]]
  action = "allow"
  access = "subscribe"
  filters = ["far/#"]
  addresses = ["192.0.2.0/24"]
%s`

// inDoor runs a command of the program where the broker runs.
func (d *authDoor) inDoor(args ...string) {
	d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: append([]string{"holdfast-broker", "--config", "broker.toml"}, args...), Dir: d.dir, SysProcAttr: withUs}
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// TestDoorFile: a file of users that is edited by hand, by commands, and broken, while the broker runs.
func TestDoorFile(t *testing.T) {
	t.Parallel()
	var d *authDoor
	users := fmt.Sprintf(annFile, "down/#", "")
	dir := t.TempDir()
	file := dir + "/users.toml"
	set := func(text string) {
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	set(users)
	k := &kept{
		tables:  fmt.Sprintf("[[auth]]\ntype = \"file\"\npath = %q\n", file),
		granted: 2,
		more: func(t *testing.T, door *authDoor) {
			d = door
			ann := d.enter("c-2", "ann", "ann-secret", nil)
			if codes := ann.subscribe("near/#", "far/#"); codes[0] != 2 || codes[1] != mqtt.NotAuthorized {
				t.Errorf("rules by address: % x", codes)
			}
			ann.may(true, "id/ann/x", 2, true, 1, "")
			d.refused("another client id", "x-1", "ann", "ann-secret", mqtt.NotAuthorized, 5)
			set(users + "[[user\n")
			eventually(t, func() error {
				if log := d.logged(); !strings.Contains(log, "users.toml:19") {
					return fmt.Errorf("the line of the mistake is not named: %s", log)
				}
				return nil
			})
			d.enter("c-3", "ann", "ann-secret", nil) // what it was is in force
			ann.may(true, "up/c-2", 1, false, 1, "")
			set(fmt.Sprintf(annFile, "down/#", "[[user]]\nname = \"off\"\npassword = \""+annHash+"\"\ndisabled = true\n"))
			d.refused("disabled", "c-4", "off", "ann-secret", mqtt.NotAuthorized, 5)
		},
		take: func() { set(fmt.Sprintf(annFile, "elsewhere/#", "")) }, give: func() { set(users) },
		another: func() {
			d.file("new-password", "another-secret\n")
			d.inDoor("user", "passwd", "ann", "--file", file, "--password-file", "new-password")
		},
	}
	k.throughTheDoor(t)
}

// TestDoorACLFile: EMQX's acl.conf behind a file that knows who ann is and nothing of what she may do.
func TestDoorACLFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	acl := func(first string) {
		text := first + `
{allow, {'and', [{user, "ann"}, {ipaddr, "127.0.0.0/8"}]}, publish, ["up/%c"]}.
{allow, {user, "ann"}, subscribe, ["down/#", "keep/#", {eq, "lit/#"}]}.
{allow, {client, "c-2"}, pubsub, ["two/#"]}.
{deny, all}.
`
		if err := errors.Join(os.WriteFile(dir+"/acl.new", []byte(text), 0o600), os.Rename(dir+"/acl.new", dir+"/acl.conf")); err != nil {
			t.Fatal(err)
		}
	}
	acl("")
	if err := os.WriteFile(dir+"/users.toml", []byte("[[user]]\nname = \"ann\"\npassword = \""+annHash+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := &kept{
		tables:  fmt.Sprintf("[[auth]]\ntype = \"file\"\npath = %q\n[[auth]]\ntype = \"acl_file\"\npath = %q\n", dir+"/users.toml", dir+"/acl.conf"),
		granted: 2,
		more: func(t *testing.T, d *authDoor) {
			ann := d.enter("c-2", "ann", "ann-secret", nil)
			if codes := ann.subscribe("lit/#", "lit/a", "two/#"); codes[0] != 2 || codes[1] != mqtt.NotAuthorized || codes[2] != 2 {
				t.Errorf("% x", codes)
			}
			acl("{allow, {user, \"ann\"}, publish, [\"a\"}.")
			eventually(t, func() error {
				if log := d.logged(); !strings.Contains(log, "acl.conf:1") {
					return fmt.Errorf("the line of the mistake is not named: %s", log)
				}
				return nil
			})
			ann.may(true, "two/x", 1, false, 1, "")
			acl("")
		},
		take: func() { acl(`{deny, {user, "ann"}, subscribe, ["down/#"]}.`) }, give: func() { acl("") },
	}
	k.throughTheDoor(t)
}

// TestDoorAnonymous: who says no name may do what the table says, and nothing else; a name that nobody knows is not let in all the same.
func TestDoorAnonymous(t *testing.T) {
	t.Parallel()
	d := openDoor(t, "[[auth]]\ntype = \"anonymous\"\npublish = [\"up/%c\"]\nsubscribe = [\"down/#\"]\n", nil)
	g := d.enter("c-1", "", "", nil)
	g.may(true, "up/c-1", 1, false, 1, "")
	g.may(false, "up/c-2", 1, false, 1, "not authorized")
	if codes := g.subscribe("down/#", "#"); codes[0] != 2 || codes[1] != mqtt.NotAuthorized {
		t.Errorf("% x", codes)
	}
	d.refused("a name", "c-1", "ann", "ann-secret", mqtt.BadUserOrPassword, 4)
}
