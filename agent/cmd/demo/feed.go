package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// feed is the meter, another process, seen from the demo.
type feed struct {
	*child
	in io.WriteCloser

	mu      sync.Mutex
	last    event
	written []time.Duration // when line i+1 was written
	opened  chan struct{}   // the port is there
	ended   chan struct{}   // it wrote its last line, or is no more
}

func (s *stage) startMeter() (*feed, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, meterWord, "-link", s.path("meter"), "-rate", strconv.Itoa(rate))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// A pipe of our own: exec's would be closed by Wait while the last events are in it.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	f := &feed{in: in, opened: make(chan struct{}), ended: make(chan struct{})}
	f.child, err = s.start("meter", cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go f.listen(r)
	select {
	case <-f.opened:
		return f, nil
	case <-f.ended:
		return nil, errors.New("the meter could not open a pseudo-terminal")
	case <-time.After(5 * time.Second):
		return nil, errors.New("the meter did not open a pseudo-terminal within 5 s")
	}
}

func (f *feed) listen(r *os.File) {
	defer r.Close()
	defer close(f.ended)
	for in := bufio.NewScanner(r); in.Scan(); {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			continue
		}
		f.mu.Lock()
		f.last = e
		if e.Line > uint64(len(f.written)) {
			f.written = append(f.written, e.At)
		}
		f.mu.Unlock()
		switch {
		case e.Port != "":
			close(f.opened)
		case e.Ended:
			return
		}
	}
}

func (f *feed) command(c string) error {
	if _, err := fmt.Fprintln(f.in, c); err != nil {
		return fmt.Errorf("the meter does not listen: %w", err)
	}
	return nil
}

func (f *feed) state() event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// within is the lines that were written from one moment to another.
func (f *feed) within(from, to time.Duration) map[uint64]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	lines := map[uint64]bool{}
	for i, at := range f.written {
		if at >= from && at <= to {
			lines[uint64(i)+1] = true
		}
	}
	return lines
}
