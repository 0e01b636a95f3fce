package broker

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestPahoPython and TestMqttJS: what people use. Connect, every QoS both ways, resume, retained, will,
// shared, large payloads with 3.1.1 and 5; properties, aliases, expiry, Receive Maximum, takeover with 5.
func TestPahoPython(t *testing.T) {
	t.Parallel()
	otherClient(t, start(t, testConfig(t.TempDir())).addr, pahoPython)
}

func TestMqttJS(t *testing.T) {
	t.Parallel()
	otherClient(t, start(t, testConfig(t.TempDir())).addr, mqttJS)
}

// TestOverThreeNodes: the same, and each connection goes to the next node of a cluster.
func TestOverThreeNodes(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	var addrs []string
	for _, b := range c.up {
		addrs = append(addrs, b.addr)
	}
	addr := dealOut(t, addrs)
	t.Run("paho", func(t *testing.T) { otherClient(t, addr, pahoPython) })
	t.Run("mqtt.js", func(t *testing.T) { otherClient(t, addr, mqttJS) })
	t.Run("mosquitto_pub", func(t *testing.T) {
		for _, version := range []string{"mqttv311", "mqttv5"} {
			for qos := range 3 {
				q := fmt.Sprint(qos)
				lines, end := mosquittoSub(t, addr, "-V", version, "-q", q, "-t", "a/+/c", "-C", "5")
				for i := range 5 {
					mosquittoPub(t, addr, "-V", version, "-q", q, "-t", "a/b/c", "-m", fmt.Sprint(i))
				}
				var got []string
				for l := range lines { // publishers on three nodes: in any order
					got = append(got, l)
				}
				end()
				if slices.Sort(got); fmt.Sprint(got) != "[0 1 2 3 4]" {
					t.Errorf("%s, QoS %s: %v", version, q, got)
				}
			}
		}
	})
}

// dealOut listens on an address and hands each connection to the next of some others.
func dealOut(t *testing.T, to []string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for i := 0; ; i++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to[i%len(to)])
			if err != nil {
				in.Close()
				continue
			}
			for _, p := range [][2]net.Conn{{in, out}, {out, in}} {
				tasks.Go(func() {
					_, _ = io.Copy(p[0], p[1])
					p[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() { l.Close(); tasks.Wait() })
	return l.Addr().String()
}

// client is a script that speaks through somebody's MQTT library.
type client struct {
	command            []string
	flag, code, debian string // how to see that the library is there, and its package
}

var (
	pahoPython = client{[]string{"/usr/bin/python3", "testdata/clients/paho_python.py"}, "-c", "import paho.mqtt", "python3-paho-mqtt"}
	mqttJS     = client{[]string{"node", "testdata/clients/mqttjs.js"}, "-e", "require('mqtt')", "node-mqtt"}
)

// otherClient runs a script of cases against a broker; each prints a line.
func otherClient(t *testing.T, addr string, c client) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, c.command[0], args...)
		cmd.Env = append(os.Environ(), "NODE_PATH=/usr/share/nodejs", "PYTHONDONTWRITEBYTECODE=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(c.flag, c.code); err != nil {
		t.Fatalf("%s is missing: apt-get install %s (%v)\n%s", c.debian, c.debian, err, out)
	}
	host, port, _ := net.SplitHostPort(addr)
	out, err := run(c.command[1], host, port)
	if err != nil || !strings.Contains(out, "ok ") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(out)
}
