package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/systemd/settings"
	"holdfast/uplink/wire"
)

// TestTagsInTheFile: the gateway's and the device's, which wins and can take away.
func TestTagsInTheFile(t *testing.T) {
	text := strings.Replace(goodConfig, "[buffer]", "tags = { site = \"north\", line = \"3\" }\n[buffer]", 1) +
		"tags = { line = \"4\", \"a.b\" = \"x y\" }\n[[device]]\nname = \"b\"\ndriver = \"sim\"\n" +
		"[[device]]\nname = \"c\"\ndriver = \"sim\"\n[device.tags]\nsite = \"\"\nline = \"\"\n"
	c, problems := LoadConfig(write(t, text))
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	for device, want := range map[string]string{"a": `a.b="x y" line=4 site=north`, "b": "line=3 site=north", "c": "", "gone": "line=3 site=north"} {
		if got := wire.FormatTags(c.tagsOf(device)); got != want {
			t.Errorf("%s: %s, want %s", device, got, want)
		}
	}
	if c.tagsOf("c") != nil {
		t.Error("no tags are not nil")
	}
	if c, _ := LoadConfig(write(t, goodConfig)); c.Tags != nil || c.Devices[0].Tags != nil {
		t.Errorf("tags of nowhere: %v %v", c.Tags, c.Devices[0].Tags)
	}
}

// TestTagMistakes: each with its line, and told once.
func TestTagMistakes(t *testing.T) {
	many := func(n, size int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("k%02d = %q", i, strings.Repeat("x", size)))
		}
		return "tags = { " + strings.Join(list, ", ") + " }"
	}
	for _, c := range []struct{ gateway, device, want string }{
		{`tags = { site = "" }`, ``, `:4: gateway.tags.site: the value is empty`},
		{`tags = { site_ = "x" }`, ``, `:4: gateway.tags.site_: the key "site_" must not end in '_': SenML readers would refuse`},
		{`tags = { "a/b" = "x" }`, ``, `:4: gateway.tags.a/b: the key "a/b" must begin with a letter or digit`},
		{`tags = { site = "a\nb" }`, ``, `:4: gateway.tags.site: the value has a control character`},
		{`tags = { site = "` + strings.Repeat("x", 129) + `" }`, ``, `:4: gateway.tags.site: the value is 129 bytes long; at most 128`},
		{`tags = { ` + strings.Repeat("k", 33) + ` = "x" }`, ``, `the key is 33 bytes long; at most 32`},
		{`tags = { site = 3 }`, ``, `:4: gateway.tags.site: must be text in quotes, such as "text", not the number 3`},
		{`tags = "site"`, ``, `:4: gateway.tags: must be a table`},
		{many(17, 1), ``, `:4: gateway.tags: 17 tags; at most 16`},
		{many(10, 100), ``, `:4: gateway.tags: 1030 bytes of names and values; at most 1024`},
		{``, `tags = { line = "" }`, `:12: device "a": tags.line: is empty, which takes away a tag of the gateway, and that has no "line"`},
		{``, `tags = { _line = "3" }`, `:12: device "a": tags._line: the key "_line" must begin`},
		{``, many(17, 1), `:12: device "a": tags: 17 tags; at most 16 (0 of them are the gateway's)`},
		{many(8, 100), `tags = { k00 = "x", a1 = "` + strings.Repeat("x", 128) + `", a2 = "` + strings.Repeat("x", 128) + `", a3 = "x" }`, ``},
		{many(9, 100), `tags = { a1 = "` + strings.Repeat("x", 128) + `" }`, `:12: device "a": tags: 1057 bytes of names and values; at most 1024: they travel with every message (9 of them are the gateway's)`},
	} {
		text := strings.Replace(goodConfig, "[buffer]", c.gateway+"\n[buffer]", 1) + c.device + "\n"
		_, problems := LoadConfig(write(t, text))
		if c.want == "" && len(problems) == 0 {
			continue
		}
		if len(problems) != 1 || !strings.Contains(problems[0].String(), c.want) || c.want == "" {
			t.Errorf("%s %s: said %v\nwant %s", c.gateway, c.device, problems, c.want)
		}
	}
}

// TestTagsAndBatchBytes: a message is not made of tags.
func TestTagsAndBatchBytes(t *testing.T) {
	text := strings.Replace(goodConfig, "[buffer]", "tags = { site = \""+strings.Repeat("x", 128)+"\", line = \""+strings.Repeat("x", 121)+"\" }\n[buffer]\nbatch_bytes = \"1KiB\"", 1)
	_, problems := LoadConfig(write(t, text))
	const want = ":4: gateway.tags: 257 bytes of names and values, which every message carries; at most a quarter of buffer.batch_bytes (1KiB)"
	if len(problems) != 1 || !strings.Contains(problems[0].String(), want) {
		t.Errorf("said %v\nwant %s", problems, want)
	}
	if _, problems := LoadConfig(write(t, strings.Replace(text, `line = "x`, `line = "`, 1))); len(problems) != 0 {
		t.Errorf("a quarter: %v", problems)
	}
}

