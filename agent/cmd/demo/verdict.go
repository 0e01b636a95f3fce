package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// verdict is what came of it. Readings, unless it says otherwise.
type verdict struct {
	lines     uint64 // that the meter wrote whole
	full      uint64 // how often it had to wait for the kernel's queue
	delivered uint64
	missing   uint64   // taken, never delivered
	onWire    uint64   // read by the process that was killed, within wireWindow of its end
	where     []uint64 // the lines with missing readings
	twice     uint64   // delivered again as something new
	foreign   uint64   // delivered, but the meter never wrote it
	tally     *tally
	receiver  string // who the subscriber is
	nodes     int    // whose ledgers were read
	ledger    ledger
	ledgerErr error
	agentEnd  time.Duration
	agentErr  error
	took      time.Duration
}

// judge compares the meter's line numbers with what arrived, asks the broker's ledger,
// and takes the stage down.
//
// A reading is taken when the agent has handed it to its journal. The kernel's queue
// outlives the agent, as the meter holds the port open, so all that a kill -9 can cost
// is what the agent had read from the port and not yet handed over: lines written
// within wireWindow before its end. They are counted by themselves. Whatever else the
// meter wrote must be here.
func (a *actors) judge(ctx context.Context) (*verdict, error) {
	v := a.account()
	v.full = a.meter.state().Full
	v.receiver = a.sub.words()
	var ledgers []ledger
	for _, n := range a.nodes {
		out, err := a.tool(ctx, "holdfast-broker", "ledger", gatewayName, "--json", "--config", a.config(n))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l, perr := parseLedger(out)
		if err = cmp.Or(err, perr); err != nil {
			v.ledgerErr = fmt.Errorf("%s: %w", n.name, err)
		}
		ledgers = append(ledgers, l)
	}
	v.agree(ledgers)
	v.agentEnd, v.agentErr = a.agent.end(5 * time.Second)
	for _, n := range a.nodes {
		n.child.end(5 * time.Second)
	}
	v.took = time.Since(a.begun)
	return v, nil
}

// account is what arrived so far against what the meter wrote so far.
func (a *actors) account() *verdict {
	wire := map[uint64]bool{}
	for i := 0; i+1 < len(a.deaths); i += 2 {
		maps.Copy(wire, a.meter.within(a.deaths[i]-wireWindow, a.deaths[i+1]))
	}
	return account(a.tally, a.meter.state().Line, wire)
}

// account compares what arrived with the lines 1 to n. wire: those that the agent may have
// read and not taken when it was killed.
func account(t *tally, n uint64, wire map[uint64]bool) *verdict {
	v := &verdict{lines: n, tally: t}
	var lacking map[uint64]uint64
	lacking, v.delivered, v.twice, v.foreign = t.compare(n)
	for _, l := range slices.Sorted(maps.Keys(lacking)) {
		if wire[l] {
			v.onWire += lacking[l]
			continue
		}
		v.missing += lacking[l]
		v.where = append(v.where, l)
	}
	return v
}

// agree takes the ledgers of all nodes for one if they are.
func (v *verdict) agree(ledgers []ledger) {
	v.ledger, v.nodes = ledgers[0], len(ledgers)
	for i, l := range ledgers {
		if l != v.ledger && v.ledgerErr == nil {
			v.ledgerErr = fmt.Errorf("the nodes do not agree: n1 says %+v, n%d %+v", v.ledger, i+1, l)
		}
	}
}

// ledger is the broker's own account of the gateway: messages.
type ledger struct {
	received, duplicates, pending, missing, dropped, conflicts, readings uint64
	devices                                                              int
}

// parseLedger adds up the accounts of all devices and epochs, wherever they stand.
func parseLedger(data []byte) (ledger, error) {
	var l ledger
	var any any
	if err := json.Unmarshal(data, &any); err != nil {
		return l, fmt.Errorf("the ledger is no JSON: %w: %.100q", err, data)
	}
	l.walk(any)
	if l.devices == 0 {
		return l, fmt.Errorf("the ledger names no device: %.100q", data)
	}
	return l, nil
}

func (l *ledger) walk(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			l.walk(e)
		}
	case map[string]any:
		_, device := v["device"]
		_, received := v["received"]
		if device && received {
			l.add(v)
			return
		}
		for _, e := range v {
			l.walk(e)
		}
	}
}

