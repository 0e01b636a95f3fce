package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"holdfast/broker/mqtt"
)

// tracing is a trace whose lines a test reads.
type tracing struct {
	t     *testing.T
	lines chan TraceLine
	end   func()
}

func traceOf(t *testing.T, b *running, client string) *tracing {
	ctx, cancel := context.WithCancel(t.Context())
	r := &tracing{t: t, lines: make(chan TraceLine, 100)}
	begun, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- b.Trace(ctx, client, func() error { close(begun); return nil }, func(l TraceLine) error { r.lines <- l; return nil })
	}()
	<-begun
	r.end = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("a trace ended with %v", err)
		}
	}
	return r
}

// want reads lines "dir TYPE" in order.
func (r *tracing) want(lines ...string) (last TraceLine) {
	r.t.Helper()
	for _, w := range lines {
		last = <-r.lines
		if got := last.Dir + " " + last.Type; got != w {
			r.t.Fatalf("%s (%+v) instead of %s", got, last, w)
		}
	}
	return last
}

// TestTrace: a client that is not connected yet, everything it says and hears, and its end.
func TestTrace(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	other, _ := dialRaw(t, b.addr, "other", v5)
	r := traceOf(t, b, "c")
	c, _ := dialRaw(t, b.addr, "c", opts{keep: 30, expiry: 60})
	if l := r.want(" OPENED", "in CONNECT"); l.Client != "c" || l.Version != "5.0" || l.Keep != 30 || l.Size != len(connectPacket("c", opts{keep: 30, expiry: 60, version: 5})) {
		t.Errorf("%+v", l)
	}
	if l := r.want("out CONNACK"); l.Code != "0x00" || l.Present {
		t.Errorf("%+v", l)
	}
	c.subscribe(1, "a/#")
	if l := r.want("in SUBSCRIBE"); fmt.Sprint(l.Filters) != "[a/# qos 1]" {
		t.Errorf("%+v", l)
	}
	if l := r.want("out SUBACK"); fmt.Sprint(l.Codes) != "[0x01]" {
		t.Errorf("%+v", l)
	}
	other.publish("a/b", "hello", 1)
	m := c.take()
	if l := r.want("out PUBLISH"); l.Topic != "a/b" || *l.QoS != 1 || *l.Payload != 5 || l.ID != m.id || l.Size != 2+5+2+1+5 {
		t.Errorf("%+v", l)
	}
	if l := r.want("in PUBACK"); l.ID != m.id || l.Code != "0x00" {
		t.Errorf("%+v", l)
	}
	c.publish("$SYS/x", "", 9)
	if l := r.want("in PUBLISH", "out PUBACK"); l.Code != "0x90" || l.Reason == "" {
		t.Errorf("%+v", l)
	}
	second := traceOf(t, b, "c") // of a client that is connected
	c.write([]byte{mqtt.PINGREQ << 4, 0})
	r.want("in PINGREQ", "out PINGRESP")
	second.want("in PINGREQ", "out PINGRESP")
	second.end()
	c.disconnect()
	if l := r.want("in DISCONNECT", " CLOSED"); l.Note == "" {
		t.Errorf("%+v", l)
	}
	r.end()
	if n := b.tracer.n.Load(); n != 0 || len(b.tracer.m) != 0 {
		t.Errorf("%d traces are left", n)
	}
	c, _ = dialRaw(t, b.addr, "c", v5)
	if b.sessions.get("c").conn.traced.Load() {
		t.Error("a client is traced for nobody")
	}
	c.disconnect()
}

// TestTraceIsBounded: a reader that does not read costs lines, not memory and not the client.
func TestTraceIsBounded(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	tr := b.tracer.begin("c")
	defer b.tracer.end("c", tr)
	c, _ := dialRaw(t, b.addr, "c", v5)
	for range traceLines {
		c.quiet()
	}
	if len(tr.lines) != traceLines || tr.missed.Load() == 0 {
		t.Errorf("%d lines wait, %d missed", len(tr.lines), tr.missed.Load())
	}
}
