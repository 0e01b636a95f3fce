package listen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"holdfast/broker/limits"
)

const (
	wsPath       = "/mqtt"
	wsProtocol   = "mqtt" // [MQTT-6.0.0-3]
	wsHead       = 8 << 10
	wsReadBuffer = 512                  // stays with the connection
	wsMessage    = 4 * limits.MaxPacket // bytes of one message; it may hold several packets, or a part of one [MQTT-6.0.0-2]
	anyOrigin    = "*"

	wsWrite   = 60 * time.Second // as long as a client may take nothing (broker/conn.go)
	wsGoodbye = time.Second      // for the last bytes
)

// wsGate turns an HTTP request into an MQTT connection over WebSocket (5.0 section 6). The same
// port answers /healthz and /readyz, without reasons: a load balancer on another host cannot
// reach the admin API.
type wsGate struct {
	up    websocket.Upgrader
	ready func() bool
}

func newWSGate(origins []string, ready func() bool) *wsGate {
	g := &wsGate{ready: ready}
	g.up = websocket.Upgrader{
		Subprotocols:    []string{wsProtocol},
		WriteBufferSize: 4096,
		WriteBufferPool: &sync.Pool{},
		CheckOrigin:     func(r *http.Request) bool { return mayConnect(r, origins) },
	}
	return g
}

// mayConnect: programs send no Origin; a web page may come from this host, or from where the
// settings say (RFC 6455 section 10.2).
func mayConnect(r *http.Request, origins []string) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(origins, anyOrigin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && (strings.EqualFold(u.Host, r.Host) ||
		slices.ContainsFunc(origins, func(o string) bool { return strings.EqualFold(o, origin) }))
}

// errAnswered: it was a question, and has its answer.
var errAnswered = errors.New("answered")

// open reads the request and answers it; nc has the deadline for both.
func (g *wsGate) open(nc net.Conn) (net.Conn, error) {
	in := bufio.NewReaderSize(io.LimitReader(nc, wsHead), wsReadBuffer)
	r, err := http.ReadRequest(in)
	if err != nil {
		return nil, fmt.Errorf("read the HTTP request: %w", err)
	}
	w := &wsAnswer{nc: nc, in: in, header: http.Header{}}
	switch {
	case r.URL.Path == "/healthz":
		return nil, w.end(http.StatusOK, "ok")
	case r.URL.Path == "/readyz" && g.ready():
		return nil, w.end(http.StatusOK, "ready")
	case r.URL.Path == "/readyz":
		return nil, w.end(http.StatusServiceUnavailable, "not ready")
	case r.URL.Path != wsPath:
		return nil, w.refuse(http.StatusNotFound, "MQTT is at "+wsPath)
	case !slices.Contains(websocket.Subprotocols(r), wsProtocol):
		return nil, w.refuse(http.StatusBadRequest, `the WebSocket subprotocol "mqtt" is missing`)
	}
	ws, err := g.up.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("%w (path %s, origin %q)", err, r.URL.Path, r.Header.Get("Origin"))
	}
	ws.SetReadLimit(wsMessage)
	c := &wsConn{Conn: nc, ws: ws}
	ws.SetPingHandler(c.pong)
	return c, nil
}

// wsAnswer is what the upgrader needs of an HTTP server.
type wsAnswer struct {
	nc     net.Conn
	in     *bufio.Reader
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (w *wsAnswer) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *wsAnswer) WriteHeader(status int) {
	w.status = status
}

// Write implements http.ResponseWriter; a refusal is one short text.
func (w *wsAnswer) Write(text []byte) (int, error) {
	r := http.Response{StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Close: true,
		ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(string(text)))}
	return len(text), r.Write(w.nc)
}

// Hijack implements http.Hijacker. The deadlines are set by whoever owns the connection, not by
// the WebSocket library.
func (w *wsAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return ownDeadlines{w.nc}, bufio.NewReadWriter(w.in, bufio.NewWriterSize(w.nc, 512)), nil
}

func (w *wsAnswer) end(status int, text string) error {
	http.Error(w, text, status)
	return errAnswered
}

func (w *wsAnswer) refuse(status int, text string) error {
	_ = w.end(status, text)
	return errors.New(text)
}

// ownDeadlines ignores deadlines: the library would set one at every write, in a field that is
// not safe to change while another goroutine writes.
type ownDeadlines struct{ net.Conn }

func (ownDeadlines) SetDeadline(time.Time) error      { return nil }
func (ownDeadlines) SetWriteDeadline(time.Time) error { return nil }

// wsConn is the byte stream of a WebSocket's binary messages. One goroutine reads, one writes.
type wsConn struct {
	net.Conn // the connection below: addresses, deadlines
	ws       *websocket.Conn
	message  io.Reader // what is left of it
}

// errNotBinary ends a connection ([MQTT-6.0.0-1]).
var errNotBinary = errors.New("a WebSocket message that is not binary")

// Read reads from as many messages as it takes to have something.
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.NextReader()
			if err != nil {
				return 0, streamEnd(err)
			}
			if kind != websocket.BinaryMessage {
				c.sayClose(websocket.CloseUnsupportedData)
				return 0, errNotBinary
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, streamEnd(err)
		}
	}
}

// streamEnd: a WebSocket that was closed in order is the end of the stream, as with TCP.
func streamEnd(err error) error {
	if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived) {
		return io.EOF
	}
	return err
}

// Write sends one binary message.
func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// pong answers a ping (RFC 6455 section 5.5.3). The deadline of the last write may be long over.
func (c *wsConn) pong(data string) error {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(wsWrite))
	err := c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(wsGoodbye))
	var busy net.Error
	if errors.Is(err, websocket.ErrCloseSent) || errors.As(err, &busy) { // a writer that waits for the client: it will learn that it is alive
		return nil
	}
	return err
}

func (c *wsConn) sayClose(code int) {
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(wsGoodbye))
}

// Close says goodbye, if the client still takes it, and closes the connection below.
func (c *wsConn) Close() error {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(wsGoodbye))
	c.sayClose(websocket.CloseNormalClosure)
	return c.Conn.Close()
}
