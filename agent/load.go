package agent

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/boards"
	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/devices/catalog"
	"holdfast/systemd"
	"holdfast/systemd/settings"
	"holdfast/uplink/est"
	"holdfast/uplink/wire"
)

// LoadConfig reads a configuration file and finds every problem in it at once: of its
// form, of its meaning, and of the files that it names. If any of them is not a
// warning, the Config must not be used.
func LoadConfig(name string) (Config, []settings.Problem) {
	doc, _ := settings.Load(name)
	c, l := load(doc, catalog.Drivers(), reader{})
	return c, l.Problems()
}

func load(doc *settings.Doc, drivers map[string]devices.Driver, who reader) (Config, *loader) {
	f := defaults()
	doc.Decode(&f)
	if !doc.Has("buffer.batch_interval") {
		f.Buffer.BatchInterval = min(f.Buffer.BatchInterval, f.Buffer.CommitInterval)
	}
	f.Gateway.DataDir = doc.Path(f.Gateway.DataDir)
	f.Buffer.RuntimeDir = doc.Path(f.Buffer.RuntimeDir)
	if f.Signing.KeyFile != "" && !filepath.IsAbs(f.Signing.KeyFile) {
		f.Signing.KeyFile = filepath.Join(f.Gateway.DataDir, f.Signing.KeyFile)
	}
	c := f.config(doc.Path)
	c.File = doc.File()
	l := &loader{Doc: doc, f: f, reader: who}
	l.gateway()
	l.buffer()
	l.uplink(c)
	l.status()
	l.enrol(c)
	l.update()
	c.Devices = l.devices(drivers)
	return c, l
}

// loader checks the meaning of what was decoded.
type loader struct {
	*settings.Doc
	f      file
	tables []*settings.Table // of Config.Devices, in its order
	reader reader
}

func badName(s string) string {
	switch {
	case len(s) > devices.MaxName:
		return fmt.Sprintf("is %d characters long; at most %d", len(s), devices.MaxName)
	case !devices.ValidName(s):
		return fmt.Sprintf("%q must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'", s)
	}
	return ""
}

func (l *loader) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := ""
	if near := settings.Nearest(value, allowed); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	l.Problem(key, `%q is not one of "%s"%s`, value, strings.Join(allowed, `", "`), hint)
}

func (l *loader) gateway() {
	g := l.f.Gateway
	if why := badName(g.ID); l.Has("gateway.id") && why != "" {
		l.Problem("gateway.id", "%s", why)
	}
	if g.DataDir == "" {
		l.Problem("gateway.data_dir", "is empty; name a directory on lasting storage, such as /var/lib/holdfast")
	}
	if _, known := boards.ByName(g.Board); !known && g.Board != "auto" {
		names := []string{"auto"}
		for _, b := range boards.All() {
			names = append(names, b.Name)
		}
		l.oneOf("gateway.board", g.Board, names...)
	}
	l.gatewayTags()
	l.oneOf("signing.algorithm", l.f.Signing.Algorithm, wire.Ed25519, wire.HMACSHA256)
	l.oneOf("payload.format", l.f.Payload.Format, string(wire.JSON), string(wire.CBOR))
	if l.f.Signing.KeyFile == "" {
		l.Problem("signing.key_file", `is empty; name a file, such as "identity.pem"`)
		return
	}
	l.secret("signing.key_file", l.f.Signing.KeyFile, 0o077, true)
}

// secret checks a file that only the agent's user may read. forbidden are the bits of
// its mode that must not be set; a missing one may be no problem yet.
func (l *loader) secret(key, name string, forbidden os.FileMode, mayLack bool) {
	info, err := os.Stat(name)
	if systemd.IsCredential(name) {
		l.credential(key, name)
		return
	}
	switch {
	case mayLack && (os.IsNotExist(err) || errors.Is(err, unix.ENOTDIR)): // the latter is data_dir's problem
		return
	case os.IsPermission(err):
		l.Problem(key, "%v; the agent's user must be able to enter the folders above it", err)
		return
	case err != nil:
		l.Problem(key, "%v; create it, or correct the name", err)
		return
	case !info.Mode().IsRegular():
		l.Problem(key, "%s is not a file", name)
		return
	case info.Mode().Perm()&forbidden != 0:
		l.Problem(key, "%s can be read by others (mode %04o); run: chmod %04o %s", name, info.Mode().Perm(), info.Mode().Perm()&^forbidden, name)
	}
	l.readable(key, name)
}

func (l *loader) readable(key, name string) {
	if err := l.reader.may(name, unix.R_OK); err != nil {
		l.Problem(key, "%s: %v; the agent's user must be able to read it: chown %s %s", name, err, serviceUser, name)
	}
}

