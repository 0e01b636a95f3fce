package gpiocdev

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// The sizes stand in the numbers of the ioctls (linux/ioctl.h).
func TestSizes(t *testing.T) {
	for request, want := range map[uint]int{getChipInfo: 68, getLine: 592, getValues: 16, setValues: 16} {
		if size(request) != want {
			t.Errorf("%#x: %d bytes, want %d", request, size(request), want)
		}
	}
	if n := len(encodeRequest(0, "x", 0, false)); n != size(getLine) {
		t.Errorf("a request has %d bytes", n)
	}
}

// TestLayoutsAreTheCompilers: what the constants of uapi.go say is what the C compiler says
// of the kernel's header.
func TestLayoutsAreTheCompilers(t *testing.T) {
	dir := t.TempDir()
	type pair struct {
		c    string
		ours uint64
	}
	pairs := []pair{
		{"GPIO_GET_CHIPINFO_IOCTL", getChipInfo}, {"GPIO_V2_GET_LINE_IOCTL", getLine},
		{"GPIO_V2_LINE_GET_VALUES_IOCTL", getValues}, {"GPIO_V2_LINE_SET_VALUES_IOCTL", setValues},
		{"GPIO_MAX_NAME_SIZE", nameSize},
		{"offsetof(struct gpiochip_info, label)", chipLabel}, {"offsetof(struct gpiochip_info, lines)", chipLines},
		{"offsetof(struct gpio_v2_line_request, consumer)", reqConsumer}, {"offsetof(struct gpio_v2_line_request, config)", reqConfig},
		{"offsetof(struct gpio_v2_line_request, num_lines)", reqLines}, {"offsetof(struct gpio_v2_line_request, event_buffer_size)", reqBuffer},
		{"offsetof(struct gpio_v2_line_request, fd)", reqFd},
		{"offsetof(struct gpio_v2_line_config, num_attrs)", confAttrs}, {"offsetof(struct gpio_v2_line_config, attrs)", confAttr},
		{"offsetof(struct gpio_v2_line_config_attribute, attr.values)", attrValue}, {"offsetof(struct gpio_v2_line_config_attribute, mask)", attrMask},
		{"sizeof(struct gpio_v2_line_event)", eventSize}, {"offsetof(struct gpio_v2_line_event, id)", eventID},
		{"offsetof(struct gpio_v2_line_event, line_seqno)", eventSeq}, {"offsetof(struct gpio_v2_line_event, timestamp_ns)", 0},
		{"GPIO_V2_LINE_FLAG_ACTIVE_LOW", flagActiveLow}, {"GPIO_V2_LINE_FLAG_INPUT", flagInput}, {"GPIO_V2_LINE_FLAG_OUTPUT", flagOutput},
		{"GPIO_V2_LINE_FLAG_EDGE_RISING", flagRising}, {"GPIO_V2_LINE_FLAG_EDGE_FALLING", flagFalling},
		{"GPIO_V2_LINE_FLAG_BIAS_PULL_UP", flagPullUp}, {"GPIO_V2_LINE_FLAG_BIAS_PULL_DOWN", flagPullDown}, {"GPIO_V2_LINE_FLAG_BIAS_DISABLED", flagBiasDisabled},
		{"GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES", attrOutputValues}, {"GPIO_V2_LINE_EVENT_RISING_EDGE", risingEdge}, {"GPIO_V2_LINE_EVENT_FALLING_EDGE", fallingEdge},
		{"GPIO_V2_LINES_MAX * 16", queue},
	}
	source := "#include <stddef.h>\n#include <stdio.h>\n#include <linux/gpio.h>\nint main(void) {\n"
	for _, p := range pairs {
		source += fmt.Sprintf("printf(\"%%llu\\n\", (unsigned long long)(%s));\n", p.c)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.c"), []byte(source+"return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "x")
	if out, err := exec.Command("gcc", "-o", bin, filepath.Join(dir, "x.c")).CombinedOutput(); err != nil {
		t.Fatalf("this needs the Debian packages gcc and libc6-dev (.ci/need test): %v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(string(out))
	if len(said) != len(pairs) {
		t.Fatalf("%d answers to %d questions", len(said), len(pairs))
	}
	for i, p := range pairs {
		if said[i] != fmt.Sprint(p.ours) {
			t.Errorf("%s is %s, not %d", p.c, said[i], p.ours)
		}
	}
}

func TestRequestBytes(t *testing.T) {
	long := strings.Repeat("x", 40)
	b := encodeRequest(17, long, Config{Edge: gpio.BothEdges, Pull: gpio.PullUp, ActiveLow: true}.flags(), false)
	if native.Uint32(b) != 17 || cString(b[256:288]) != long[:31] || native.Uint64(b[288:]) != 1<<1|1<<2|1<<4|1<<5|1<<8 {
		t.Errorf("% x", b[:300])
	}
	if native.Uint32(b[296:]) != 0 || native.Uint32(b[560:]) != 1 || native.Uint32(b[564:]) != 1024 {
		t.Errorf("% x", b[280:])
	}
	b = encodeRequest(3, "x", Config{Output: true, Edge: gpio.BothEdges, Pull: gpio.Float}.flags(), true)
	if native.Uint64(b[288:]) != 1<<3|1<<10 || native.Uint32(b[296:]) != 1 || native.Uint32(b[320:]) != 2 || native.Uint64(b[328:]) != 1 || native.Uint64(b[336:]) != 1 {
		t.Errorf("% x", b[280:344])
	}
	if f := (Config{Edge: gpio.FallingEdge, Pull: gpio.PullDown}).flags(); f != 1<<2|1<<5|1<<9 {
		t.Errorf("%#x", f)
	}
	if f := (Config{Edge: gpio.RisingEdge}).flags(); f != 1<<2|1<<4 {
		t.Errorf("%#x", f)
	}
}

// FuzzEvents: whatever the kernel sends, what is taken for an edge is one.
func FuzzEvents(f *testing.F) {
	one := make([]byte, 2*eventSize)
	native.PutUint64(one, 123456789)
	native.PutUint32(one[eventID:], risingEdge)
	native.PutUint32(one[eventSeq:], 7)
	f.Add(one, int64(time.Hour))
	f.Add(make([]byte, eventSize), int64(0))
	f.Add(one[:eventSize+5], int64(-time.Hour))
	f.Fuzz(func(t *testing.T, in []byte, boot int64) {
		l := &Line{file: &fixed{in}, sys: offset{time.Duration(boot)}, buf: make([]byte, batch*eventSize)}
		events, err := l.Read(nil)
		if err != nil || len(events) > len(in)/eventSize || len(events) > batch {
			t.Fatal(len(events), err)
		}
		for _, e := range events {
			if e.At < 0 {
				t.Errorf("%+v", e)
			}
		}
	})
}

// fixed is a line that gives some bytes.
type fixed struct{ bytes []byte }

func (*fixed) Ioctl(uint, []byte) error     { return nil }
func (f *fixed) Read(p []byte) (int, error) { return copy(p, f.bytes), nil }
func (*fixed) Wait() error                  { return nil }
func (*fixed) Close() error                 { return nil }

type offset struct{ boot time.Duration }

func (offset) Chips() []string             { return nil }
func (offset) Open(string) (File, error)   { return nil, os.ErrNotExist }
func (offset) Line(int) (File, error)      { return nil, os.ErrNotExist }
func (o offset) BootOffset() time.Duration { return o.boot }
