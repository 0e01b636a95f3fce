package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
)

// office is an HTTP server that knows users.
type office struct {
	t    *testing.T
	addr string

	mu       sync.Mutex
	password string        // ann's
	until    time.Time     // with her answers; zero: none
	hanging  chan struct{} // closed: it goes on; nil: it does not hang
	asked    atomic.Int64

	srv  *http.Server
	over chan struct{}
}

func (o *office) start() {
	o.t.Helper()
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		o.t.Fatal(err)
	}
	srv, over := &http.Server{Handler: o}, make(chan struct{})
	o.srv, o.over = srv, over
	go func() { defer close(over); _ = srv.Serve(l) }() // it ends with die
}

func (o *office) die() {
	_ = o.srv.Close() // also connections that are asked on
	<-o.over
}

func (o *office) hang() { o.mu.Lock(); defer o.mu.Unlock(); o.hanging = make(chan struct{}) }

func (o *office) goOn() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hanging != nil {
		close(o.hanging)
	}
	o.hanging = nil
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.asked.Add(1)
	o.mu.Lock()
	hanging, password, until := o.hanging, o.password, o.until
	o.mu.Unlock()
	if hanging != nil {
		select {
		case <-hanging:
		case <-r.Context().Done():
		}
	}
	var q struct{ Username, Password string }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	answer := map[string]any{"result": "ignore"}
	switch {
	case q.Username == "ann" && q.Password == password:
		answer = map[string]any{"result": "allow", "rules": []map[string]any{
			{"access": "publish", "filter": "up/%c", "max_qos": 1, "retain": false}, {"access": "subscribe", "filter": "down/#"}, {"access": "subscribe", "filter": "keep/#"}}}
		if !until.IsZero() {
			answer["until"] = until
		}
	case q.Username == "ann":
		answer = map[string]any{"result": "deny", "reason": "wrong password"}
	}
	_ = json.NewEncoder(w).Encode(answer) // who asked may be gone
}

func (o *office) set(password string, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.password, o.until = password, until
}

// TestDoorHTTP: one question per connection and none per message; a server that is away is left alone for a while.
func TestDoorHTTP(t *testing.T) {
	t.Parallel()
	o := &office{t: t, addr: freeport.Addr(t), password: "ann-secret"}
	o.start()
	t.Cleanup(func() { o.goOn(); o.die() })
	k := &kept{
		tables:  fmt.Sprintf("[[auth]]\ntype = \"http\"\nurl = \"http://%s/mqtt\"\ntimeout = \"1s\"\nbreak_after = 2\nbreaker_pause = \"1s\"\n", o.addr),
		granted: 2,
		more: func(t *testing.T, d *authDoor) {
			ann := d.enter("c-2", "ann", "ann-secret", nil)
			ann.may(false, "up/c-2", 2, false, 10, "not authorized: QoS too high")
			ann.may(false, "up/c-2", 1, true, 10, "not authorized: retain")
			before := o.asked.Load()
			for range 100 {
				ann.may(true, "up/c-2", 1, false, 10, "")
			}
			if n := o.asked.Load() - before; n > 0 {
				t.Errorf("%d questions for 100 messages", n)
			}
			o.set("ann-secret", time.Now().Add(time.Second))
			d.enter("c-3", "ann", "ann-secret", nil).sentAway(mqtt.NotAuthorized) // when its time is over
			o.set("ann-secret", time.Time{})
		},
		hang: o.hang, goOn: o.goOn, die: o.die, back: o.start,
	}
	k.throughTheDoor(t)
	t.Run("last known", func(t *testing.T) {
		d := openDoor(t, k.tables+"on_error = \"last-known\"\n", nil)
		d.enter("c-1", "ann", "ann-secret", nil)
		o.die()
		ann := d.enter("c-1", "ann", "ann-secret", nil)
		ann.may(true, "up/c-1", 1, false, 10, "")
		d.refused("another password", "c-1", "ann", "wrong-secret", mqtt.ServerUnavailable, 3)
		o.start()
		o.set("changed", time.Time{})
		d.refused("her old password", "c-1", "ann", "ann-secret", mqtt.BadUserOrPassword, 4)
	})
}
