package agent

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"holdfast/devices"
	"holdfast/uplink/wire"
)

// checkConfig finds what would stop New half way, or let it run wrongly. LoadConfig
// has told it before, with lines.
func (a *Agent) checkConfig(cfg Config) error {
	var errs []error
	if cfg.DataDir == "" {
		errs = append(errs, errors.New("gateway.data_dir is empty"))
	}
	if cfg.Topic == "" {
		errs = append(errs, errors.New("uplink.topic is empty"))
	}
	if err := wire.CheckTags(cfg.Tags); err != nil {
		errs = append(errs, fmt.Errorf("gateway: %w", err))
	}
	seen := map[string]bool{}
	for _, d := range cfg.Devices {
		switch {
		case !devices.ValidName(d.Name):
			errs = append(errs, fmt.Errorf("device %q: not a name ([A-Za-z0-9][A-Za-z0-9_.-]*)", d.Name))
		case seen[d.Name]:
			errs = append(errs, fmt.Errorf("device %q: there are two of this name", d.Name))
		case a.opt.Drivers[d.Driver] == nil:
			errs = append(errs, fmt.Errorf("device %q: there is no driver %q", d.Name, d.Driver))
		}
		if err := wire.CheckTags(d.Tags); err != nil {
			errs = append(errs, fmt.Errorf("device %q: %w", d.Name, err))
		}
		seen[d.Name] = true
	}
	return errors.Join(errs...)
}

// fixed returns the keys whose change needs a restart, and differ.
func fixed(old, cfg Config) []string {
	var keys []string
	differ := func(key string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			keys = append(keys, key)
		}
	}
	differ("gateway.id", old.GatewayID, cfg.GatewayID)
	differ("gateway.data_dir", old.DataDir, cfg.DataDir)
	differ("gateway.board", old.Board, cfg.Board)
	differ("signing.algorithm", old.Algorithm, cfg.Algorithm)
	differ("signing.key_file", old.keyPath(), cfg.keyPath())
	differ("payload.format", old.Format, cfg.Format)
	differ("buffer.runtime_dir", old.Buffer.RuntimeDir, cfg.Buffer.RuntimeDir)
	differ("status.listen", old.StatusListen, cfg.StatusListen)
	return keys
}

// Reload takes over devices, uplink, batches, tags and buffer bounds; only devices that
// changed in more than their tags are restarted. Changes of anything else are refused, and then nothing is
// changed. No reading that was taken is lost by it.
func (a *Agent) Reload(cfg Config) error {
	a.reload.Lock()
	defer a.reload.Unlock()
	if err := a.checkConfig(cfg); err != nil {
		return err
	}
	cfg = a.complete(cfg)
	a.mu.Lock()
	old, running := a.cfg, a.running
	a.mu.Unlock()
	if running == nil {
		return errors.New("reload: the agent is not running")
	}
	if keys := fixed(old, cfg); len(keys) > 0 {
		return fmt.Errorf("reload: %s cannot change while the agent runs; nothing was changed: set it back, or restart the agent", strings.Join(keys, ", "))
	}
	if err := a.uplink.Reload(cfg.Uplink); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if err := a.buffer.Reload(cfg.Buffer); err != nil {
		return errors.Join(fmt.Errorf("reload: buffer: %w", err), a.uplink.Reload(old.Uplink))
	}
	a.sealer.tuning.Store(cfg.tuning())
	a.changeDevices(old.Devices, cfg.Devices)
	a.mu.Lock()
	a.cfg = cfg
	a.mu.Unlock()
	a.sealAll() // batches that the new bounds would have sealed before
	return nil
}

// sameButTags says whether a device can go on as it is.
func sameButTags(a, b DeviceConfig) bool {
	a.Tags, b.Tags = nil, nil
	return reflect.DeepEqual(a, b)
}

// changeDevices stops what is gone or changed, then starts what is new or changed.
func (a *Agent) changeDevices(old, cfg []DeviceConfig) {
	has := func(list []DeviceConfig, d DeviceConfig) bool {
		return slices.ContainsFunc(list, func(o DeviceConfig) bool { return sameButTags(o, d) })
	}
	var gone []*station
	a.mu.Lock()
	for _, d := range old {
		if s := a.stations[d.Name]; s != nil && !has(cfg, d) {
			s.halt()
			gone = append(gone, s)
			a.log.Info("device stopped", "device", d.Name)
		}
	}
	a.mu.Unlock()
	waitFor(gone, stopDevices)

	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range gone {
		delete(a.stations, s.cfg.Name)
	}
	if a.running == nil { // Run is ending
		return
	}
	for _, d := range cfg {
		if !has(old, d) {
			a.startDevice(d)
			a.log.Info("device started", "device", d.Name)
		} else if s := a.stations[d.Name]; s != nil {
			s.retag(d.Tags)
		}
	}
	// The lane of a device that is gone stays, idle: should the device come back while
	// the rest of it is being sealed, a second lane would overtake the first.
	for _, s := range gone {
		a.lanes[s.cfg.Name].flush()
	}
}
