package onewire

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/octets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sensorID = "28-0316a2794cff"

// tree is the kernel's view of a bus, in a folder of the test's own.
type tree struct {
	t    testing.TB
	root string
}

func newTree(t testing.TB) *tree { return &tree{t, t.TempDir()} }

func (k *tree) path(name string) string { return filepath.Join(k.root, devicesDir, name) }

// put writes a file as a whole: a reader sees the old one or the new one.
func (k *tree) put(name, text string) {
	k.t.Helper()
	path := k.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		k.t.Fatal(err)
	}
}

func (k *tree) remove(name string) {
	k.t.Helper()
	if err := os.RemoveAll(k.path(name)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *tree) settings() *Settings {
	s := Driver{}.Settings().(*Settings)
	s.ID = sensorID
	return s
}

func TestContract(t *testing.T) {
	k := newTree(t)
	drivertest.Run(t, drivertest.Contract{
		Driver: Driver{root: k.root},
		Make: func(*testing.T) drivertest.Fixture {
			k.put(sensorID+"/w1_slave", line(pad(0x191, 0x7F, 0x0F)))
			return drivertest.Fixture{
				Settings: k.settings(), Step: 10 * time.Second,
				Lose:   func() { k.remove(sensorID) },
				Return: func() { k.put(sensorID+"/w1_slave", line(pad(0x191, 0x7F, 0x0F))) },
				Within: 20 * time.Second, Reasons: []string{sensorLost},
			}
		},
		Bad: map[string]func(devices.Settings){
			"no id":        func(s devices.Settings) { s.(*Settings).ID = "" },
			"bogus id":     func(s devices.Settings) { s.(*Settings).ID = "00-400000000000" },
			"no id at all": func(s devices.Settings) { s.(*Settings).ID = "../../../etc/passwd" },
			"an iButton":   func(s devices.Settings) { s.(*Settings).ID = "01-0316a2794cff" },
			"metric":       func(s devices.Settings) { s.(*Settings).Metric = "" },
			"interval":     func(s devices.Settings) { s.(*Settings).Interval = 500 * time.Millisecond },
			"report":       func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
		},
	})
}

// TestTroubles: what is wrong is told in words, once, and over when it is over.
func TestTroubles(t *testing.T) {
	k := newTree(t)
	b := drivertest.Start(t, Driver{root: k.root}, k.settings(), 10*time.Second)
	told := func(want string) {
		t.Helper()
		n := len(b.Readings())
		b.Drive(want, func(r []devices.Reading, _ map[string]uint64) bool {
			for _, g := range r[min(n, len(r)):] {
				if drivertest.Show(g) == want {
					return true
				}
			}
			return false
		})
	}
	told("temperature=Cel bad:bus-lost")
	k.put("w1_bus_master1/w1_master_slaves", "not found.\n")
	told("temperature=Cel bad:sensor-lost")
	k.put(sensorID+"/name", sensorID)
	told("temperature=Cel bad:no-driver")
	k.put(sensorID+"/w1_slave", "")
	told("temperature=Cel bad:bus-error")
	k.put(sensorID+"/w1_slave", line(pad(0x550, 0x7F, 0x0C)))
	told("temperature=Cel bad:power-on-value")
	k.put(sensorID+"/w1_slave", line(pad(0x191, 0x7F, 0x0F)))
	told("temperature=25.0625Cel")
	damaged := pad(0x191, 0x7F, 0x0F)
	damaged[3] ^= 0x10
	k.put(sensorID+"/w1_slave", line(damaged))
	told("temperature=Cel bad:bad-checksum")
	k.put(sensorID+"/w1_slave", line(scratchpad{}))
	told("temperature=Cel bad:shorted")
	b.Stop()
	if c := b.Counts(); c["crc_errors"] == 0 || c["samples"] == 0 || c["errors"] < 6 {
		t.Errorf("%v", c)
	}
}

func TestList(t *testing.T) {
	k := newTree(t)
	if got := List(k.root); got == nil || len(got) > 0 {
		t.Errorf("without a bus: %+v", got)
	}
	k.put("w1_bus_master1/w1_master_slaves", strings.Join([]string{sensorID, "00-400000000000", "00-c00000000000", "10-000802c7b8a1", "01-00001234abcd", "22-0000000000aa"}, "\n")+"\n")
	k.put("w1_bus_master2/w1_master_slaves", "not found.\n")
	k.put(sensorID+"/w1_slave", "")
	rom := []byte{0x28, 0xFF, 0x4C, 0x79, 0xA2, 0x16, 0x03} // as it comes, the least significant byte first
	k.put(sensorID+"/id", string(append(rom, byte(octets.Checks["crc8-maxim-dow"].Of(rom)))))
	k.put("22-0000000000aa/id", "\x22\xaa\x00\x00\x00\x00\x00\x00")
	want := []Bus{
		{Name: "w1_bus_master1", Bogus: 3, Sensors: []Slave{{ID: sensorID, Kind: "DS18B20"}, {ID: "10-000802c7b8a1", Kind: "DS18S20", NoDriver: true}, {ID: "01-00001234abcd"}}},
		{Name: "w1_bus_master2", Sensors: []Slave{}},
	}
	if got := List(k.root); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func BenchmarkReading(b *testing.B) {
	text := []byte(line(pad(0x191, 0x7F, 0x0F)))
	b.ReportAllocs()
	for b.Loop() {
		p, err := parse(text)
		if err == nil {
			_, err = decode(0x28, p)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
