// Package agent is the gateway: the whole flow from device to uplink.
//
// It promises that a reading for which Emit returned is signed, stored and delivered,
// or reported as dropped; that one device in trouble costs the others nothing; and
// that no step of a wall clock reorders anything.
//
// It will not interpret what it carries: decoding is the drivers', storing the
// buffer's, and what a message means the subscriber's.
package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"holdfast/devices"
)

// Options are what the outside hands to an agent. The zero value is for production;
// tests hand in other drivers, clocks and randomness.
type Options struct {
	Log       *slog.Logger              // nil: nothing is logged
	Drivers   map[string]devices.Driver // nil: the catalog
	Rand      io.Reader                 // nil: crypto/rand
	Version   string                    // shown in the status
	BuildTime string                    // RFC 3339; the present is never taken to be earlier
}

// Agent is one gateway. Make it with New, then Run it once.
type Agent struct{}

// New opens the key and the buffer and prepares the devices and the uplink. It sends
// nothing and takes no reading.
func New(cfg Config, o Options) (*Agent, error) { return nil, errors.New("not yet") }

// Run takes readings and delivers them until ctx ends; then it stops the devices,
// seals what they gave, commits it and returns, within 5 s.
func (a *Agent) Run(ctx context.Context) error { return errors.New("not yet") }

// Reload takes over devices, uplink and buffer bounds. Changes of anything else are
// refused, and then nothing is changed.
func (a *Agent) Reload(cfg Config) error { return errors.New("not yet") }

// Status returns a snapshot.
func (a *Agent) Status() Status { return Status{} }

// Ready returns why the agent does not serve yet; nothing: it does.
func (a *Agent) Ready() []string { return []string{"starting"} }

// Healthy returns which stage of the pipeline stands still; nothing: all is well. A
// device in trouble is not a reason, nor is an unreachable broker.
func (a *Agent) Healthy() []string { return nil }
