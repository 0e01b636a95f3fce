package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/boards"
	"holdfast/boards/boardtest"
	"holdfast/devices/catalog"
	"holdfast/systemd/freeport"
	"holdfast/systemd/settings"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// write puts a configuration into a directory of its own.
func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const goodConfig = `[gateway]
id = "gw-1"
data_dir = "data"
[buffer]
runtime_dir = "run"
[uplink]
servers = ["mqtt://127.0.0.1:1883"]
[[device]]
name = "a"
driver = "sim"
`

func TestLoadConfigDefaultsAndPaths(t *testing.T) {
	name := write(t, goodConfig)
	dir := filepath.Dir(name)
	c, problems := LoadConfig(name)
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	if c.DataDir != filepath.Join(dir, "data") || c.KeyFile != filepath.Join(dir, "data", "identity.pem") || c.Buffer.RuntimeDir != filepath.Join(dir, "run") {
		t.Errorf("paths: %+v", c)
	}
	if c.Batch != (Batch{200 * time.Millisecond, 20, 32 << 10}) || c.Buffer.MaxBytes != 512<<20 || c.Buffer.MaxAge != 720*time.Hour || c.Buffer.CommitCount != 64 {
		t.Errorf("defaults: %+v", c)
	}
	if c.Uplink.SessionExpiry != 168*time.Hour || c.Uplink.Drain != uplink.InOrder || c.Uplink.ClientID != "gw-1" || c.Topic != "gw/{gateway}/{device}" {
		t.Errorf("uplink: %+v", c.Uplink)
	}
	if len(c.Devices) != 1 || c.Devices[0].Name != "a" || c.StatusListen != "127.0.0.1:9180" {
		t.Errorf("devices %+v, status %q", c.Devices, c.StatusListen)
	}
}

func TestBatchIntervalFollowsASmallerCommitInterval(t *testing.T) {
	c, problems := LoadConfig(write(t, strings.Replace(goodConfig, "[buffer]", "[buffer]\ncommit_interval = \"0s\"", 1)))
	if len(problems) != 0 || c.Batch.Interval != 0 {
		t.Errorf("%v, batch interval %v", problems, c.Batch.Interval)
	}
}

