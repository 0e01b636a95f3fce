package broker

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// tool finds a program of the mosquitto-clients package.
func tool(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install mosquitto-clients", name)
	}
	return path
}

// mosquittoSub starts mosquitto_sub; lines come into the channel.
func mosquittoSub(t *testing.T, addr string, args ...string) (<-chan string, func()) {
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("stdbuf", append([]string{"-oL", tool(t, "mosquitto_sub"), "-h", host, "-p", port, "-d"}, args...)...) // or it would keep its lines
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, ready := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(lines)
		for sc, once := bufio.NewScanner(out), false; sc.Scan(); {
			l := sc.Text()
			if strings.HasPrefix(l, "Subscribed (mid") && !once {
				once = true
				close(ready)
			}
			if !strings.HasPrefix(l, "Client ") && !strings.HasPrefix(l, "Subscribed ") {
				lines <- l
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("mosquitto_sub did not subscribe")
	}
	return lines, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for range lines {
		}
	}
}

func mosquittoPub(t *testing.T, addr string, args ...string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	out, err := exec.Command(tool(t, "mosquitto_pub"), append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("mosquitto_pub %v: %v: %s", args, err, out)
	}
}

// TestMosquittoClients: every QoS, both protocol versions, from mosquitto_pub to mosquitto_sub.
func TestMosquittoClients(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for qos := range 3 {
			t.Run(fmt.Sprintf("%s-qos%d", version, qos), func(t *testing.T) {
				q := fmt.Sprint(qos)
				lines, end := mosquittoSub(t, b.addr, "-V", version, "-q", q, "-t", "a/+/c")
				defer end()
				for i := range 5 {
					mosquittoPub(t, b.addr, "-V", version, "-q", q, "-t", "a/b/c", "-m", fmt.Sprintf("hello %d", i))
				}
				for i := range 5 {
					select {
					case l := <-lines:
						if l != fmt.Sprintf("hello %d", i) {
							t.Fatalf("line %d is %q", i, l)
						}
					case <-time.After(patience):
						t.Fatalf("line %d did not come", i)
					}
				}
			})
		}
	}
}
