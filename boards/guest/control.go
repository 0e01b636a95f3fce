package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// ask and answer are cmd/guest-init's.
type ask struct {
	Do     string
	Path   string
	Data   []byte
	Args   []string
	PID    int
	Signal int
}

type answer struct {
	Data   []byte
	Stderr []byte
	Names  []string
	PID    int
	Exit   int
	Error  string
}

// patience bounds every wait, to end a failure: a program in a guest on a busy machine may take long.
const patience = 5 * time.Minute

func (g *Guest) ask(q ask) (answer, error) {
	var a answer
	conn, err := net.DialTimeout("tcp", g.control, patience)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return a, err
	}
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return a, fmt.Errorf("%s: %w", q.Do, err)
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return a, fmt.Errorf("%s: no answer: %w", q.Do, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s %s: %w", q.Do, q.Path, errors.New(a.Error))
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
