package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/update"
	"holdfast/boards"
	"holdfast/devices/catalog"
	"holdfast/systemd/settings"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// CheckConfig is LoadConfig, and then a look at what the configuration names on this
// machine: directories, room, the key, the devices' ports. online: also a login to
// each broker, if nothing else is wrong. It changes nothing.
func CheckConfig(ctx context.Context, name string, online bool) (Config, []settings.Problem) {
	doc, _ := settings.Load(name)
	cfg, l := load(doc, catalog.Drivers(), theReader())
	if !l.Broken() { // else what it names is not what was meant
		l.probe(cfg)
	}
	if online && len(settings.Errors(l.Problems())) == 0 {
		l.online(ctx, cfg)
	}
	return cfg, l.Problems()
}

// CheckStart is CheckConfig without all that the agent starts without: devices that are
// away, room that is not there yet, brokers.
func CheckStart(name string) (Config, []settings.Problem) {
	doc, _ := settings.Load(name)
	cfg, l := load(doc, catalog.Drivers(), theReader())
	if !l.Broken() {
		l.dataDir(cfg)
		l.key(cfg)
	}
	return cfg, l.Problems()
}

const mebi = 1 << 20

func (l *loader) probe(cfg Config) {
	if dir := l.dataDir(cfg); dir != "" {
		l.room(cfg, dir)
	}
	l.runtimeDir(cfg)
	l.key(cfg)
	state := boards.Look("/", cfg.Board)
	for i, d := range cfg.Devices {
		l.device(i, d, state)
	}
	l.onBoard(cfg, state)
}

// dataDir is the directory that data_dir is, or will be made in; "" where it cannot be used.
func (l *loader) dataDir(cfg Config) string {
	const key = "gateway.data_dir"
	if cfg.DataDir == "" {
		return ""
	}
	if info, err := os.Stat(cfg.DataDir); errors.Is(err, unix.ENOTDIR) || err == nil && !info.IsDir() {
		l.Problem(key, "%s is not a directory; name one, or move away what is there", cfg.DataDir)
		return ""
	}
	dir := existing(cfg.DataDir)
	made := l.reader.name != "" && dir != cfg.DataDir // StateDirectory= of the unit will make it
	if err := l.reader.may(dir, unix.W_OK|unix.X_OK); err != nil && !made {
		l.Problem(key, "%s cannot be written (%v); let it belong to the agent's user: chown holdfast: %s", dir, err, dir)
		return ""
	}
	return dir
}

func (l *loader) room(cfg Config, dir string) {
	const key = "gateway.data_dir"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		l.Problem(key, "%s: %v", dir, err)
		return
	}
	free := int64(st.Bavail)*int64(st.Bsize) + used(cfg.DataDir)
	if free < cfg.Buffer.MaxBytes {
		l.Problem("buffer.max_bytes", "%s, but %s has room for %s only; lower it or make room",
			settings.Size(cfg.Buffer.MaxBytes), dir, settings.Size(free/mebi*mebi))
	}
	if isTmpfs(st) {
		l.Warn(key, "%s is on a tmpfs: a power cut takes everything that is not delivered", dir)
	}
}

// RoomBeside is how many bytes below DataDir are free for something else than the buffer,
// when that has grown to its bound.
func (c Config) RoomBeside() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.DataDir, &st); err != nil {
		return 0, fmt.Errorf("gateway.data_dir: %w", err)
	}
	return int64(st.Bavail)*int64(st.Bsize) - max(0, c.Buffer.MaxBytes-used(c.DataDir)), nil
}

func isTmpfs(st unix.Statfs_t) bool {
	return uint32(st.Type) == unix.TMPFS_MAGIC || uint32(st.Type) == unix.RAMFS_MAGIC
}

// existing is dir, or the nearest directory above it that exists.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return dir
		}
		dir = up
	}
}

