package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// ask is what the host wants done: a line of JSON, and behind it Size bytes; the answer is a line as
// well. Answers come in the order in which the work is done, so each has the ID of its ask.
type ask struct {
	ID     int
	Do     string   // write, read, list, exec, start, signal, wait
	Path   string   // write, read, list; start: where its output goes
	Size   int      // of Data
	Data   []byte   `json:"-"` // write; exec: standard input
	Args   []string // exec, start
	PID    int      // signal, wait
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

func serve(at string) error {
	l, err := net.Listen("tcp4", at)
	if err != nil {
		return err
	}
	s := newServer()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = s.stream(conn) // whoever hung up does not want it
		}()
	}
}

type server struct {
	mu      sync.Mutex
	running map[int]*exec.Cmd
}

func newServer() *server { return &server{running: map[int]*exec.Cmd{}} }

// stream does what is asked until the other side hangs up. A line that is no ask is passed over: it
// is the rest of one that a reboot has cut.
func (s *server) stream(rw io.ReadWriter) error {
	var writing sync.Mutex
	for in := bufio.NewReaderSize(rw, 64<<10); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		var q ask
		if json.Unmarshal(line, &q) != nil || q.Size < 0 {
			continue
		}
		q.Data = make([]byte, q.Size)
		if _, err := io.ReadFull(in, q.Data); err != nil {
			return err
		}
		go func() {
			a, err := s.do(q)
			if a.ID = q.ID; err != nil {
				a.Error = err.Error()
			}
			line, _ := json.Marshal(a) // of these types everything can be marshalled
			writing.Lock()
			defer writing.Unlock()
			_, _ = rw.Write(append(line, '\n'))
		}()
	}
}

func (s *server) do(q ask) (answer, error) {
	switch q.Do {
	case "write":
		if err := os.MkdirAll(filepath.Dir(q.Path), 0o755); err != nil {
			return answer{}, err
		}
		return answer{}, os.WriteFile(q.Path, q.Data, 0o600)
	case "read":
		data, err := os.ReadFile(q.Path)
		return answer{Data: data}, err
	case "list":
		entries, err := os.ReadDir(q.Path)
		a := answer{}
		for _, e := range entries {
			a.Names = append(a.Names, e.Name())
		}
		return a, err
	case "exec":
		return execute(q)
	case "start":
		return s.start(q)
	case "signal":
		return answer{}, syscall.Kill(q.PID, syscall.Signal(q.Signal))
	case "wait":
		return s.wait(q.PID)
	}
	return answer{}, fmt.Errorf("cannot %q", q.Do)
}

func execute(q ask) (answer, error) {
	if len(q.Args) == 0 {
		return answer{}, errors.New("no program")
	}
	var out, stderr bytes.Buffer
	cmd := exec.Command(q.Args[0], q.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(q.Data), &out, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return answer{}, err
	}
	return answer{Data: out.Bytes(), Stderr: stderr.Bytes(), Exit: cmd.ProcessState.ExitCode()}, nil
}

func (s *server) start(q ask) (answer, error) {
	if len(q.Args) == 0 {
		return answer{}, errors.New("no program")
	}
	out, err := os.Create(q.Path)
	if err != nil {
		return answer{}, err
	}
	defer out.Close() // the program has its own
	cmd := exec.Command(q.Args[0], q.Args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[cmd.Process.Pid] = cmd
	return answer{PID: cmd.Process.Pid}, nil
}

// wait returns when a program that start began has ended; once for each.
func (s *server) wait(pid int) (answer, error) {
	s.mu.Lock()
	cmd := s.running[pid]
	delete(s.running, pid)
	s.mu.Unlock()
	if cmd == nil {
		return answer{}, fmt.Errorf("no program %d was started, or another one waits for it", pid)
	}
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return answer{}, err
	}
	return answer{Exit: cmd.ProcessState.ExitCode()}, nil
}