// TestLoadConfigMistakes: one mistake each, and what is said about it.
func TestLoadConfigMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	open := file("open.pem", 0o644, "key")
	password := file("password", 0o604, "secret")
	empty := file("empty", 0o600, "")
	text := file("text.pem", 0o600, "not a certificate")
	for _, c := range []struct{ old, new, want string }{
		{`id = "gw-1"`, `id = "-x"`, `:2: gateway.id: "-x" must begin with`},
		{`id = "gw-1"`, `id = ""`, `:2: gateway.id: "" must begin with`},
		{`id = "gw-1"`, `id = "` + strings.Repeat("x", 65) + `"`, `:2: gateway.id: is 65 characters long`},
		{`id = "gw-1"`, `id = "a/b"`, `:2: gateway.id: "a/b" must begin`},
		{`data_dir = "data"`, `data_dir = ""`, `:3: gateway.data_dir: is empty`},
		{`data_dir = "data"`, `board = "pi"`, `:3: gateway.board: "pi" is not one of "auto", "rpi-zero", `},
		{`[buffer]`, "[signing]\nalgorithm = \"ed2551\"\n[buffer]", `:5: signing.algorithm: "ed2551" is not one of "ed25519", "hmac-sha256"; did you mean "ed25519"?`},
		{`[buffer]`, "[signing]\nkey_file = \"\"\n[buffer]", `:5: signing.key_file: is empty`},
		{`[buffer]`, "[signing]\nkey_file = \"" + open + "\"\n[buffer]", `can be read by others (mode 0644); run: chmod 0600 ` + open},
		{`[buffer]`, "[signing]\nkey_file = \"" + dir + "\"\n[buffer]", `is not a file`},
		{`[buffer]`, "[payload]\nformat = \"xml\"\n[buffer]", `:5: payload.format: "xml" is not one of "json", "cbor"`},
		{`[buffer]`, "[buffer]\nmax_bytes = \"1KiB\"", `:5: buffer.max_bytes: 1KiB is too small to work with; at least 1MiB`},
		{`[buffer]`, "[buffer]\nmax_age = \"5s\"", `:5: buffer.max_age: 5s would drop`},
		{`[buffer]`, "[buffer]\nwhen_full = \"drop-oldst\"", `did you mean "drop-oldest"?`},
		{`[buffer]`, "[buffer]\ncommit_interval = \"2h\"", `:5: buffer.commit_interval: 2h is how much`},
		{`[buffer]`, "[buffer]\nbatch_interval = \"2s\"", `:5: buffer.batch_interval: 2s is longer than commit_interval (1s)`},
		{`[buffer]`, "[buffer]\ncommit_count = -1", `:5: buffer.commit_count: -1 is not between`},
		{`[buffer]`, "[buffer]\nbatch_count = 0", `:5: buffer.batch_count: 0 is not between`},
		{`[buffer]`, "[buffer]\nbatch_bytes = \"5MiB\"", `:5: buffer.batch_bytes: 5MiB is not between`},
		{`runtime_dir = "run"`, `runtime_dir = "data"`, `:5: buffer.runtime_dir: is the same directory`},
		{`servers = ["mqtt://127.0.0.1:1883"]`, ``, `:6: uplink.servers: is missing`},
		{`servers = ["mqtt://127.0.0.1:1883"]`, `servers = []`, `:7: uplink.servers: is missing`},
		{`mqtt://127.0.0.1:1883`, `http://127.0.0.1`, `:7: uplink.servers: `},
		{`mqtt://127.0.0.1:1883`, `mqtt://a:port`, `:7: uplink.servers: `},
		{`[[device]]`, "topic = \"gw/{gatway}\"\n[[device]]", `only {gateway} and {device} can stand in braces`},
		{`[[device]]`, "topic = \"gw/#\"\n[[device]]", `:8: uplink.topic: "gw/#": '+' and '#' cannot`},
		{`[[device]]`, "topic = \"$SYS/{device}\"\n[[device]]", `belong to the broker`},
		{`[[device]]`, "topic = \"\"\n[[device]]", `:8: uplink.topic: is empty`},
		{`[[device]]`, "topic = \"all\"\n[[device]]", `:8: warning: uplink.topic: has no {device}`},
		{`[[device]]`, "drain = \"in order\"\n[[device]]", `:8: uplink.drain: `},
		{`[[device]]`, "drain_rate = \"200\"\n[[device]]", `:8: uplink.drain_rate: `},
		{`[[device]]`, "session_expiry = \"7\"\n[[device]]", `:8: uplink.session_expiry: "7" has no unit`},
		{`[[device]]`, "username = \"u\"\npassword_file = \"" + password + "\"\n[[device]]", `can be read by others (mode 0604); run: chmod 0600`},
		{`[[device]]`, "username = \"u\"\npassword_file = \"none\"\n[[device]]", `:9: uplink.password_file: `},
		{`[[device]]`, "username = \"u\"\npassword_file = \"" + empty + "\"\n[[device]]", `:9: uplink.password_file: ` + empty + ` is empty`},
		{`[[device]]`, "username = \"u\"\npassword_file = \"/run/credentials/none.service/mqtt\"\n[[device]]", `:9: warning: uplink.password_file: /run/credentials/none.service/mqtt is a credential of the service and was not looked at`},
		{`[[device]]`, "ca_file = \"/run/credentials/none.service/ca.pem\"\n[[device]]", `:8: warning: uplink.ca_file: /run/credentials/none.service/ca.pem is a credential`},
		{`[[device]]`, "cert_file = \"/run/credentials/none.service/cert\"\nkey_file = \"/run/credentials/none.service/key\"\n[[device]]", `:9: warning: uplink.key_file: /run/credentials/none.service/key is a credential`},
		{`[[device]]`, "ca_file = \"none.pem\"\n[[device]]", `:8: uplink.ca_file: `},
		{`[[device]]`, "ca_file = \"" + text + "\"\n[[device]]", `:8: uplink.ca_file: `},
		{`[[device]]`, "cert_file = \"" + text + "\"\n[[device]]", `:8: uplink.`},
		{`[[device]]`, "[status]\nlisten = \"9180\"\n[[device]]", `:9: status.listen: "9180" is not an address`},
		{`[[device]]`, "[status]\nlisten = \"127.0.0.1:99999\"\n[[device]]", `:9: status.listen: `},
		{`[[device]]`, "[status]\nlisten = \":9180\"\n[[device]]", `:9: warning: status.listen: :9180 can be reached`},
		{`name = "a"`, ``, `:8: device #1: name: is missing`},
		{`name = "a"`, `name = ""`, `:9: device #1: name: is empty`},
		{`name = "a"`, `name = 5`, `:9: device #1: name: must be text`},
		{`name = "a"`, `name = "a b"`, `:9: device "a b": name: "a b" must begin`},
		{`name = "a"`, `name = "_holdfast"`, `must begin with a letter`},
		{`driver = "sim"`, `driver = "smi"`, `:10: device "a": driver: there is no driver "smi"; did you mean "sim"?`},
		{`driver = "sim"`, `driver = "telepathy"`, `there is no driver "telepathy"; one of: `},
		{`driver = "sim"`, ``, `:8: device "a": driver: is missing; one of: `},
		{`driver = "sim"`, "driver = \"sim\"\nintervall = \"1s\"", `:11: device "a": intervall: unknown key; did you mean "interval"?`},
		{`driver = "sim"`, "driver = \"sim\"\ninterval = \"0s\"", `:11: device "a": interval: `},
		{`driver = "sim"`, "driver = \"sim\"\n[[device]]\nname = \"a\"\ndriver = \"sim\"", `:12: device "a": name: "a" is already the device on line 8`},
		{"[[device]]\nname = \"a\"\ndriver = \"sim\"\n", ``, `warning: device: there is none`},
		{`driver = "sim"`, modbusDevice(`port = "/dev/x"`) + "[[device]]\nname = \"b\"\n" + modbusDevice("port = \"/dev/x\"\nbaud = 9600"), `device "b": port: device "a" reads the same port; and sets the line otherwise`},
		{`driver = "sim"`, modbusDevice(`port = "/dev/null"`) + "[[device]]\nname = \"b\"\n" + modbusDevice(`port = "/dev/../dev/null"`), `device "b": port: device "a" reads the same port; but calls it /dev/null`},
		{`driver = "sim"`, modbusDevice(`port = "/dev/x"`) + "[[device]]\nname = \"b\"\ndriver = \"serial-line\"\nport = \"/dev/x\"\npattern = '(?P<a>.)'", `device "b": port: device "a" reads the same port; two readers would each get half`},
		{`driver = "sim"`, "driver = \"serial-line\"\nport = \"/dev/x\"\npattern = '(?P<a>.)'\n[[device]]\nname = \"b\"\ndriver = \"serial-line\"\nport = \"/dev/x\"\npattern = '(?P<a>.)'", `:16: device "b": port: device "a" reads the same port`},
		{`driver = "sim"`, modbusDevice(`port = "/dev/x"`) + "[[device]]\nname = \"b\"\n" + modbusDevice("port = \"/dev/x\"\nbaud = 9600"), `device "b": port: device "a" reads the same port; and sets the line otherwise`},
		{`driver = "sim"`, modbusDevice(`port = "/dev/null"`) + "[[device]]\nname = \"b\"\n" + modbusDevice(`port = "/dev/../dev/null"`), `device "b": port: device "a" reads the same port; but calls it /dev/null`},
		{`driver = "sim"`, modbusDevice(`port = "/dev/x"`) + "[[device]]\nname = \"b\"\ndriver = \"serial-line\"\nport = \"/dev/x\"\npattern = '(?P<a>.)'", `device "b": port: device "a" reads the same port; two readers would each get half`},
		{`driver = "sim"`, "driver = \"serial-line\"\nport = \"/dev/x\"\npattern = '(?P<a>'", `:12: device "a": pattern: `},
		{`driver = "sim"`, i2cDevice("tmp105", "0x48") + "[[device]]\nname = \"b\"\n" + i2cDevice("tmp105", "0x49") + "[[device]]\nname = \"c\"\n" + i2cDevice("lm75", "0x49"),
			`device "c": bus: device "b" reads the same bus; at the same address, 0x49`},
		{`driver = "sim"`, i2cDevice("tmp105", "0x60"), `:13: device "a": address: 0x60: a tmp105 has 0x48 to 0x4f`},
		{`[buffer]`, "bufer = 1\n[buffer]", `:4: gateway.bufer: unknown key`},
		{`[gateway]`, "[gatway]", `:1: gatway: unknown table; did you mean "gateway"?`},
		{`[buffer]`, "[bufer]\nx = 1\n[buffer]", `:4: bufer: unknown table; did you mean "buffer"?`},
		{`[[device]]`, `[device]`, `:8: device: must stand in double brackets`},
		{`[uplink]`, `[uplink`, `:6: column 8: expected ']'`},
	} {
		t.Run(c.new, func(t *testing.T) {
			text := strings.Replace(goodConfig, c.old, c.new, 1)
			if text == goodConfig {
				t.Fatalf("%q is not in the configuration", c.old)
			}
			_, problems := LoadConfig(write(t, text))
			if !slices.ContainsFunc(problems, func(p settings.Problem) bool { return strings.Contains(p.String(), c.want) }) {
				t.Errorf("said %v\nwant %s", problems, c.want)
			}
			if n := len(settings.Errors(problems)); n > 1 {
				t.Errorf("one mistake, told as %d: %v", n, problems)
			}
		})
	}
}

