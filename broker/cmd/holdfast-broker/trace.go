package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/program"
)

func (a *app) clientCommand() *cobra.Command {
	c := &cobra.Command{Use: "client", Short: "Follow one client"}
	c.AddCommand(a.traceCommand())
	return c
}

func (a *app) traceCommand() *cobra.Command {
	var count uint64
	var limit time.Duration
	c := &cobra.Command{
		Use:   "trace CLIENT-ID",
		Short: "Show a client's packets as they come and go",
		Long: `Shows every MQTT packet of a client from now on, and when its connections open and close;
the client need not be connected yet. "<" comes from the client, ">" goes to it. Payloads
are not shown, passwords neither. Ends with SIGINT, after --count lines or --for a time.
Tracing costs the client nothing: lines that are not read in time are left out, and counted.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if limit < 0 {
				return program.Usage("--for %v: give a time such as 30s", limit)
			}
			ctx := cmd.Context()
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			err := a.ask(func(c *admin.Client) error {
				seen := uint64(0)
				begun := func() { fmt.Fprintf(a.Stderr, "waiting for packets of %s\n", printable(list[0])) }
				return c.Lines(ctx, "/v1/trace/"+admin.Segment(list[0]), begun, func(line []byte) error {
					if err := a.printTrace(line); err != nil {
						return err
					}
					if seen++; seen == count {
						return errEnough
					}
					return nil
				})
			})
			if errors.Is(err, errEnough) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return nil
			}
			return err
		},
		ValidArgsFunction: a.completeClient,
	}
	c.Flags().Uint64Var(&count, "count", 0, "end after so many `lines`; 0: do not")
	c.Flags().DurationVar(&limit, "for", 0, "end after this `time`, 30s for instance; 0: do not")
	return c
}

func (a *app) printTrace(line []byte) error {
	if a.JSON {
		_, err := fmt.Fprintf(a.Stdout, "%s\n", line)
		return err
	}
	var l broker.TraceLine
	if err := json.Unmarshal(line, &l); err != nil {
		return fmt.Errorf("a line of the trace: %w", err)
	}
	arrow := map[string]string{broker.TraceIn: "<", broker.TraceOut: ">"}[l.Dir]
	if arrow == "" {
		arrow = "-"
	}
	_, err := fmt.Fprintf(a.Stdout, "%s %s %-11s %s\n", l.At.UTC().Format("15:04:05.000000"), arrow, l.Type, strings.Join(traceWords(&l), " "))
	return err
}

// traceWords says what a packet says.
func traceWords(l *broker.TraceLine) []string {
	var out []string
	add := func(there bool, format string, args ...any) {
		if there {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(l.ID != 0, "id=%d", l.ID)
	add(l.QoS != nil, "qos=%d", val(l.QoS))
	add(l.Dup, "dup")
	add(l.Retain, "retain")
	add(l.Topic != "", "topic=%s", printable(l.Topic))
	add(l.Alias != 0, "alias=%d", l.Alias)
	add(l.Payload != nil, "payload=%dB", val(l.Payload))
	add(l.Client != "", "client=%s", printable(l.Client))
	add(l.Version != "", "mqtt=%s", l.Version)
	add(l.Clean, "clean")
	add(l.Type == "CONNECT", "keepalive=%ds", l.Keep)
	add(l.Present, "session-present")
	add(l.Code != "", "code=%s", l.Code)
	add(l.Reason != "", "reason=%q", l.Reason)
	add(l.Server != "", "server=%s", printable(l.Server))
	for _, f := range l.Filters {
		add(true, "filter=%q", f)
	}
	add(len(l.Codes) > 0, "codes=%s", strings.Join(l.Codes, ","))
	add(l.Addr != "", "addr=%s", l.Addr)
	add(l.Type == "NODE", "node=%s", l.Node)
	add(l.Note != "", "%q", l.Note)
	add(l.Missed > 0, "%d lines were left out: they were not read in time", l.Missed)
	add(l.Cut, "malformed")
	add(l.Size > 0, "(%dB)", l.Size)
	return out
}

func val[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
