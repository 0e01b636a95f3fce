package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/broker/auth/servers"
	"holdfast/broker/mqtt"
)

// The tests of the door run the program with a source of users that is real, and go through it with Paho's client (MQTT 5)
// and, for 3.1.1, by hand: every byte of an answer counts there.

// authDoor is a running holdfast-broker with [[auth]].
type authDoor struct {
	t        *testing.T
	dir      string
	addr     string // of mqtt
	tlsAddr  string // of mqtts, if it is open
	log      *output
	clientCA *servers.CA
	boss     *guest
}

// boss is in front of every other source: a superuser of a file, who publishes what others get. His password is "boss".
const bossUsers = "[[user]]\nname = \"boss\"\npassword = \"$2a$04$8GeH.ujUSYd5gNnO0c1dmulZ9no5XAxJLFhoqPjf44WM6KjVK0YI.\"\nsuperuser = true\n"

// openDoor starts the broker: tables are [[auth]] tables. With a CA it has a TLS listener that requires certificates of it.
func openDoor(t *testing.T, tables string, ca *servers.CA) *authDoor {
	t.Helper()
	d := &authDoor{t: t, dir: t.TempDir(), log: &output{}, clientCA: ca}
	listen := "mqtt = \"127.0.0.1:0\"\nadmin = \"\"\n"
	open := 1
	if ca != nil {
		own := ca.Pair(t, "broker", time.Time{})
		listen += fmt.Sprintf("mqtts = \"127.0.0.1:0\"\ncert_file = %q\nkey_file = %q\nclient_ca_file = %q\nclient_cert_required = [\"mqtts\"]\n", own.Cert, own.Key, ca.File)
		open++
	}
	d.file("boss.toml", bossUsers)
	d.file("broker.toml", "[node]\nname = \"n1\"\ndata_dir = \"d\"\n[listen]\n"+listen+"[access]\nrefused_delay = \"10ms\"\n[limits]\nlogin_failures = 0\n[[auth]]\ntype = \"file\"\npath = \"boss.toml\"\n"+tables)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: []string{"holdfast-broker", "run", "--config", "broker.toml"}, Dir: d.dir, Stderr: d.log, SysProcAttr: withUs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the broker does not end")
		}
		_ = cmd.Process.Kill()
		<-ended
		if cmd.ProcessState.ExitCode() != 0 || t.Failed() {
			t.Errorf("%v: %s", cmd.ProcessState, d.logged())
		}
	})
	c, err := admin.NewClient("unix:"+filepath.Join(d.dir, "d", admin.SocketFile), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, func() error {
		select {
		case <-ended:
			t.Fatalf("the broker has ended: %s", d.logged())
		default:
		}
		var s broker.StatusBody
		if err := c.Get(t.Context(), "/v1/status", &s); err != nil {
			return err
		}
		if len(s.NotReady) > 0 || len(s.Listen) != open {
			return fmt.Errorf("not ready: %v", s.NotReady)
		}
		if d.addr = s.Listen[0]; ca != nil {
			d.tlsAddr = s.Listen[1]
		}
		return nil
	})
	d.boss = d.enter("boss", "boss", "boss", nil)
	return d
}

func (d *authDoor) file(name, text string) string {
	d.t.Helper()
	name = filepath.Join(d.dir, name)
	if err := errors.Join(os.WriteFile(name+".new", []byte(text), 0o600), os.Rename(name+".new", name)); err != nil {
		d.t.Fatal(err)
	}
	return name
}

func (d *authDoor) logged() string {
	d.log.mu.Lock()
	defer d.log.mu.Unlock()
	return d.log.b.String()
}

// guest is Paho's client.
type guest struct {
	*paho.Client
	t    *testing.T
	id   string
	got  chan *paho.Publish
	gone chan *paho.Disconnect // from the broker

	mu    sync.Mutex
	round int
}

// knock tries to connect with MQTT 5, over TLS if a certificate is given, and says how it was answered; the guest is nil unless it is let in.
func (d *authDoor) knock(id, user, password string, pair *servers.Pair) (*guest, *paho.Connack) {
	d.t.Helper()
	g := &guest{t: d.t, id: id, got: make(chan *paho.Publish, 1000), gone: make(chan *paho.Disconnect, 1)}
	g.Client = paho.NewClient(paho.ClientConfig{Conn: d.dial(pair), PacketTimeout: patience,
		OnServerDisconnect: func(x *paho.Disconnect) { g.gone <- x },
		OnPublishReceived:  []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) { g.got <- p.Packet; return true, nil }}})
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	ack, err := g.Connect(ctx, &paho.Connect{ClientID: id, KeepAlive: 300, CleanStart: true, Username: user, UsernameFlag: user != "", Password: []byte(password), PasswordFlag: password != ""})
	if ack == nil {
		d.t.Fatalf("%s: no CONNACK: %v", id, err)
	}
	if ack.ReasonCode != 0 {
		return nil, ack
	}
	d.t.Cleanup(func() { _ = g.Disconnect(&paho.Disconnect{}) }) // it may have been sent away
	return g, ack
}