func TestBlockWarnsOfDevicesThatPush(t *testing.T) {
	text := strings.Replace(goodConfig, "[buffer]", "[buffer]\nwhen_full = \"block\"", 1)
	if _, problems := LoadConfig(write(t, text)); len(problems) != 0 {
		t.Errorf("a device that is polled: %v", problems)
	}
	text = strings.Replace(text, `driver = "sim"`, "driver = \"serial-line\"\nport = \"/dev/x\"\npattern = '^(?P<a>.)'", 1)
	_, problems := LoadConfig(write(t, text))
	if len(problems) != 1 || !problems[0].Warning || !strings.Contains(problems[0].String(), "cannot hold back") {
		t.Errorf("a device that pushes: %v", problems)
	}
}

func TestManyMistakesAtOnce(t *testing.T) {
	_, problems := LoadConfig(write(t, "[gateway]\nid = \"?\"\n[buffer]\nmax_byte = 1\nwhen_full = \"x\"\n[uplink]\nservers = [\"x\"]\n[[device]]\nname = \"a\"\ndriver = \"x\"\n"))
	var lines []int
	for _, p := range problems {
		lines = append(lines, p.Line)
	}
	if !slices.Equal(lines, []int{2, 4, 5, 7, 10}) {
		t.Errorf("%v", problems)
	}
}