func (l *ledger) add(account map[string]any) {
	l.devices++
	for key, sum := range map[string]*uint64{
		"received": &l.received, "duplicates": &l.duplicates, "pending": &l.pending, "missing": &l.missing,
		"dropped": &l.dropped, "conflicts": &l.conflicts, "readings": &l.readings,
	} {
		if n, ok := account[key].(float64); ok {
			*sum += uint64(n)
		}
	}
}

// lost says whether the promise was broken.
func (v *verdict) lost() bool {
	c := v.tally.counts()
	return v.missing > 0 || v.twice > 0 || v.foreign > 0 || c.bad > 0 || v.delivered == 0 || v.ledgerErr != nil ||
		v.ledger.missing > 0 || v.ledger.dropped > 0 || v.ledger.conflicts > 0 || v.agentErr != nil
}

func (v *verdict) print(w io.Writer, color bool) {
	c := v.tally.counts()
	fmt.Fprintf(w, "\nThe meter wrote %s lines of two readings each.\n\n", thousands(v.lines))
	row := func(name string, n uint64, says string) {
		fmt.Fprintf(w, "  %-13s %9s   %s\n", name, thousands(n), says)
	}
	row("taken", v.delivered+v.missing, "readings that the agent took from the wire")
	row("delivered", v.delivered, "different readings at the subscriber, each checked against what the meter wrote")
	row("missing", v.missing, where(v.where))
	row("duplicates", c.again, "messages that the subscriber got twice, counted once (same gateway, device, epoch and seq)")
	row("signatures", c.good, fmt.Sprintf("messages, with those that came twice, checked with Ed25519 by %s; %d bad", v.receiver, c.bad))
	row("on the wire", v.onWire, fmt.Sprintf("read from the port in the last %v before kill -9 and not yet taken", wireWindow))
	if v.twice > 0 || v.foreign > 0 {
		fmt.Fprintf(w, "\n  %d readings came again as new ones, %d were never written by the meter.\n", v.twice, v.foreign)
	}
	for reason, n := range v.tally.bad {
		fmt.Fprintf(w, "\n  %d messages refused by the subscriber: %s\n", n, reason)
	}
	for what, n := range v.tally.quality {
		fmt.Fprintf(w, "\n  %d readings of quality %s\n", n, what)
	}
	fmt.Fprintln(w)
	v.printLedger(w)
	if v.nodes > 1 && !v.lost() {
		fmt.Fprint(w, "\n  A broker was killed under the agent, one was emptied under the subscriber, and then everything was\n"+
			"  killed at once. What a broker had acknowledged was on the disks of two: all of it has arrived.\n")
	}
	if v.agentErr != nil {
		fmt.Fprintf(w, "  The agent did not end well: %v\n", v.agentErr)
	}
	if v.full > 0 {
		fmt.Fprintf(w, "  The meter had to wait %d times because nobody read the port.\n", v.full)
	}
	style, word := "1;32", "Nothing is missing."
	if v.lost() {
		style, word = "1;31", "This is not what was promised."
	}
	if color {
		word = "\x1b[" + style + "m" + word + "\x1b[0m"
	}
	fmt.Fprintf(w, "\n  %s  %.0f s; SIGTERM to the agent took %d ms.\n", word, v.took.Seconds(), v.agentEnd.Milliseconds())
}

func (v *verdict) printLedger(w io.Writer) {
	if v.ledgerErr != nil {
		fmt.Fprintf(w, "  The broker's ledger could not be read: %v\n", v.ledgerErr)
		return
	}
	l, whose := v.ledger, "The broker's ledger"
	if v.nodes > 1 {
		whose = fmt.Sprintf("The ledger, the same on all %d nodes", v.nodes)
	}
	fmt.Fprintf(w, "  %s, in messages: received %s, duplicates %s, pending %s, missing %s, dropped %s, conflicts %s.\n",
		whose, thousands(l.received), thousands(l.duplicates), thousands(l.pending), thousands(l.missing), thousands(l.dropped), thousands(l.conflicts))
}

// where names the first few lines.
func where(lines []uint64) string {
	if len(lines) == 0 {
		return "taken and never delivered"
	}
	var some []string
	for _, l := range lines[:min(8, len(lines))] {
		some = append(some, fmt.Sprint(l))
	}
	s := "taken and never delivered: line " + strings.Join(some, ", ")
	if len(lines) > 8 {
		s += fmt.Sprintf(" and %d more, up to %d", len(lines)-8, lines[len(lines)-1])
	}
	return s
}
