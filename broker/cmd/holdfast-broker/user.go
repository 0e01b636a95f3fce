package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/broker/auth"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
)

// users is what the user commands share.
type users struct {
	*app
	file     string // --file
	password string // --password
	from     string // --password-file
	hash     string // --hash
}

func (a *app) userCommand() *cobra.Command {
	u := &users{app: a}
	c := &cobra.Command{
		Use:   "user",
		Short: "Manage the users of a users' file",
		Long: `Edits the users' file that the first [[auth]] table of type "file" names, or --file. It changes the
lines that it has to, in one step, and keeps all others, owner and mode. A running broker takes
the change over by itself within seconds, also for clients that are connected.`,
	}
	c.PersistentFlags().StringVar(&u.file, "file", "", "the users' `file`, instead of the one that the configuration names")
	c.AddCommand(u.add(), u.list(), u.remove(), u.passwd())
	return c
}

// path is where the users are.
func (u *users) path() (string, error) {
	if u.file != "" {
		return u.file, nil
	}
	doc, _ := settings.Load(u.config)
	if _, err := os.Stat(u.config); err != nil {
		return "", fmt.Errorf("%w; name the configuration with --config, or the users' file with --file", err)
	}
	for _, t := range doc.Tables("auth") {
		if kind, _ := t.Text("type"); kind == "file" {
			name, has := t.Text("path")
			if !has {
				name = auth.DefaultUsersFile
			}
			return doc.Path(name), nil
		}
	}
	return "", program.Usage("%s has no [[auth]] of type \"file\"; add it, or name the users' file with --file", u.config)
}

// edit runs fn on the users' file.
func (u *users) edit(create bool, fn func(*auth.Editor) error) error {
	path, err := u.path()
	if err != nil {
		return err
	}
	e, err := auth.OpenUsers(path, u.config, create)
	if err != nil {
		return err
	}
	defer e.Close()
	err = fn(e)
	if errors.Is(err, auth.ErrNoUser) || errors.Is(err, auth.ErrHasUser) {
		return program.Exit{Code: program.AnswerNo, Msg: err.Error()}
	}
	return err
}

// said is what a command has done.
type userSaid struct {
	User string `json:"user"`
	Done string `json:"done"`
}

func (u *users) say(name, done string) error {
	if u.JSON {
		return u.PrintJSON(userSaid{name, done})
	}
	fmt.Fprintf(u.Stdout, "user %s: %s\n", printable(name), done)
	return nil
}

func (u *users) passwordFlags(c *cobra.Command) {
	c.Flags().StringVar(&u.from, "password-file", "", "read the password from a `file`, - for standard input; a newline at its end does not count")
	c.Flags().StringVar(&u.password, "password", "", "the `password` itself: other users of this host can see it while the command runs, and the shell remembers it")
	c.Flags().StringVar(&u.hash, "hash", auth.HashBcrypt, "`kind` of hash: bcrypt or argon2id")
	c.MarkFlagsMutuallyExclusive("password", "password-file")
	_ = c.RegisterFlagCompletionFunc("hash", cobra.FixedCompletions([]string{auth.HashBcrypt, auth.HashArgon2}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

func (u *users) add() *cobra.Command {
	var in auth.NewUser
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user",
		Long: `Adds a user to the users' file, and makes the file if it is not there. The password is asked for on the
terminal, or read from standard input or --password-file. Without --publish, --subscribe or rules in
the file the user may connect and do nothing else.`,
		Example: "  holdfast-broker user add gw-0042 --client-id %u --publish 'gw/%u/#' --subscribe 'cmd/%u/#'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			in.Name = list[0]
			if err := auth.CheckUserName(in.Name); err != nil {
				return program.Usage("%v", err)
			}
			return u.edit(true, func(e *auth.Editor) (err error) {
				if in.Hash, err = u.newHash(); err != nil {
					return err
				}
				if err := e.Add(in); err != nil {
					return err
				}
				return u.say(in.Name, "added")
			})
		},
	}
	u.passwordFlags(c)
	c.Flags().StringArrayVar(&in.Publish, "publish", nil, "a topic `filter` that the user may publish to; %c is the client id, %u the user (repeatable)")
	c.Flags().StringArrayVar(&in.Subscribe, "subscribe", nil, "a topic `filter` that the user may subscribe to (repeatable)")
	c.Flags().StringArrayVar(&in.ClientIDs, "client-id", nil, "a client `id` that the user may have, with * at its end or %u; without it any (repeatable)")
	c.Flags().BoolVar(&in.Superuser, "superuser", false, "the user may do everything")
	return c
}

func (u *users) passwd() *cobra.Command {
	c := &cobra.Command{
		Use:               "passwd NAME",
		Short:             "Change a user's password",
		Long:              `Changes the password of a user. Connections that were let in with the old one end.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: u.complete,
		RunE: func(_ *cobra.Command, list []string) error {
			return u.edit(false, func(e *auth.Editor) error {
				if !e.Users().Has(list[0]) { // before it asks
					return fmt.Errorf("%w: %s", auth.ErrNoUser, list[0])
				}
				hash, err := u.newHash()
				if err == nil {
					err = e.Passwd(list[0], hash)
				}
				if err != nil {
					return err
				}
				return u.say(list[0], "password changed")
			})
		},
	}
	u.passwordFlags(c)
	return c
}

func (u *users) remove() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "Remove a user",
		Long:              `Removes a user and its rules from the users' file. Its connections end.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: u.complete,
		RunE: func(_ *cobra.Command, list []string) error {
			return u.edit(false, func(e *auth.Editor) error {
				if err := e.Remove(list[0]); err != nil {
					return err
				}
				return u.say(list[0], "removed")
			})
		},
	}
}

func (u *users) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List users and what they may do",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := u.read()
			if err != nil {
				return err
			}
			if u.JSON {
				return u.PrintJSON(all)
			}
			if len(all) == 0 {
				fmt.Fprintln(u.Stdout, "there is no user; holdfast-broker user add NAME")
				return nil
			}
			w := tabwriter.NewWriter(u.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "USER\tHASH\tMAY")
			for _, i := range all {
				may := strings.Join(i.Rules, "; ")
				switch {
				case i.Disabled:
					may = "nothing: disabled"
				case i.Superuser:
					may = "everything: superuser"
				case may == "":
					may = "nothing"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", printable(i.Name), i.Hash, printable(may))
			}
			return w.Flush()
		},
	}
}