// docRow is a line of a table of docs/CONFIG.md: | `key` | `default` | meaning |
var docRow = regexp.MustCompile("^\\| `([a-z_]+)` \\| `([^`]*)` \\|")

// TestConfigDocHoldsEveryKey: docs/CONFIG.md names exactly the keys that there are,
// with their defaults.
func TestConfigDocHoldsEveryKey(t *testing.T) {
	text, err := os.ReadFile("../docs/CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	section := ""
	for _, line := range strings.Split(string(text), "\n") {
		if h, is := strings.CutPrefix(line, "## ["); is {
			section = strings.Trim(h, "[]")
		}
		if m := docRow.FindStringSubmatch(line); m != nil {
			said[section+"."+m[1]] = m[2]
		}
	}
	f := defaults()
	real := map[string]string{}
	keysOf(reflect.ValueOf(f), "", real)
	keysOf(reflect.ValueOf(deviceKeys{}), "device", real)
	keysOf(reflect.ValueOf(Rule{}), "device.rule", real)
	for k, v := range real {
		if said[k] != v {
			t.Errorf("%s: the default is %s, docs/CONFIG.md says %q", k, v, said[k])
		}
	}
	for k := range said {
		if _, is := real[k]; !is {
			t.Errorf("docs/CONFIG.md explains %s, which there is not", k)
		}
	}
	for driver := range catalog.Drivers() {
		if !strings.Contains(string(text), "`"+driver+"`") {
			t.Errorf("docs/CONFIG.md does not name the driver %s", driver)
		}
	}
}

// keysOf notes every key below v with its default as it would be written.
func keysOf(v reflect.Value, path string, into map[string]string) {
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("toml"), ",")
		key := strings.TrimPrefix(path+"."+name, ".")
		f := v.Field(i)
		switch x := f.Interface().(type) {
		case time.Duration:
			into[key] = fmt.Sprintf("%q", settings.FormatDuration(x))
		case uplink.Rate:
			into[key] = fmt.Sprintf("%q", x)
		case string:
			into[key] = fmt.Sprintf("%q", x)
		case []string:
			into[key] = fmt.Sprint(x)
		default:
			switch {
			case option == "size":
				into[key] = fmt.Sprintf("%q", settings.FormatSize(f.Int()))
			case f.Kind() == reflect.Struct:
				keysOf(f, key, into)
			case f.Kind() == reflect.Map:
				into[key] = "{}"
			default:
				into[key] = fmt.Sprint(x)
			}
		}
	}
}