func (l *loader) buffer() {
	b := l.f.Buffer
	if b.MaxBytes < buffer.MinMaxBytes {
		l.Problem("buffer.max_bytes", "%s is too small to work with; at least %s", settings.Size(b.MaxBytes), settings.Size(buffer.MinMaxBytes))
	}
	if b.MaxAge != 0 && b.MaxAge < time.Minute {
		l.Problem("buffer.max_age", `%s would drop readings during any short outage; at least "1m", or "0s" for no limit`, settings.Duration(b.MaxAge))
	}
	l.oneOf("buffer.when_full", b.WhenFull, buffer.WhenFullDropOldest, buffer.WhenFullDropNewest, buffer.WhenFullBlock)
	if b.CommitInterval > time.Hour {
		l.Problem("buffer.commit_interval", `%s is how much a power cut may cost; at most "1h"`, settings.Duration(b.CommitInterval))
	}
	if b.BatchInterval > b.CommitInterval {
		l.Problem("buffer.batch_interval", "%s is longer than commit_interval (%s): a reading must not wait longer to be signed than to be on disk; make it shorter",
			settings.Duration(b.BatchInterval), settings.Duration(b.CommitInterval))
	}
	l.within("buffer.commit_count", int64(b.CommitCount), 0, 1_000_000)
	l.within("buffer.batch_count", int64(b.BatchCount), 1, 10_000)
	if b.BatchBytes < 1<<10 || b.BatchBytes > 1<<20 {
		l.Problem("buffer.batch_bytes", "%s is not between 1KiB and 1MiB", settings.Size(b.BatchBytes))
	}
	if b.RuntimeDir != "" && filepath.Clean(b.RuntimeDir) == filepath.Clean(l.f.Gateway.DataDir) {
		l.Problem("buffer.runtime_dir", "is the same directory as gateway.data_dir; it should be on a tmpfs, such as /run/holdfast")
	}
}

func (l *loader) within(key string, n, low, high int64) {
	if n < low || n > high {
		l.Problem(key, "%d is not between %d and %d", n, low, high)
	}
}

func (l *loader) uplink(c Config) {
	u := l.f.Uplink
	l.topic(u.Topic)
	if len(u.Servers) == 0 {
		if !l.Broken() {
			l.Problem("uplink.servers", `is missing; name the broker, such as servers = ["mqtts://broker.example:8883"]`)
		}
		return // the rest of the section has no subject
	}
	if u.PasswordFile != "" {
		l.secret("uplink.password_file", c.Uplink.PasswordFile, 0o007, false)
	}
	l.withoutAbsent(&c.Uplink)
	if c.Uplink.ClientID == "" {
		c.Uplink.ClientID = "gateway" // the real one is made at the first run
	}
	for _, p := range c.Uplink.Check() {
		if p.Warning {
			l.Warn("uplink."+p.Key, "%s", p.Message)
		} else {
			l.Problem("uplink."+p.Key, "%s", p.Message)
		}
	}
}

// topic checks the template: MQTT 5 section 4.7.1 forbids wildcards in a topic name.
func (l *loader) topic(t string) {
	const key = "uplink.topic"
	plain := strings.NewReplacer("{gateway}", "g", "{device}", "d").Replace(t)
	switch {
	case t == "":
		l.Problem(key, `is empty; the default is "gw/{gateway}/{device}"`)
	case strings.ContainsAny(plain, "{}"):
		l.Problem(key, "%q: only {gateway} and {device} can stand in braces", t)
	case strings.ContainsAny(plain, "+#\x00"):
		l.Problem(key, "%q: '+' and '#' cannot stand in a topic that is published to", t)
	case strings.HasPrefix(plain, "$"):
		l.Problem(key, "%q: topics that begin with '$' belong to the broker", t)
	case len(t) > 1024:
		l.Problem(key, "is %d bytes long; at most 1024", len(t))
	case !strings.Contains(t, "{device}"):
		l.Warn(key, "has no {device}: all devices publish to one topic")
	}
}

func (l *loader) status() {
	const key = "status.listen"
	listen := l.f.Status.Listen
	if listen == "" {
		return
	}
	host, port, err := net.SplitHostPort(listen)
	if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 0 || n > 65535 {
		l.Problem(key, `%q is not an address such as "127.0.0.1:9180"`, listen)
		return
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		l.Warn(key, "%s can be reached from the network, and the status page has neither login nor encryption", listen)
	}
}

func (l *loader) enrol(c Config) {
	e := l.f.Enrol
	for i, s := range e.Servers {
		if err := est.CheckServer(s); err != nil {
			l.Problem(fmt.Sprintf("enrol.servers[%d]", i), "%v", err)
		}
	}
	if len(e.Servers) > 0 && l.f.Uplink.CertFile != "" {
		l.Problem("enrol.servers", "and uplink.cert_file: which? Take one of them out")
	}
	if e.TokenFile != "" {
		_, err := os.Stat(c.PairFile())
		l.secret("enrol.token_file", c.Enrol.TokenFile, 0o007, err == nil) // once used it may go
	}
}

