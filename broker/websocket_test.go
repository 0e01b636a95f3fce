package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// wsConfig is a broker with a WebSocket listener and no other.
func wsConfig(t testing.TB) Config {
	cfg := testConfig(t.TempDir())
	cfg.Listen.MQTT, cfg.Listen.WS = "", "127.0.0.1:0"
	return cfg
}

// wsClient is rawClient over WebSocket: what it writes is cut into messages of so many bytes.
type wsClient struct {
	net.Conn
	ws   *websocket.Conn
	size int
	rest []byte
}

func (c *wsClient) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += c.size {
		if err := c.ws.WriteMessage(websocket.BinaryMessage, p[at:min(at+c.size, len(p))]); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

func (c *wsClient) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		kind, data, err := c.ws.ReadMessage()
		if err != nil {
			return 0, err
		}
		if kind != websocket.BinaryMessage {
			return 0, fmt.Errorf("message of type %d", kind) // [MQTT-6.0.0-1]
		}
		c.rest = data
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func dialWS(t testing.TB, url string, header http.Header, tc *tls.Config) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: tc, HandshakeTimeout: patience}
	ws, resp, err := d.Dial(url, header)
	if err == nil {
		t.Cleanup(func() { ws.Close() })
		if ws.Subprotocol() != "mqtt" { // [MQTT-6.0.0-4]
			t.Fatalf("subprotocol %q", ws.Subprotocol())
		}
	}
	return ws, resp, err
}

// connectWS connects an MQTT client over WebSocket, in messages of size bytes.
func connectWS(t testing.TB, url, id string, o opts, size int, tc *tls.Config) *rawClient {
	t.Helper()
	ws, _, err := dialWS(t, url, nil, tc)
	if err != nil {
		t.Fatal(err)
	}
	if o.version == 0 {
		o.version = mqtt.V5
	}
	nc := &wsClient{Conn: ws.NetConn(), ws: ws, size: size}
	c := &rawClient{t: t, nc: nc, r: bufio.NewReader(nc), version: o.version}
	keep(t, c)
	c.write(connectPacket(id, o))
	if p := c.expect(mqtt.CONNACK); p.body[1] != 0 {
		t.Fatalf("CONNACK %x", p.body)
	}
	return c
}