// TestExample: the example in docs is good, and what it shows as defaults are the
// defaults.
func TestExample(t *testing.T) {
	example, err := os.ReadFile("../docs/agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(`"/etc/holdfast/password"`, `"password"`, `"/etc/holdfast/ca.pem"`, `""`).Replace(string(example))
	name := write(t, text)
	if err := os.WriteFile(filepath.Join(filepath.Dir(name), "password"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	short, problems := LoadConfig(name)
	if len(problems) != 0 {
		t.Errorf("the example: %v", problems)
	}
	full := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`).ReplaceAllString(text, "$1")
	if err := os.WriteFile(name, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	keysOf(reflect.ValueOf(defaults()), "", known)
	for key := range known {
		if short := key[strings.LastIndex(key, ".")+1:]; !regexp.MustCompile(`(?m)^` + short + ` = `).MatchString(full) {
			t.Errorf("the example does not have %s", key)
		}
	}
	long, problems := LoadConfig(name)
	if len(problems) != 0 {
		t.Errorf("the example with its defaults: %v", problems)
	}
	if !reflect.DeepEqual(short, long) {
		t.Errorf("what the example shows as defaults is not:\n%+v\n%+v", short, long)
	}
}

// TestExampleOfEachDriver: docs/agent.toml has a device of each driver; with the # before its lines
// taken away each is good, alone and beside all others, and all fit one Raspberry Pi 4.
func TestExampleOfEachDriver(t *testing.T) {
	example, err := os.ReadFile("../docs/agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(`password_file = "/etc/holdfast/password"`, ``, `"/etc/holdfast/ca.pem"`, `""`).Replace(string(example))
	head, devices, found := strings.Cut(text, "# --- Devices ")
	if !found {
		t.Fatal("where do the devices begin?")
	}
	off := regexp.MustCompile(`(?m)^#([^ \n]|  \{)`)
	for _, block := range strings.Split(off.ReplaceAllString(devices, "$1"), "\n\n# ")[1:] {
		c, problems := LoadConfig(write(t, head+"# "+block))
		if len(problems) != 0 || len(c.Devices) != 1 {
			t.Errorf("%d devices, %v, of\n%s", len(c.Devices), problems, block)
		}
	}
	doc, _ := settings.Parse("agent.toml", []byte(off.ReplaceAllString(text, "$1")))
	cfg, l := load(doc, catalog.Drivers(), reader{})
	board, _ := boards.ByName("rpi-4")
	state := boardtest.Look(t, board, boardtest.Options{On: []string{"i2c1", "uart0", "uart5"}, Files: []string{"dev/serial0"}})
	state.OneWire = []string{"w1_bus_master1"}
	l.onBoard(cfg, state)
	if problems := l.Problems(); len(problems) != 0 {
		t.Errorf("all together: %v", problems)
	}
	there := map[string]bool{}
	for _, d := range cfg.Devices {
		there[d.Driver] = true
	}
	for driver := range catalog.Drivers() {
		if !there[driver] {
			t.Errorf("there is no device with the driver %s", driver)
		}
	}
}

func TestCheckConfigLooksAtTheMachine(t *testing.T) {
	dir := t.TempDir()
	notADevice := filepath.Join(dir, "file")
	garbage := filepath.Join(dir, "garbage.pem")
	for name, text := range map[string]string{notADevice: "", garbage: "no key"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serial := "driver = \"serial-line\"\npattern = '^(?P<a>.)'\nport = "
	for _, c := range []struct{ old, new, want string }{
		{`driver = "sim"`, serial + `"/dev/serial/by-id/none"`, `:12: device "a": port: /dev/serial/by-id/none is not there now; the agent will run and wait for it.`},
		{`driver = "sim"`, serial + `"` + notADevice + `"`, `:12: device "a": port: ` + notADevice + ` is not a device`},
		{`driver = "sim"`, serial + `"/dev/null"`, `:12: device "a": port: /dev/null is no serial port, but a device of "mem"`},
		{`data_dir = "data"`, `data_dir = "` + notADevice + `"`, `:3: gateway.data_dir: ` + notADevice + ` is not a directory`},
		{`[buffer]`, "[buffer]\nmax_bytes = \"4096TiB\"", `:5: buffer.max_bytes: 4096TiB, but`},
		{`[buffer]`, "[signing]\nkey_file = \"" + garbage + "\"\n[buffer]", `:5: signing.key_file: ` + garbage},
		{`runtime_dir = "run"`, `runtime_dir = ""`, `:5: warning: buffer.runtime_dir: is empty: every reading goes straight to the card`},
		{`data_dir = "data"`, `data_dir = "/dev/shm"`, `:3: warning: gateway.data_dir: /dev/shm is on a tmpfs`},
	} {
		_, problems := CheckConfig(t.Context(), write(t, strings.Replace(goodConfig, c.old, c.new, 1)), false)
		if !slices.ContainsFunc(problems, func(p settings.Problem) bool { return strings.Contains(p.String(), c.want) }) {
			t.Errorf("said %v\nwant %s", problems, c.want)
		}
	}
}

func TestCheckConfigOnline(t *testing.T) {
	addr := freeport.Addr(t)
	_, problems := CheckConfig(t.Context(), write(t, strings.Replace(goodConfig, "127.0.0.1:1883", addr, 1)), true)
	if len(settings.Errors(problems)) != 1 || !strings.Contains(fmt.Sprint(problems), ":7: uplink.servers[0]: mqtt://"+addr) {
		t.Errorf("nobody listens: %v", problems)
	}
}

// FuzzConfig: no configuration makes the loader panic, and what it calls good is whole.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	example, err := os.ReadFile("../docs/agent.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(strings.Replace(goodConfig, "[buffer]", "tags = { site = \"north\", \"a.b\" = \"\" }\n[buffer]", 1) + "tags = { site = \"\" }\n"))
	f.Add([]byte("[[device]]\nname = \"a\"\ndriver = \"sim\"\n[[device.metrics]]\nname = \"x\"\nwave = \"saw\"\nmin = -1e400\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, _ := settings.Parse("agent.toml", data)
		c, l := load(doc, catalog.Drivers(), reader{})
		if len(settings.Errors(l.Problems())) > 0 {
			return
		}
		if len(c.Uplink.Servers) == 0 || c.Topic == "" || c.DataDir == "" || c.Batch.Count < 1 || c.Batch.Interval > c.Buffer.CommitInterval {
			t.Errorf("called good: %+v", c)
		}
		for _, d := range c.Devices {
			if d.Name == "" || d.Settings == nil || wire.CheckTags(d.Tags) != nil {
				t.Errorf("called good: device %+v", d)
			}
		}
	})
}

// modbusDevice is the keys of a slave that reads one register.
// TestNoSensor: a 1-Wire sensor that is not there is told, unless there is not even a bus.
func TestNoSensor(t *testing.T) {
	dir := t.TempDir()
	const id = "28-0316a2794cff"
	if why := noSensor(filepath.Join(dir, "none"), id); why != "" {
		t.Errorf("without a bus: %s", why)
	}
	if why := noSensor(dir, id); !strings.HasPrefix(why, id+" is not on a 1-Wire bus now; ") {
		t.Errorf("without the sensor: %q", why)
	}
	if err := os.Mkdir(filepath.Join(dir, id), 0o700); err != nil {
		t.Fatal(err)
	}
	if why := noSensor(dir, id); why != "" {
		t.Errorf("with it: %s", why)
	}
}

func i2cDevice(sensor, address string) string {
	return fmt.Sprintf("driver = \"i2c\"\nbus = \"/dev/i2c-1\"\nsensor = %q\naddress = %s\n", sensor, address)
}

func modbusDevice(line string) string {
	return "driver = \"modbus\"\n" + line + "\n[[device.group]]\nregisters = [{ metric = \"r\", address = 0 }]\n"
}

// TestSlavesShareALine: two slaves of one line are no mistake.
func TestSlavesShareALine(t *testing.T) {
	doc, _ := settings.Parse("agent.toml", []byte("[[device]]\nname = \"a\"\n"+modbusDevice(`port = "/dev/x"`)+"[[device]]\nname = \"b\"\n"+modbusDevice("port = \"/dev/x\"\nslave = 2")))
	cfg, l := load(doc, catalog.Drivers(), reader{})
	for _, p := range l.Problems() {
		if strings.Contains(p.Key, "device") {
			t.Error(p)
		}
	}
	if len(cfg.Devices) != 2 {
		t.Error(cfg.Devices)
	}
}