func (d *authDoor) dial(pair *servers.Pair) net.Conn {
	d.t.Helper()
	nc, err := net.Dial("tcp", d.addr)
	if pair != nil {
		_ = nc.Close()
		nc, err = tls.Dial("tcp", d.tlsAddr, d.tlsOf(pair))
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return packets.NewThreadSafeConn(nc)
}

func (d *authDoor) tlsOf(pair *servers.Pair) *tls.Config {
	return &tls.Config{RootCAs: d.clientCA.Pool(), Certificates: []tls.Certificate{pair.TLS}, MinVersion: tls.VersionTLS12}
}

// enter is knock by somebody who has to be let in, in the end: a slow machine may be too slow for a source's timeout.
func (d *authDoor) enter(id, user, password string, pair *servers.Pair) (g *guest) {
	d.t.Helper()
	eventually(d.t, func() error {
		var ack *paho.Connack
		if g, ack = d.knock(id, user, password, pair); g == nil {
			return fmt.Errorf("%s is refused: 0x%02x\n%s", id, ack.ReasonCode, d.logged())
		}
		return nil
	})
	return g
}

// refused waits for the reason code of MQTT 5, with a reason string, and the return code of 3.1.1.
func (d *authDoor) refused(what, id, user, password string, five, three byte) {
	d.t.Helper()
	eventually(d.t, func() error {
		g, ack := d.knock(id, user, password, nil)
		if g != nil {
			_ = g.Disconnect(&paho.Disconnect{}) // it should not be there
		}
		switch {
		case ack.ReasonCode != five:
			return fmt.Errorf("%s: 0x%02x, want 0x%02x\n%s", what, ack.ReasonCode, five, d.logged())
		case ack.Properties == nil || ack.Properties.ReasonString == "":
			return fmt.Errorf("%s: no reason string", what)
		}
		if _, code := d.knock3(id, user, password); code != three {
			return fmt.Errorf("%s, 3.1.1: %d, want %d", what, code, three)
		}
		return nil
	})
}

// publish returns the reason code, and the reason string.
func (g *guest) publish(topic string, qos byte, retain bool, size int) (byte, string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	r, err := g.Publish(ctx, &paho.Publish{Topic: topic, QoS: qos, Retain: retain, Payload: make([]byte, size)})
	if r == nil {
		g.t.Fatalf("%s: publish to %s: %v", g.id, topic, err)
	}
	if r.Properties == nil {
		return r.ReasonCode, ""
	}
	return r.ReasonCode, r.Properties.ReasonString
}

// may wants a publish to be accepted or refused with 0x87 and a reason.
func (g *guest) may(yes bool, topic string, qos byte, retain bool, size int, reason string) {
	g.t.Helper()
	code, text := g.publish(topic, qos, retain, size)
	if yes && code >= 0x80 || !yes && (code != mqtt.NotAuthorized || text != reason) {
		g.t.Errorf("%s publishes to %s, QoS %d, retain %v, %d bytes: 0x%02x %q", g.id, topic, qos, retain, size, code, text)
	}
}

// subscribe asks for QoS 2 and returns the codes.
func (g *guest) subscribe(filters ...string) []byte {
	g.t.Helper()
	s := &paho.Subscribe{}
	for _, f := range filters {
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: 2})
	}
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	r, err := g.Subscribe(ctx, s)
	if r == nil {
		g.t.Fatalf("%s: subscribe to %v: %v", g.id, filters, err)
	}
	return r.Reasons
}

