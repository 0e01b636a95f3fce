package uplink

import (
	"context"
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"holdfast/systemd/freeport"
)

// publish has mosquitto_pub publish a retained message: it comes whenever the
// subscription is there.
func publish(t *testing.T, m *mosquitto, topic, payload string, more ...string) {
	t.Helper()
	_, port, _ := strings.Cut(m.addr, ":")
	args := append([]string{"-h", "127.0.0.1", "-p", port, "-V", "5", "-q", "1", "-r", "-t", topic, "-m", payload}, more...)
	if out, err := exec.Command("mosquitto_pub", args...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v %s (Debian package mosquitto-clients)", err, out)
	}
}

func TestSubscribe(t *testing.T) {
	m := newMosquitto(t, "", "")
	m.start()
	t.Cleanup(m.kill)
	publish(t, m, "gw/a", "1", "-D", "publish", "content-type", "text/plain",
		"-D", "publish", "user-property", "k", "v1", "-D", "publish", "user-property", "k", "v2")
	publish(t, m, "gw/b", "2")
	publish(t, m, "other", "3")
	dead := fmt.Sprintf("mqtt://127.0.0.1:%d", freeport.Port(t))
	got := map[string]Message{}
	err := Subscribe(context.Background(), Config{ClientID: "s", Servers: []string{dead, "mqtt://" + m.addr}}, "gw/#", func(m Message) bool {
		got[m.Topic] = m
		return len(got) < 2
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Message{
		"gw/a": {Topic: "gw/a", ContentType: "text/plain", UserProperties: [][2]string{{"k", "v1"}, {"k", "v2"}}, Payload: []byte("1")},
		"gw/b": {Topic: "gw/b", Payload: []byte("2")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestSubscribeEnds(t *testing.T) {
	m := newMosquitto(t, "", "")
	m.start()
	t.Cleanup(m.kill)
	publish(t, m, "a", "1")
	cfg := Config{ClientID: "s", Servers: []string{"mqtt://" + m.addr}}

	ctx, cancel := context.WithCancel(context.Background())
	if err := Subscribe(ctx, cfg, "a", func(Message) bool { cancel(); return true }); err != nil {
		t.Error("with its context:", err)
	}
	err := Subscribe(context.Background(), cfg, "a", func(Message) bool { m.kill(); return true })
	if err == nil || !strings.Contains(err.Error(), "connection lost") {
		t.Error("with its connection:", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := Subscribe(ctx, cfg, "a", nil); err == nil || !strings.Contains(err.Error(), m.addr) {
		t.Error("nobody listens:", err)
	}
	if err := Subscribe(ctx, Config{ClientID: "s", Servers: []string{"http://x"}}, "a", nil); err == nil || !strings.Contains(err.Error(), "scheme") {
		t.Error("wrong URL:", err)
	}
}

func TestSubscribeRefused(t *testing.T) {
	m := newMosquitto(t, "", "")
	m.start()
	t.Cleanup(m.kill)
	cfg := Config{ClientID: "s", Servers: []string{"mqtt://" + m.addr}}
	err := Subscribe(context.Background(), cfg, "a/#/b", func(Message) bool { return true })
	if err == nil {
		t.Error("a filter that is none was taken")
	}
}
