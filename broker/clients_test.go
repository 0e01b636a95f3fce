package broker

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestPahoPython and TestMqttJS: what people use. Connect, every QoS both ways, resume, retained, will,
// shared, large payloads with 3.1.1 and 5; properties, aliases, expiry, Receive Maximum, takeover with 5.
func TestPahoPython(t *testing.T) {
	otherClient(t, []string{"/usr/bin/python3", "testdata/clients/paho_python.py"}, "-c import paho.mqtt", "python3-paho-mqtt")
}

func TestMqttJS(t *testing.T) {
	otherClient(t, []string{"node", "testdata/clients/mqttjs.js"}, "-e require('mqtt')", "node-mqtt")
}

// otherClient runs a script of cases against a broker; each prints a line.
func otherClient(t *testing.T, command []string, probe, pkg string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, command[0], args...)
		cmd.Env = append(os.Environ(), "NODE_PATH=/usr/share/nodejs", "PYTHONDONTWRITEBYTECODE=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	flag, code, _ := strings.Cut(probe, " ")
	if out, err := run(flag, code); err != nil {
		t.Fatalf("%s is missing: apt-get install %s (%v)\n%s", pkg, pkg, err, out)
	}
	b := start(t, testConfig(t.TempDir()))
	host, port, _ := net.SplitHostPort(b.addr)
	out, err := run(command[1], host, port)
	if err != nil || !strings.Contains(out, "ok ") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(out)
}
