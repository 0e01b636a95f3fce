package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/broker/mqtt"
	"holdfast/systemd/program"
	"holdfast/uplink/wire"
)

func (a *app) tailCommand() *cobra.Command {
	var count uint64
	c := &cobra.Command{
		Use:   "tail FILTER",
		Short: "Show readings as they arrive, verified and decoded",
		Long: `Shows what arrives from now on, one line per reading: time, topic, metric, value, unit,
tags in braces, and how far to trust it. A time that ends in "~" was sealed before the gateway's clock
was set and resolved by an anchor; one that ends in "?" never was and is a lower bound.
With --json one object per message. Ends with SIGINT, or after --count messages.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if err := mqtt.CheckFilter(list[0]); err != nil {
				return program.Usage("%v", err)
			}
			err := a.ask(func(c *admin.Client) error {
				seen := uint64(0)
				begun := func() { fmt.Fprintf(a.Stderr, "waiting for messages on %s\n", list[0]) }
				return c.Lines(cmd.Context(), "/v1/tail?filter="+url.QueryEscape(list[0]), begun, func(line []byte) error {
					if err := a.printTail(line); err != nil {
						return err
					}
					if seen++; seen == count {
						return errEnough
					}
					return nil
				})
			})
			if errors.Is(err, errEnough) || errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	c.Flags().Uint64Var(&count, "count", 0, "end after so many `messages`; 0: do not")
	return c
}

var errEnough = errors.New("enough")

func (a *app) printTail(line []byte) error {
	if a.JSON {
		_, err := fmt.Fprintf(a.Stdout, "%s\n", line)
		return err
	}
	var m broker.TailMessage
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("a line of the tail: %w", err)
	}
	if m.Error != "" {
		_, err := fmt.Fprintf(a.Stdout, "%s  %s  (%s)\n", stamp(m.Arrival), m.Topic, m.Error)
		return err
	}
	tags := ""
	if len(m.Tags) > 0 {
		tags = "  {" + wire.FormatTags(m.Tags) + "}"
	}
	for _, r := range m.Readings {
		quality := ""
		if r.Quality != "" {
			quality = "  " + r.Quality
		}
		if r.Reason != "" {
			quality += ": " + r.Reason
		}
		if _, err := fmt.Fprintf(a.Stdout, "%s%s  %s  %s = %s %s%s%s  [%s]\n", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), trust(m.Clock),
			m.Topic, r.Name, value(r), r.Unit, quality, tags, origin(m)); err != nil {
			return err
		}
	}
	return nil
}

func trust(clock string) string {
	switch clock {
	case broker.TailResolved:
		return "~"
	case broker.TailUnsynced:
		return "?"
	}
	return " "
}

func origin(m broker.TailMessage) string {
	if !m.Verified {
		return "not verified"
	}
	return fmt.Sprintf("%s/%s %s #%d", m.Gateway, m.Device, m.Epoch, m.Seq)
}

func value(r broker.TailReading) string {
	switch v := r.Value.(type) {
	case nil:
		return "-"
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case string:
		return strconv.Quote(v)
	}
	return fmt.Sprint(r.Value)
}