// read reads the users without locking anything.
func (u *users) read() ([]auth.UserInfo, error) {
	path, err := u.path()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; holdfast-broker user add NAME makes it", err)
	}
	if err != nil {
		return nil, err
	}
	all, problems := auth.ParseUsers(path, data)
	if len(settings.Errors(problems)) > 0 {
		return nil, u.Report(problems, "")
	}
	return all.List(), nil
}

func (u *users) complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := u.read()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, i := range all {
		out = append(out, i.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// newHash asks for a password, wherever it is to come from, and hashes it.
func (u *users) newHash() (string, error) {
	password, err := u.askPassword()
	if err != nil {
		return "", err
	}
	hash, err := auth.HashPassword(u.hash, password, rand.Reader)
	if err != nil {
		return "", program.Usage("%v", err)
	}
	return hash, nil
}

// maxPassword is what MQTT can carry (3.1.3.6).
const maxPassword = 65535

func (u *users) askPassword() ([]byte, error) {
	in, isFile := u.Stdin.(*os.File)
	switch {
	case u.password != "":
		fmt.Fprintln(u.Stderr, "warning: a password on the command line can be seen by others on this host and is kept in the shell's history; let it be asked for, or use --password-file")
		return []byte(u.password), nil
	case u.from != "" && u.from != "-":
		f, err := os.Open(u.from)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readPassword(f)
	case u.from == "" && isFile && term.IsTerminal(int(in.Fd())):
		return u.promptPassword(int(in.Fd()))
	}
	return readPassword(u.Stdin)
}

// readPassword reads to the end; one newline there is an editor's.
func readPassword(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPassword+2))
	if err != nil {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case text == "":
		return nil, program.Usage("the password is empty")
	case len(text) > maxPassword:
		return nil, program.Usage("a password of more than %d bytes", maxPassword)
	}
	return []byte(text), nil
}

func (u *users) promptPassword(fd int) ([]byte, error) {
	ask := func(what string) ([]byte, error) {
		fmt.Fprint(u.Stderr, what)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(u.Stderr)
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		return b, nil
	}
	first, err := ask("Password: ")
	if err != nil {
		return nil, err
	}
	again, err := ask("Again: ")
	if err != nil {
		return nil, err
	}
	if string(first) != string(again) {
		return nil, program.Exit{Code: program.AnswerNo, Msg: "the two are not the same; nothing is changed"}
	}
	return readPassword(bufio.NewReader(strings.NewReader(string(first))))
}
