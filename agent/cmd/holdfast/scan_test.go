package main

import (
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/devices/drivertest"
	"holdfast/devices/modbus"
	"holdfast/systemd/program"
)

// plc is a Modbus TCP server that has units 1 and 255.
func plc(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer c.Close()
				for q := make([]byte, 12); ; {
					if _, err := io.ReadFull(c, q); err != nil {
						return
					}
					if q[6] == 1 || q[6] == 255 {
						_, _ = c.Write([]byte{q[0], q[1], 0, 0, 0, 5, q[6], 3, 2, 0, 42})
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
	return l.Addr().String()
}

func TestScan(t *testing.T) {
	at := plc(t)
	code, out, stderr := command(t, nil, "devices", "scan", "--server", at, "--slaves", "1-2,255", "--timeout", "3s", "--count", "2")
	if code != program.Done || !strings.Contains(out, "SLAVE") || !strings.Contains(out, "255") || !strings.Contains(out, "2 of 2") || !strings.Contains(stderr, "takes") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
	code, out, _ = command(t, nil, "devices", "scan", "--json", "--server", at, "--slaves", "255", "--timeout", "30s", "--count", "2")
	var got modbus.Scanned
	if err := json.Unmarshal([]byte(out), &got); code != program.Done || err != nil || len(got.Found) != 1 || got.Found[0].Slave != 255 || got.Found[0].Answers != 2 {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}
	code, out, _ = command(t, nil, "devices", "scan", "--server", at, "--slaves", "7", "--timeout", "10ms")
	if code != program.AnswerNo || !strings.Contains(out, "no slave answers") {
		t.Errorf("exit %d\n%s", code, out)
	}
	line := drivertest.NewLine(t)
	code, out, stderr = command(t, nil, "devices", "scan", "--port", line.Path, "--slaves", "1-247", "--limit", "300ms")
	if code != program.AnswerNo || !strings.Contains(out, "no slave answers") || !strings.Contains(stderr, "ended after 300ms") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
}

func TestScanWrongUse(t *testing.T) {
	for want, list := range map[int][]string{
		program.WrongUse: {
			"", "--port /dev/x --server y", "--port /dev/x --slaves 0", "--port /dev/x --slaves 1-300", "--port /dev/x --slaves 9-1", "--port /dev/x --slaves x",
			"--port /dev/x --bauds 5", "--port /dev/x --bauds fast", "--port /dev/x --frames 9X3", "--port /dev/x --rs485 on", "--port /dev/x --limit 0s", "--port /dev/x --timeout 0s", "--port /dev/x now",
		},
		program.CouldNot: {"--port /dev/null", "--port /dev/none"},
	} {
		for _, args := range list {
			code, out, stderr := command(t, nil, append([]string{"devices", "scan"}, strings.Fields(args)...)...)
			if code != want || out != "" || stderr == "" {
				t.Errorf("%s: exit %d, want %d: %s%s", args, code, want, out, stderr)
			}
		}
	}
	if got, err := numbers("1-3, 7,2-4"); err != nil || !slices.Equal(got, []byte{1, 2, 3, 7, 4}) {
		t.Error(got, err)
	}
}

func TestProgress(t *testing.T) {
	var terminal, log strings.Builder
	for w, tty := range map[*strings.Builder]bool{&terminal: true, &log: false} {
		p := newProgress(w, tty, 0)
		for slave := range byte(3) {
			p.step(modbus.Step{Setting: "9600 8N1", Slave: slave, Done: int(slave), Total: 4, Found: 1})
		}
		p.end()
	}
	if n := strings.Count(terminal.String(), "\r\x1b[K9600 8N1: slave"); n != 3 || !strings.HasSuffix(terminal.String(), "\r\x1b[K") {
		t.Errorf("%q", terminal.String())
	}
	if n := strings.Count(log.String(), "9600 8N1"); n != 1 || strings.Contains(log.String(), "\x1b") {
		t.Errorf("%q", log.String())
	}
}
