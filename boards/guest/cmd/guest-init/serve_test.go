package main

import (
	"bufio"
	"encoding/json"
	"net"
	"path/filepath"
	"testing"
)

// TestStream: what is no ask is passed over, bytes behind an ask are its own whatever they are, and each answer says whose it is.
func TestStream(t *testing.T) {
	host, guest := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- newServer().stream(guest) }()
	file := filepath.Join(t.TempDir(), "folder", "file")
	path, _ := json.Marshal(file)
	go func() {
		for _, part := range []string{
			"the rest of what a reboot has cut\n", "\n", `{"Do":"write","Size":-1}` + "\n",
			`{"ID":7,"Do":"write","Path":` + string(path) + `,"Size":4}` + "\n" + "a\n{}",
		} {
			if _, err := host.Write([]byte(part)); err != nil {
				return // the test has ended
			}
		}
	}()
	in := bufio.NewReader(host)
	next := func() (a answer) {
		t.Helper()
		line, err := in.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		return a
	}
	if a := next(); a.ID != 7 || a.Error != "" {
		t.Fatalf("write: %+v", a)
	}
	if _, err := host.Write([]byte(`{"ID":8,"Do":"read","Path":` + string(path) + "}\n" + `{"ID":9,"Do":"fly"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		switch a := next(); {
		case a.ID == 8 && string(a.Data) == "a\n{}":
		case a.ID == 9 && a.Error != "":
		default:
			t.Errorf("%+v", a)
		}
	}
	host.Close()
	if err := <-ended; err == nil {
		t.Error("the stream has not ended with the other side")
	}
}