// TestWebSocket: packets that span messages, several in one message, a large one, a ping, an
// orderly close.
func TestWebSocket(t *testing.T) {
	b := start(t, wsConfig(t))
	url := "ws://" + b.addr + "/mqtt"
	for _, size := range []int{1, 7, 1 << 20} {
		c := connectWS(t, url, fmt.Sprint("c", size), v5, size, nil)
		c.subscribe(1, "a/#")
		payload := strings.Repeat("x", 3000)
		if size > 7 {
			payload = strings.Repeat("x", 700_000)
		}
		c.write(c.publishPacket("a/b", payload, 2, 1, nil))
		for range 2 { // PUBACK and the message, in either order
			p := must(c.next())(t)
			if p.kind == mqtt.PUBLISH {
				if m := p.message(mqtt.V5); m.payload != payload {
					t.Errorf("payload of %d bytes", len(m.payload))
				}
				c.ack(mqtt.PUBACK, p.message(mqtt.V5).id)
			} else if p.kind != mqtt.PUBACK {
				t.Errorf("packet %d", p.kind)
			}
		}
		ws := c.nc.(*wsClient)
		ping := []byte{mqtt.PINGREQ << 4, 0}
		if err := ws.ws.WriteMessage(websocket.BinaryMessage, bytes.Repeat(ping, 3)); err != nil { // [MQTT-6.0.0-2]
			t.Fatal(err)
		}
		for range 3 {
			c.expect(mqtt.PINGRESP)
		}
		pong := make(chan string, 1)
		ws.ws.SetPongHandler(func(data string) error { pong <- data; return nil })
		if err := ws.ws.WriteControl(websocket.PingMessage, []byte("there?"), time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		c.quiet() // reads the pong on its way
		select {
		case data := <-pong:
			if data != "there?" {
				t.Errorf("pong %q", data)
			}
		default:
			t.Error("a ping without a pong")
		}
	}
	eventually(t, "all sessions are connected", func() bool { return b.Gauges().Connections == 3 })
}

// upgraded asks for MQTT over WebSocket on a connection that is open already.
func upgraded(t testing.TB, nc net.Conn) net.Conn {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, NetDial: func(string, string) (net.Conn, error) { return nc, nil }}
	ws, _, err := d.Dial("ws://127.0.0.1/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	return &wsClient{Conn: nc, ws: ws, size: 50}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestWebSocketEnds: how each side ends it.
func TestWebSocketEnds(t *testing.T) {
	b := start(t, wsConfig(t))
	url := "ws://" + b.addr + "/mqtt"
	t.Run("text", func(t *testing.T) {
		c := connectWS(t, url, "text", v5, 100, nil)
		ws := c.nc.(*wsClient).ws
		if err := ws.WriteMessage(websocket.TextMessage, []byte{mqtt.PINGREQ << 4, 0}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseUnsupportedData) {
			t.Errorf("%v", err)
		}
	})
	t.Run("message without an end", func(t *testing.T) {
		c := connectWS(t, url, "long", v5, 100, nil)
		ws := c.nc.(*wsClient).ws
		junk := bytes.Repeat(c.publishPacket("a", strings.Repeat("x", 60_000), 0, 0, nil), 100)
		_ = ws.WriteMessage(websocket.BinaryMessage, junk)
		var err error
		for err == nil {
			_, _, err = ws.ReadMessage()
		}
		if !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
			t.Errorf("%v", err)
		}
	})
	t.Run("close by the client", func(t *testing.T) {
		c := connectWS(t, url, "close", v5, 100, nil)
		ws := c.nc.(*wsClient).ws
		if err := ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("%v", err)
		}
	})
	t.Run("taken over", func(t *testing.T) {
		c := connectWS(t, url, "twice", v5, 100, nil)
		connectWS(t, url, "twice", v5, 100, nil)
		if p := c.expect(mqtt.DISCONNECT); p.body[0] != mqtt.SessionTakenOver {
			t.Errorf("DISCONNECT %x", p.body)
		}
		if _, _, err := c.nc.(*wsClient).ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("%v", err)
		}
	})
	if n := b.Stats().Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestWebSocketRequests: what is no MQTT over WebSocket is told so.
func TestWebSocketRequests(t *testing.T) {
	cfg := wsConfig(t)
	cfg.Listen.WSOrigins = []string{"https://panel.example"}
	b := start(t, cfg)
	for _, c := range []struct {
		name, path string
		header     http.Header
		status     int
	}{
		{"same host", "/mqtt", http.Header{"Origin": {"http://" + b.addr}}, http.StatusSwitchingProtocols},
		{"listed page", "/mqtt", http.Header{"Origin": {"https://Panel.example"}}, http.StatusSwitchingProtocols},
		{"another page", "/mqtt", http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden},
		{"another scheme", "/mqtt", http.Header{"Origin": {"http://panel.example"}}, http.StatusForbidden},
		{"another path", "/", nil, http.StatusNotFound},
	} {
		_, resp, err := dialWS(t, "ws://"+b.addr+c.path, c.header, nil)
		if resp == nil || resp.StatusCode != c.status {
			t.Errorf("%s: %v, %v", c.name, resp, err)
		}
	}
	d := websocket.Dialer{Subprotocols: []string{"stomp"}}
	if _, resp, err := d.Dial("ws://"+b.addr+"/mqtt", nil); err == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another subprotocol: %v, %v", resp, err)
	}
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + b.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, strings.TrimSpace(string(body))
	}
	if code, _ := get("/mqtt"); code != http.StatusBadRequest {
		t.Errorf("GET /mqtt: %d", code)
	}
	if code, text := get("/readyz"); code != http.StatusOK || text != "ready" {
		t.Errorf("/readyz: %d %q", code, text)
	}
	turnedAway := &b.Stats().Front.Refused[listen.RefusedWebSocket]
	eventually(t, "five connections are counted as turned away", func() bool { return turnedAway.Load() == 5 })
	b.unready(errors.New("a secret reason"))
	if code, text := get("/readyz"); code != http.StatusServiceUnavailable || text != "not ready" {
		t.Errorf("/readyz: %d %q", code, text)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	if n := turnedAway.Load(); n != 5 {
		t.Errorf("a question about health counts as turned away: %d", n)
	}
}