func (l *loader) update() {
	u := l.f.Update
	if u.Keys == "" {
		l.Problem("update.keys", `is empty; name the file of the public keys, such as "release.pub"`)
	}
	if u.ConfirmWithin < time.Second || u.ConfirmWithin > 24*time.Hour {
		l.Problem("update.confirm_within", `%s is not between "1s" and "24h"`, settings.Duration(u.ConfirmWithin))
	} else if u.Settle > u.ConfirmWithin {
		l.Problem("update.settle", "%s is longer than confirm_within (%s): no update would ever be confirmed", settings.Duration(u.Settle), settings.Duration(u.ConfirmWithin))
	}
}

func (l *loader) devices(drivers map[string]devices.Driver) []DeviceConfig {
	var list []DeviceConfig
	tables := l.Tables("device")
	lines := map[string]int{}
	ports := map[string][]DeviceConfig{}
	for _, t := range tables {
		var k deviceKeys
		t.Decode(&k)
		if k.Name != "" {
			t.SetLabel(fmt.Sprintf("device %q", k.Name))
		}
		l.deviceName(t, k.Name, lines)
		s := l.driver(t, k, drivers)
		if s == nil {
			continue
		}
		for i := range k.Rules {
			for _, p := range k.Rules[i].check() {
				t.Problem(fmt.Sprintf("rule[%d].%s", i, p.Key), "%s", p.Message)
			}
		}
		d := DeviceConfig{Name: k.Name, Driver: k.Driver, Settings: s, Rules: k.Rules, Tags: l.tags(t, k.Tags)}
		l.port(t, d, ports)
		l.tables = append(l.tables, t)
		list = append(list, d)
	}
	if len(tables) == 0 && !l.Broken() {
		l.Warn("device", "there is none: nothing will be read; add a [[device]] table")
	}
	return list
}

func (l *loader) deviceName(t *settings.Table, name string, lines map[string]int) {
	switch why := badName(name); {
	case !t.Has("name"):
		t.Problem("name", "is missing; every device needs one")
	case name == "" && t.Has("name"):
		t.Problem("name", "is empty; every device needs one")
	case why != "":
		t.Problem("name", "%s", why)
	case lines[name] != 0:
		t.Problem("name", "%q is already the device on line %d; names must differ", name, lines[name])
	default:
		lines[name] = t.Line("")
	}
}

// pushing are the drivers whose devices send unasked: no poll can be skipped.
var pushing = []string{"serial-line", "serial-frame", "nmea", "gpio", "exec"}

// driver decodes and checks the driver's own keys; nil if there is no such driver.
func (l *loader) driver(t *settings.Table, k deviceKeys, drivers map[string]devices.Driver) devices.Settings {
	driver, found := drivers[k.Driver]
	if !found {
		t.AcceptAll() // nothing can be said about the keys of an unknown driver
		names := slices.Sorted(maps.Keys(drivers))
		switch near := settings.Nearest(k.Driver, names); {
		case k.Driver == "":
			t.Problem("driver", "is missing; one of: %s", strings.Join(names, ", "))
		case near != "":
			t.Problem("driver", "there is no driver %q; did you mean %q?", k.Driver, near)
		default:
			t.Problem("driver", "there is no driver %q; one of: %s", k.Driver, strings.Join(names, ", "))
		}
		return nil
	}
	s := driver.Settings()
	if s == nil {
		return nil
	}
	t.Decode(s)
	for _, p := range s.Check() {
		if p.Warning {
			t.Warn(p.Key, "%s", p.Message)
		} else {
			t.Problem(p.Key, "%s", p.Message)
		}
	}
	if l.f.Buffer.WhenFull == buffer.WhenFullBlock && slices.Contains(pushing, k.Driver) {
		t.Warn("", `when_full = "block" cannot hold back what this device sends by itself; while the buffer is full its new readings are dropped and receipted`)
	}
	return s
}

// port refuses two devices on one port or bus, whatever names they call it by, unless
// they say that they can share it.
func (l *loader) port(t *settings.Table, d DeviceConfig, ports map[string][]DeviceConfig) {
	for _, key := range []string{"port", "bus"} {
		name, found := t.Text(key)
		if !found || name == "" {
			continue
		}
		if real, err := filepath.EvalSymlinks(name); err == nil {
			name = real
		}
		for _, other := range ports[name] {
			why := "two readers would each get half"
			if s, shares := d.Settings.(devices.Sharer); shares && d.Driver == other.Driver {
				why = s.CannotShare(other.Settings)
			}
			if why != "" {
				t.Problem(key, "device %q reads the same %s; %s", other.Name, key, why)
				break
			}
		}
		ports[name] = append(ports[name], d)
	}
}
