package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// shell is the way into a guest that has a system of its own: a virtio-serial port, on which
// guest-init serves. It needs no network there, and outlives reboots of the guest.
type shell struct {
	conn  net.Conn
	ended chan struct{}

	writing sync.Mutex

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
}

func openShell(path string) (*shell, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	s := &shell{conn: conn, ended: make(chan struct{}), waiting: map[int]chan answer{}}
	go s.read()
	return s, nil
}

// read hands out the answers until QEMU has ended. One that nobody waits for any more is passed
// over, as is the rest of one that a reboot has cut.
func (s *shell) read() {
	defer close(s.ended)
	for in := bufio.NewReader(s.conn); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var a answer
		if json.Unmarshal(line, &a) != nil {
			continue
		}
		s.mu.Lock()
		to := s.waiting[a.ID]
		delete(s.waiting, a.ID)
		s.mu.Unlock()
		if to != nil {
			to <- a
		}
	}
}

var errNoAnswer = errors.New("no answer in time")

func (s *shell) ask(limit time.Duration, q ask) (answer, error) {
	to := make(chan answer, 1)
	s.mu.Lock()
	s.last++
	q.ID = s.last
	s.waiting[q.ID] = to
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting, q.ID)
	}()
	late := time.NewTimer(limit)
	defer late.Stop()
	if err := s.send(limit, q); err != nil {
		return answer{}, err
	}
	select {
	case a := <-to:
		return a, nil
	case <-s.ended:
		return answer{}, errors.New("QEMU has ended")
	case <-late.C:
		return answer{}, fmt.Errorf("%w: %v", errNoAnswer, limit)
	}
}

// send is one whole ask at a time.
func (s *shell) send(limit time.Duration, q ask) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return q.write(s.conn)
}

// close waits for the reader.
func (s *shell) close() {
	_ = s.conn.Close()
	<-s.ended
}
