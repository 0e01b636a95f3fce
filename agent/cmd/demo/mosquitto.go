package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// mosquitto runs mosquitto_sub as the subscriber: a client of others, with a session that
// it keeps. It subscribes in a run of its own, so that somebody knows when that stands.
func (s *subscriber) mosquitto(ctx context.Context, resume bool) (line, error) {
	if !resume {
		if out, err := exec.CommandContext(ctx, s.program, append(s.arguments(), "-E")...).CombinedOutput(); err != nil {
			return line{}, fmt.Errorf("%s: %w: %s", s.program, err, out)
		}
	}
	cmd := exec.Command(s.program, s.arguments()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A pipe of our own: exec's would be closed by Wait while the last messages are in it.
	r, w, err := os.Pipe()
	if err != nil {
		return line{}, err
	}
	cmd.Stdout = w
	c, err := s.stage.start("mosquitto_sub", cmd)
	w.Close()
	if err != nil {
		r.Close()
		return line{}, err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer r.Close()
		s.listen(r)
	}()
	return line{gone: gone, close: func() { c.end(time.Second) }}, nil
}

func (s *subscriber) arguments() []string {
	host, port, _ := net.SplitHostPort(s.node().mqtt)
	return []string{"-V", "5", "-h", host, "-p", port, "-i", subscriberID, "-c", "-x", "3600", "-k", "5",
		"-q", "1", "-t", s.topic, "-F", "%t %x %P"}
}

// listen receives what mosquitto_sub prints.
func (s *subscriber) listen(r io.Reader) {
	for in := bufio.NewReader(r); ; {
		text, err := in.ReadString('\n')
		if err != nil {
			return
		}
		s.receive(printed(text))
	}
}

// printed is the message in a line of mosquitto_sub: topic, payload in hexadecimal, user
// properties as name:value. A line that is none is a message without a signature.
func printed(text string) *paho.Publish {
	p := &paho.Publish{Properties: &paho.PublishProperties{}}
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return p
	}
	p.Topic = fields[0]
	p.Payload, _ = hex.DecodeString(fields[1])
	for _, f := range fields[2:] {
		key, value, _ := strings.Cut(f, ":")
		p.Properties.User = append(p.Properties.User, paho.UserProperty{Key: key, Value: value})
	}
	return p
}