// gets says whether a message to topic reaches the guest. What follows it to after always does.
func (d *authDoor) gets(g *guest, topic, after string) (yes bool) {
	d.t.Helper()
	g.mu.Lock()
	g.round++
	n := fmt.Sprint(g.id, " ", g.round)
	g.mu.Unlock()
	for _, to := range []string{topic, after} {
		ctx, cancel := context.WithTimeout(d.t.Context(), patience)
		_, err := d.boss.Publish(ctx, &paho.Publish{Topic: to, QoS: 1, Payload: []byte(n)})
		cancel()
		if err != nil {
			d.t.Fatal(err)
		}
	}
	for {
		select {
		case m := <-g.got:
			if string(m.Payload) != n {
				continue
			}
			if yes = yes || m.Topic == topic; m.Topic == after {
				return yes
			}
		case <-time.After(patience):
			d.t.Fatalf("%s gets nothing: %s", g.id, d.logged())
		}
	}
}

// loses waits until messages to topic do not reach the guest any more, who stays connected, and wants it to stay so.
func (d *authDoor) loses(g *guest, topic, after string) {
	d.t.Helper()
	eventually(d.t, func() error {
		if d.gets(g, topic, after) {
			return fmt.Errorf("%s still gets %s", g.id, topic)
		}
		return nil
	})
	for range 5 {
		if d.gets(g, topic, after) {
			d.t.Errorf("%s gets %s again", g.id, topic)
		}
	}
}

// regains waits until they do again.
func (d *authDoor) regains(g *guest, topic, after string) {
	d.t.Helper()
	eventually(d.t, func() error {
		if !d.gets(g, topic, after) {
			return fmt.Errorf("%s does not get %s", g.id, topic)
		}
		return nil
	})
}

// sentAway waits for the broker's DISCONNECT.
func (g *guest) sentAway(code byte) {
	g.t.Helper()
	select {
	case x := <-g.gone:
		if x.ReasonCode != code {
			g.t.Errorf("%s is sent away with 0x%02x, want 0x%02x", g.id, x.ReasonCode, code)
		}
	case <-time.After(patience):
		g.t.Errorf("%s is not sent away", g.id)
	}
}

// old is a client of MQTT 3.1.1.
type old struct {
	t  *testing.T
	nc net.Conn
}

// knock3 connects and returns the return code (3.1.1, section 3.2.2.3).
func (d *authDoor) knock3(id, user, password string) (*old, byte) {
	d.t.Helper()
	o := &old{d.t, d.dial(nil)}
	d.t.Cleanup(func() { _ = o.nc.Close() }) // it may be closed
	body, flags := append(mqtt.AppendText(nil, "MQTT"), 4), byte(2)
	if user != "" {
		flags |= 0x80
	}
	if password != "" {
		flags |= 0x40
	}
	body = mqtt.AppendText(append(body, flags, 0, 0), id)
	if user != "" {
		body = mqtt.AppendText(body, user)
	}
	if password != "" {
		body = mqtt.AppendText(body, password)
	}
	ack := o.ask(mqtt.CONNECT<<4, body, mqtt.CONNACK)
	return o, ack[1]
}

// ask sends a packet and returns the body of the answer.
func (o *old) ask(first byte, body []byte, answer byte) []byte {
	o.t.Helper()
	_ = o.nc.SetDeadline(time.Now().Add(patience))
	if _, err := o.nc.Write(append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)); err != nil {
		o.t.Fatal(err)
	}
	var head [2]byte
	if _, err := io.ReadFull(o.nc, head[:]); err != nil || head[0]>>4 != answer || head[1] > 127 {
		o.t.Fatalf("% x instead of packet %d: %v", head, answer, err)
	}
	rest := make([]byte, head[1])
	if _, err := io.ReadFull(o.nc, rest); err != nil {
		o.t.Fatal(err)
	}
	return rest
}

// publish publishes with QoS 1; there is no refusal in 3.1.1 (section 3.3.5).
func (o *old) publish(topic string) {
	o.t.Helper()
	if ack := o.ask(mqtt.PUBLISH<<4|2, append(mqtt.AppendText(nil, topic), 0, 7, 'x'), mqtt.PUBACK); string(ack) != "\x00\x07" {
		o.t.Errorf("PUBACK % x", ack)
	}
}

// subscribe returns the return code.
func (o *old) subscribe(filter string) byte {
	o.t.Helper()
	return o.ask(mqtt.SUBSCRIBE<<4|2, append(mqtt.AppendText([]byte{0, 9}, filter), 2), mqtt.SUBACK)[2]
}

// noSecrets: nothing of that may stand in the log.
func (d *authDoor) noSecrets(secrets ...string) {
	d.t.Helper()
	for _, s := range secrets {
		if strings.Contains(d.logged(), s) {
			d.t.Errorf("%q stands in the log: %s", s, d.logged())
		}
	}
}
