package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestShell: answers come in any order and with rubbish between them, one that comes too late is nobody's, and the end of the
// machine ends every wait.
func TestShell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shell")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var guest sync.WaitGroup
	defer guest.Wait()
	defer l.Close()
	guest.Go(func() { playGuest(t, l) })
	s, err := openShell(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()

	if _, err := s.ask(time.Millisecond, ask{Do: "wait"}); !errors.Is(err, errNoAnswer) {
		t.Errorf("no answer in time: %v", err)
	}
	var both sync.WaitGroup
	for _, text := range []string{"one\n", "two\n"} {
		both.Go(func() {
			if a, err := s.ask(patience, ask{Do: "exec", Data: []byte(text)}); err != nil || string(a.Data) != text {
				t.Errorf("%q: %q, %v", text, a.Data, err)
			}
		})
	}
	both.Wait()
	if _, err := s.ask(patience, ask{Do: "end"}); err == nil || errors.Is(err, errNoAnswer) {
		t.Errorf("QEMU has ended: %v", err)
	}
}

// playGuest echoes what "exec" brings, the later ask first.
func playGuest(t *testing.T, l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	var late []answer
	for in := bufio.NewReader(conn); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var q ask
		if err := json.Unmarshal(line, &q); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		data := make([]byte, q.Size)
		if _, err := io.ReadFull(in, data); err != nil {
			t.Error(err)
		}
		switch q.Do {
		case "end":
			return
		case "exec":
			late = append(late, answer{ID: q.ID, Data: data})
		}
		if len(late) == 2 {
			out := []byte("the end of a line that a reboot cut}\n")
			for _, a := range []answer{late[1], {ID: 1}, late[0]} {
				b, _ := json.Marshal(a)
				out = append(append(out, b...), '\n')
			}
			if _, err := conn.Write(out); err != nil {
				t.Error(err)
			}
		}
	}
}