// TestMessagesDoNotMixTags: what was taken before other tags came is not sealed with them,
// even if it waits for the same batch.
func TestMessagesDoNotMixTags(t *testing.T) {
	for _, format := range []wire.Format{wire.JSON, wire.CBOR} {
		r := newRig(t, format, Batch{Interval: time.Hour, Count: 100, Bytes: 1 << 20})
		s := r.station("scale", idle)
		north, south := map[string]string{"site": "north"}, map[string]string{"site": "south"}
		n := 0
		emit := func(tags map[string]string, count int) {
			s.retag(tags)
			for range count {
				s.Emit(r.reading(n))
				n++
			}
		}
		emit(nil, 1)
		emit(north, 3)
		emit(maps.Clone(north), 2) // the same again is no reason for another message
		emit(south, 2)
		emit(nil, 1)
		s.lane.flush()
		got := r.store.wait(4)
		var said []string
		for _, m := range got {
			said = append(said, fmt.Sprintf("%d %s", len(m.Records), wire.FormatTags(m.Tags)))
		}
		if want := []string{"1 ", "5 site=north", "2 site=south", "1 "}; !slices.Equal(said, want) {
			t.Errorf("%s: messages of %q, want %q", format, said, want)
		}
		if err := inOrder(values(got, "scale"), n); err != nil {
			t.Error(err)
		}
	}
}

// TestReloadTags: other tags are no reason to stop a device; readings keep those that they
// were taken with, also the last ones of a device that goes.
func TestReloadTags(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, addr)
	cfg.Batch = Batch{Interval: time.Hour, Count: 1000, Bytes: 1 << 20} // only a reload seals
	cfg.Buffer.CommitInterval, cfg.Buffer.CommitCount = time.Hour, 0
	_, sub := trusting(t, cfg, addr)
	c, starts := &counter{limit: 1 << 30, ticks: make(chan struct{})}, atomic.Int32{}
	run := func(ctx context.Context, sink devices.Sink) error { starts.Add(1); return c.run(ctx, sink) }
	device := func(tags map[string]string) []DeviceConfig {
		return []DeviceConfig{{Name: "d", Driver: "script", Tags: tags}}
	}
	cfg.Devices = device(map[string]string{"line": "1"})
	a := start(t, cfg, Options{Drivers: scripted(run)})
	taken := 0
	feed := func(n int) {
		for range n {
			c.ticks <- struct{}{}
		}
		taken += n
		eventually(t, "they are taken", func() bool { return a.Status().Devices[0].Taken == uint64(taken) })
	}
	reload := func(devices []DeviceConfig) {
		cfg.Devices = devices
		if err := a.Reload(cfg); err != nil {
			t.Fatal(err)
		}
	}
	feed(3)
	reload(device(map[string]string{"line": "2"}))
	if s := a.Status().Devices[0]; s.Tags["line"] != "2" || starts.Load() != 1 {
		t.Errorf("%v, started %d times", s.Tags, starts.Load())
	}
	feed(2)
	reload(device(nil))
	feed(1)
	reload(device(map[string]string{"line": "3"}))
	feed(2)
	reload(nil)
	eventually(t, "all arrive", func() bool { return len(sub.numbers(t, "d")) == 8 })
	var said []string
	unique, _ := sub.data(t, "d")
	for _, m := range unique {
		for range m.pack.Records {
			said = append(said, m.pack.Tags["line"])
		}
	}
	if want := []string{"1", "1", "1", "2", "2", "", "3", "3"}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
	for _, m := range sub.all() {
		if m.header.Type != wire.TypeData && m.pack.Tags != nil {
			t.Errorf("a message of the gateway's own with tags: %v", m.pack.Tags)
		}
	}
	bad := cfg
	bad.Devices = device(map[string]string{"line": ""})
	if err := a.Reload(bad); err == nil || !strings.Contains(err.Error(), `device "d": tag "line": the value is empty`) {
		t.Errorf("tags that cannot be sealed: %v", err)
	}
}

// TestTagsOfWhatAKillLeft: the journal does not have them, so they are those of today.
func TestTagsOfWhatAKillLeft(t *testing.T) {
	clock := newFakeClock()
	a := &Agent{clock: clock, keeper: newTimekeeper(clock, time.Time{}), log: slog.New(slog.DiscardHandler)}
	a.cfg = Config{Tags: map[string]string{"site": "north"}, Devices: []DeviceConfig{{Name: "d", Tags: map[string]string{"line": "3"}}}}
	raw := appendGroup(nil, exampleGroup())
	for _, c := range []struct {
		device, want string
		data         []byte
	}{{"d", "line=3", raw}, {"gone", "site=north", raw}, {"d", "line=3", []byte("unreadable")}} {
		if got := wire.FormatTags(a.leftover(buffer.Raw{Device: c.device, Readings: 6, Data: c.data}).tags); got != c.want {
			t.Errorf("%s: %s, want %s", c.device, got, c.want)
		}
	}
}

// FuzzTagsInTheFile: whatever is called good can be sealed.
func FuzzTagsInTheFile(f *testing.F) {
	f.Add("site", "north", "line", "3")
	f.Add("site", "north", "site", "")
	f.Add("a.b", "x", "_", "\x00")
	f.Fuzz(func(t *testing.T, key, value, key2, value2 string) {
		doc, _ := settings.Parse("agent.toml", []byte("[[device]]\n"))
		l := &loader{Doc: doc, f: defaults()}
		l.f.Gateway.Tags = map[string]string{key: value}
		l.gatewayTags()
		merged := l.tags(doc.Tables("device")[0], map[string]string{key2: value2})
		if len(settings.Errors(l.Problems())) > 0 {
			return
		}
		if err := wire.CheckTags(merged); err != nil {
			t.Error(err)
		}
	})
}
