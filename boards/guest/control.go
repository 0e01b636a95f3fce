package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// ask and answer are cmd/guest-init's.
type ask struct {
	ID     int
	Do     string
	Path   string
	Size   int
	Data   []byte `json:"-"` // Size bytes behind the line
	Args   []string
	PID    int
	Signal int
}

type answer struct {
	ID     int
	Data   []byte
	Stderr []byte
	Names  []string
	PID    int
	Exit   int
	Error  string
}

// write sends it.
func (q ask) write(w io.Writer) error {
	q.Size = len(q.Data)
	line, err := json.Marshal(q)
	if err == nil {
		_, err = w.Write(append(append(line, '\n'), q.Data...))
	}
	return err
}

// patience bounds every wait, to end a failure: on a machine that has a tenth of a core for a guest, dpkg takes six minutes.
const patience = 15 * time.Minute

// ask has the guest do something.
func (g *Guest) ask(q ask) (answer, error) { return g.askWithin(patience, q) }

func (g *Guest) askWithin(limit time.Duration, q ask) (answer, error) {
	var a answer
	var err error
	if g.shell != nil {
		a, err = g.shell.ask(limit, q)
	} else {
		a, err = g.askPort(limit, q)
	}
	switch {
	case err != nil:
		return a, fmt.Errorf("%s %s: %w", q.Do, q.Path, err)
	case a.Error != "":
		return a, fmt.Errorf("%s %s: %w", q.Do, q.Path, errors.New(a.Error))
	}
	return a, nil
}

// askPort asks the first program of an initramfs, on its port 7.
func (g *Guest) askPort(limit time.Duration, q ask) (answer, error) {
	var a answer
	conn, err := net.DialTimeout("tcp", g.control, limit)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return a, err
	}
	if err := q.write(conn); err != nil {
		return a, err
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return a, fmt.Errorf("no answer: %w", err)
	}
	return a, nil
}

// Write makes a file, mode 0600, and its folder.
func (g *Guest) Write(path string, data []byte) error {
	_, err := g.ask(ask{Do: "write", Path: path, Data: data})
	return err
}

// Read is a file's content.
func (g *Guest) Read(path string) ([]byte, error) {
	a, err := g.ask(ask{Do: "read", Path: path})
	return a.Data, err
}

// List is the names in a folder.
func (g *Guest) List(path string) ([]string, error) {
	a, err := g.ask(ask{Do: "list", Path: path})
	return a.Names, err
}

// Exec runs a program to its end.
func (g *Guest) Exec(args ...string) (stdout, stderr []byte, exit int, err error) {
	a, err := g.ask(ask{Do: "exec", Args: args})
	return a.Data, a.Stderr, a.Exit, err
}

// Run starts a program whose output goes to the file log; the number is the process's.
func (g *Guest) Run(log string, args ...string) (int, error) {
	a, err := g.ask(ask{Do: "start", Path: log, Args: args})
	return a.PID, err
}

// Signal sends one to a process.
func (g *Guest) Signal(pid int, s os.Signal) error {
	n, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: not one of Linux", s)
	}
	_, err := g.ask(ask{Do: "signal", PID: pid, Signal: int(n)})
	return err
}

// Wait returns when a program of Run has ended.
func (g *Guest) Wait(pid int) (exit int, err error) {
	a, err := g.ask(ask{Do: "wait", PID: pid})
	return a.Exit, err
}

// Sh runs a script in the guest with sh(1) and returns what it wrote; not ending with 0 is an error, with all of that in it.
func (g *Guest) Sh(script string) (string, error) {
	out, stderr, exit, err := g.Exec("/bin/sh", "-c", script)
	if err == nil && exit != 0 {
		err = fmt.Errorf("exit code %d", exit)
	}
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s%s", script, err, out, stderr)
	}
	return string(out), nil
}
