package agent

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/agent/update"
)

// Status returns a snapshot.
func (a *Agent) Status() Status {
	now := a.clock.Now()
	s := Status{
		Gateway: a.identity.Gateway, Kid: a.identity.Key.Kid(), Alg: a.identity.Key.Alg(), JWK: a.identity.Key.Public().JWK(),
		Board: a.board, Version: a.opt.Version, Now: now, Uptime: now - a.began,
		NotReady: a.Ready(), Unhealthy: a.Healthy(),
		Clock: a.control.clockStatus(), Buffer: a.buffer.Stats(), Uplink: a.uplink.Status(),
	}
	s.Epoch, s.Ready = s.Buffer.Epoch, len(s.NotReady) == 0
	a.control.mu.Lock()
	s.Control = a.control.status
	a.control.mu.Unlock()
	for _, st := range a.stationList() {
		s.Devices = append(s.Devices, st.snapshot())
	}
	s.Enrol = a.enrol.status()
	if a.opt.Update != nil {
		s.Update = a.opt.Update()
	}
	s.Warnings = a.warnings(s)
	return s
}

// stationList returns the devices sorted by name.
func (a *Agent) stationList() []*station {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*station
	for _, name := range slices.Sorted(maps.Keys(a.stations)) {
		list = append(list, a.stations[name])
	}
	return list
}

// warnings are in plain words, with what to do.
func (a *Agent) warnings(s Status) []string {
	w := slices.Clone(a.buffer.Opened().Warnings)
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if s.Buffer.LastError != "" {
		add("the card does not take what is to be kept: %s", s.Buffer.LastError)
	}
	if s.Buffer.Quarantined > 0 {
		add("%d messages are in quarantine: no broker takes them; see holdfast buffer peek", s.Buffer.Quarantined)
	}
	if s.Buffer.AsideBytes > 0 {
		add("damaged stores are kept aside (%d bytes): stop the agent and run holdfast buffer repair", s.Buffer.AsideBytes)
	}
	if s.Uplink.Stopped != "" {
		add("the uplink stands still: %s", s.Uplink.Stopped)
	}
	if e := s.Enrol; e.LastError != "" && e.Serial != "" {
		add("the certificate is not renewed, it is good until %s: %s", e.NotAfter.UTC().Format(time.RFC3339), e.LastError)
	} else if e.LastError != "" {
		add("the gateway has no certificate yet: %s", e.LastError)
	}
	if u := s.Update; u.Last == update.WentBack || u.Last == update.Unusable {
		add("the update to %s %s: %s; see holdfast update --status", u.Version, u.Last, u.Reason)
	}
	for _, d := range s.Devices {
		if d.State == StateFailed {
			add("device %s failed: %s", d.Name, d.Error)
		}
		if d.Lost > 0 {
			add("device %s: %d readings were lost, neither memory nor card took them", d.Name, d.Lost)
		}
	}
	return w
}

// Ready returns why the agent does not serve; nothing: it does. An unreachable broker
// is no reason: readings are taken and kept.
func (a *Agent) Ready() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stage != "" {
		return []string{a.stage}
	}
	return nil
}

// stuck is how long one step of the pipeline may take. The slowest is a group commit
// to a worn card, of which some seconds are seen.
const stuck = 30 * time.Second

// Healthy returns which stage of the pipeline stands still; nothing: all is well. A
// device in trouble is not a reason, nor is an unreachable broker or a full card.
func (a *Agent) Healthy() []string {
	now := a.clock.Now()
	var why []string
	since := func(at int64) (time.Duration, bool) {
		d := now - time.Duration(at)
		return d.Round(time.Second), at != 0 && d > stuck
	}
	a.mu.Lock()
	lanes, serving := maps.Clone(a.lanes), a.running != nil
	a.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(lanes)) {
		if d, is := since(lanes[name].busy.Load()); is {
			why = append(why, fmt.Sprintf("sealing for device %s stands still for %v", name, d))
		}
	}
	for _, s := range a.stationList() {
		if d, is := since(s.taking.Load()); is {
			why = append(why, fmt.Sprintf("journalling for device %s stands still for %v", s.cfg.Name, d))
		}
	}
	if d, is := since(a.control.beat.Load()); is && serving {
		why = append(why, fmt.Sprintf("the control loop stands still for %v", d))
	}
	return why
}