// used is what the buffer, if there is one, already takes of the room that max_bytes gives it.
func used(dir string) (bytes int64) {
	if _, err := os.Stat(filepath.Join(dir, "head")); err != nil {
		return 0 // it may be a large directory of others
	}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // what cannot be read is not counted
		if err != nil {
			return nil
		}
		if path == filepath.Join(dir, update.Dir) {
			return fs.SkipDir // programs
		}
		var st unix.Stat_t
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && unix.Stat(path, &st) == nil {
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes
}

func (l *loader) runtimeDir(cfg Config) {
	const key = "buffer.runtime_dir"
	dir := cfg.Buffer.RuntimeDir
	if dir == "" {
		l.Warn(key, "is empty: every reading goes straight to the card")
		return
	}
	dir = existing(dir)
	var st unix.Statfs_t
	switch err := unix.Statfs(dir, &st); {
	case err != nil:
		l.Warn(key, "%s: %v; every reading goes straight to the card", dir, err)
	case !isTmpfs(st):
		l.Warn(key, "%s is not on a tmpfs: every reading goes straight to the card", dir)
	}
}

// key reads the signing key, if it is there; its mode is checked with the configuration.
func (l *loader) key(cfg Config) {
	if info, err := os.Stat(cfg.KeyFile); err != nil || !info.Mode().IsRegular() {
		return // absent: made on the first run; no file: said already
	}
	pem, err := os.ReadFile(cfg.KeyFile)
	if err != nil {
		return // said already
	}
	key, err := wire.ParsePrivateKey(pem)
	if err != nil {
		l.Problem("signing.key_file", "%s: %v; put the right file back, or remove it to get a new key and add that to the broker", cfg.KeyFile, err)
		return
	}
	want := map[string]string{wire.Ed25519: "EdDSA", wire.HMACSHA256: "HS256"}[cfg.Algorithm]
	if want != "" && key.Alg() != want {
		l.Problem("signing.algorithm", "%s, but the key in %s is for %s; set the algorithm back, or run: holdfast identity rotate", cfg.Algorithm, cfg.KeyFile, key.Alg())
	}
}

// device looks at the device's port or chip, whatever its driver calls it.
func (l *loader) device(i int, d DeviceConfig, state boards.State) {
	v := reflect.Indirect(reflect.ValueOf(d.Settings))
	if v.Kind() != reflect.Struct {
		return
	}
	for f := range v.NumField() {
		name := v.Type().Field(f).Tag.Get("toml")
		if command, ok := v.Field(f).Interface().([]string); ok && name == "command" && len(command) > 0 {
			if why := noProgram(command[0], l.reader); why != "" {
				l.tables[i].Problem(name, "%s", why)
			}
		}
		if id, ok := v.Field(f).Interface().(string); ok && name == "id" && d.Driver == "onewire" {
			if why := noSensor("/sys/bus/w1/devices", id); why != "" {
				l.tables[i].Problem(name, "%s", why)
			}
		}
		if name != "port" && name != "chip" && name != "bus" || v.Field(f).Kind() != reflect.String {
			continue
		}
		path := v.Field(f).String()
		if !filepath.IsAbs(path) || state.Absent(path) != "" {
			continue // its Check has said so, or onBoard says how to have it
		}
		why := unusable(path, l.reader, map[string]string{"port": "dialout", "chip": "gpio", "bus": "i2c"}[name])
		if why == "" && name == "port" {
			why = noPort(path)
		}
		if why != "" {
			l.tables[i].Problem(name, "%s", why)
		}
	}
}

// unusable says why path gives no readings now. An absent one is no mistake of the file,
// and the driver waits for it; but check answers for configuration and devices, and whoever
// asks on site wants no for an answer while a cable is loose.
func unusable(path string, who reader, group string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path + " is not there now; the agent will run and wait for it. Plug it in, or choose one that `holdfast devices` lists"
	case err != nil:
		return fmt.Sprintf("%v; choose one that `holdfast devices` lists", err)
	case info.Mode()&fs.ModeCharDevice == 0:
		return path + " is not a device"
	}
	if err := who.may(path, unix.R_OK|unix.W_OK); err != nil {
		return fmt.Sprintf("%s: %v; add the agent's user to its group: usermod -aG %s holdfast", path, err, group)
	}
	return ""
}

// noPort says why a device is no serial port, without opening it: that would raise DTR.
// What sysfs does not know (a pseudo-terminal) is taken for one.
func noPort(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	of, err := os.Readlink(fmt.Sprintf("/sys/dev/char/%d:%d/subsystem", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
	if err != nil || filepath.Base(of) == "tty" {
		return ""
	}
	return fmt.Sprintf("%s is no serial port, but a device of %q; choose one that `holdfast devices` lists", path, filepath.Base(of))
}

// noSensor says why a 1-Wire sensor gives no readings now. That there is no bus is said of the board.
func noSensor(dir, id string) string {
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, id)); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return id + " is not on a 1-Wire bus now; the agent will run and wait for it. Connect it, or choose one that `holdfast devices` lists"
}

// noProgram says why path cannot be run now.
func noProgram(path string, who reader) string {
	info, err := os.Stat(path)
	switch {
	case !filepath.IsAbs(path):
		return "" // its Check has said so
	case errors.Is(err, fs.ErrNotExist):
		return path + " is not there now; the agent will run and wait for it. Install it"
	case err != nil:
		return err.Error()
	case !info.Mode().IsRegular():
		return path + " is not a program"
	}
	if err := who.may(path, unix.X_OK); err != nil {
		return fmt.Sprintf("%s: %v; chmod 755 it", path, err)
	}
	return ""
}

const probeLimit = 10 * time.Second

func (l *loader) online(ctx context.Context, cfg Config) {
	if cfg.Uplink.ClientID == "" {
		cfg.Uplink.ClientID = "holdfast"
	}
	for i, r := range uplink.Probe(ctx, cfg.Uplink, probeLimit) {
		if r.Err != nil {
			l.Problem(fmt.Sprintf("uplink.servers[%d]", i), "%s: %v", r.Server, r.Err)
		}
	}
}
