package agent

import (
	"context"
	"fmt"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
)

// Stopping has 5 s in all (see Run). Each part gets at most its share, the uplink a little
// more than the second that it may take, and the buffer has what is left.
const (
	stopWhole   = 4800 * time.Millisecond
	stopDevices = 1200 * time.Millisecond
	stopSealing = 1200 * time.Millisecond
	stopTalking = 200 * time.Millisecond // also what sealing has once it was told to give up
	stopUplink  = 1200 * time.Millisecond
)

// begin appends what must come before any new reading: the opening of the epoch, then
// what a dead process took and did not seal. False: ctx ended before that.
func (a *Agent) begin(ctx, hard context.Context) bool {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := a.control.open(ctx)
		if err == nil {
			break
		}
		a.setStage("epoch not opened: " + err.Error())
		a.log.Error("epoch not opened: tried again", "err", err)
		select {
		case <-a.clock.After(wait):
		case <-ctx.Done():
			return false
		}
	}
	for _, r := range a.buffer.Unsealed() {
		a.laneOf(r.Device, hard).put(a.leftover(r))
	}
	a.sealAll()
	return true
}

// leftover is what a dead process left, as a group, with the tags of today: the journal,
// which is written with every reading, does not have those of then. What this version cannot read is
// told as a bad reading: it was taken, so it may not vanish.
func (a *Agent) leftover(r buffer.Raw) group {
	g, err := parseGroup(r.Device, r.Data)
	g.tags = a.cfg.tagsOf(r.Device)
	if err == nil {
		return g
	}
	a.log.Error("readings in the journal cannot be read", "device", r.Device, "readings", r.Readings, "err", err)
	now := a.keeper.now()
	lost := badReading("device", "journal-unreadable", now.at)
	lost.Device = r.Device
	return group{boot: a.clock.BootID(), taken: now, readings: []devices.Reading{lost}, tags: g.tags, size: len(r.Data), raw: true}
}

func (a *Agent) startDevices(running, hard context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running, a.hard = running, hard
	for _, d := range a.cfg.Devices {
		a.startDevice(d)
	}
	a.stage = ""
}

// startDevice is called with the lock held.
func (a *Agent) startDevice(d DeviceConfig) {
	s := newStation(d, a.opt.Drivers[d.Driver], a.lane(d.Name, a.hard), a.sealAll)
	s.rooms, s.line = a.cfg.rooms(d.Name), lineFinder(a.cfg.Board)
	a.stations[d.Name] = s
	s.start(a.running)
}

func (a *Agent) laneOf(device string, hard context.Context) *lane {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lane(device, hard)
}

// lane returns the device's lane, and starts it if need be. Called with the lock held.
func (a *Agent) lane(device string, hard context.Context) *lane {
	l := a.lanes[device]
	if l == nil {
		l = newLane(a.sealer, device)
		a.lanes[device] = l
		a.sealing.Go(func() { l.run(hard) })
	}
	return l
}

// sealAll: commit_count readings wait, so everything is sealed now.
func (a *Agent) sealAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.lanes {
		l.flush()
	}
}

// stopDevices waits for the devices as long as it can; one that does not listen is
// left behind.
func (a *Agent) stopDevices() {
	a.mu.Lock()
	a.running = nil
	var all []*station
	for _, s := range a.stations {
		s.halt()
		all = append(all, s)
	}
	a.mu.Unlock()
	waitFor(all, stopDevices)
}

func waitFor(stations []*station, atMost time.Duration) {
	limit := time.NewTimer(atMost)
	defer limit.Stop()
	for _, s := range stations {
		select {
		case <-s.done:
		case <-limit.C:
			s.log.Error("device does not stop: left behind; this is a bug in its driver")
			limit.Reset(0)
		}
	}
}

// finishSealing seals what waits. What cannot be sealed in time stays in the journal.
func (a *Agent) finishSealing(abandon func()) error {
	limit := time.AfterFunc(stopSealing, abandon)
	defer limit.Stop()
	a.mu.Lock()
	for _, l := range a.lanes {
		l.end()
	}
	a.mu.Unlock()
	return inTime("sealing", goRun(a.sealing.Wait), stopSealing+stopTalking)
}

// inTime waits for a part that was told to end; one that hangs is left behind.
func inTime(what string, done <-chan struct{}, atMost time.Duration) error {
	limit := time.NewTimer(atMost)
	defer limit.Stop()
	select {
	case <-done:
		return nil
	case <-limit.C:
		return fmt.Errorf("%s did not end within %v: left behind", what, atMost)
	}
}
