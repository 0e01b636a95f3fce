package broker

import (
	"fmt"
	"testing"
)

// TestLogsOfOthers: a node that runs alone reads the logs that others have left in its store, counts with their state,
// and lets their messages go when its own are younger; their ends stay.
func TestLogsOfOthers(t *testing.T) {
	cfg := testConfig(t.TempDir())
	e, err := openEngine(engineConfig{dir: cfg.Node.DataDir, node: cfg.Node.Name}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	write := func(kind string, n uint64, r Record) {
		s := e.logOf(kind, "n2")
		err := s.ensure(t.Context(), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.send(n, fmt.Sprint(kind, n), AppendBatch(nil, Header{Incarnation: 7, Number: n, Lamport: n, Node: "n2"}, []Record{r}))
		if err != nil {
			t.Fatal(err)
		}
		if a := <-answer; a.err != nil {
			t.Fatal(a.err)
		}
	}
	for n := range uint64(10) {
		write(kindMessages, n+1, Record{Kind: KindMessage, QoS: 1, Topic: "t", Payload: fmt.Append(nil, n)})
	}
	write(kindState, 1, Record{Kind: KindPut, Topic: sessionKey + "reader", Payload: []byte(`{"epoch":5,"expiry":3600,"subscriptions":[]}`)})
	write(kindState, 2, Record{Kind: KindPut, Topic: "x", Payload: []byte("2")})
	e.close()
	b := start(t, cfg)
	if v, ok := b.state.get("x"); !ok || string(v) != "2" {
		t.Errorf("x is %q", v)
	}
	if _, present := dialRaw(t, b.addr, "reader", opts{expiry: 3600}); !present {
		t.Error("a session of n2 is not there")
	}
	got := 0
	if _, err := b.tail.scan(t.Context(), nil, func(at cursor, _ uint64, err error) { t.Error(at, err) }, func(batch *Batch, _ cursor) error {
		if batch.Node == "n2" {
			got++
		}
		return nil
	}); err != nil || got != 10 {
		t.Errorf("%d batches of n2, %v", got, err)
	}
	if err := b.messages.put(t.Context(), &Record{Kind: KindMessage, QoS: 1, Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	if err := b.trimOthers(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, last, _, err := b.engine.logOf(kindMessages, "n2").bounds(t.Context())
	if err != nil || first != 10 || last != 10 {
		t.Errorf("n2's messages are %d to %d, %v", first, last, err)
	}
}
