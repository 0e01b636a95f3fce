package agent

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"holdfast/devices"
)

func exampleGroup() group {
	at := 3*time.Hour + 17*time.Nanosecond
	return group{
		boot:  "5c1a2b3c-0000-4000-8000-000000000001",
		taken: moment{at: at, wall: time.Date(2026, 6, 1, 12, 0, 0, 5, time.UTC), synced: true},
		raw:   true,
		readings: []devices.Reading{
			{Device: "d", Metric: "weight", Unit: "kg", Value: devices.Number(-12.25), At: at - time.Second},
			{Device: "d", Metric: "id", Value: devices.Text("00123 é"), Quality: devices.Uncertain, Reason: "first-line", At: at},
			{Device: "d", Metric: "door", Value: devices.Bool(true), At: at},
			{Device: "d", Metric: "frame", Value: devices.Bytes([]byte{0, 1, 255}), At: at + time.Millisecond},
			{Device: "d", Metric: "none", Value: devices.Bytes([]byte{}), At: at},
			{Device: "d", Metric: "lost", Quality: devices.Bad, Reason: "port-lost", At: at},
		},
	}
}

func TestGroupRoundTrip(t *testing.T) {
	g := exampleGroup()
	b := appendGroup(nil, g)
	g.size = len(b)
	got, err := parseGroup("d", b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, g) {
		t.Errorf("got  %+v\nwant %+v", got, g)
	}
	for n := range b {
		if _, err := parseGroup("d", b[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(b))
		}
	}
	if _, err := parseGroup("d", append(b, 0)); err == nil {
		t.Error("a byte too many is accepted")
	}
}

// FuzzParseGroup: any bytes give an error or a group that is written back the same.
func FuzzParseGroup(f *testing.F) {
	b := appendGroup(nil, exampleGroup())
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{rawVersion})
	f.Add([]byte{rawVersion, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := parseGroup("d", b)
		if err != nil {
			return
		}
		for _, r := range g.readings {
			if err := devices.Validate(r); err != nil {
				t.Errorf("invalid reading: %v", err)
			}
		}
		once := appendGroup(nil, g)
		again, err := parseGroup("d", once)
		if err != nil {
			t.Fatalf("what was parsed cannot be parsed again: %v", err)
		}
		if !bytes.Equal(appendGroup(nil, again), once) {
			t.Error("it changes with each writing")
		}
	})
}
