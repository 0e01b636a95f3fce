package onewire

import (
	"os"
	"path/filepath"
	"strings"

	"holdfast/devices/octets"
)

// Bus is a 1-Wire bus of the kernel, and what it found on it.
type Bus struct {
	Name    string  `json:"name"`
	Sensors []Slave `json:"devices"`
	Bogus   int     `json:"bogus,omitempty"` // ids that no device has: what a floating line reads as
}

// Slave is a device on it.
type Slave struct {
	ID   string `json:"id"`             // to be written into agent.toml
	Kind string `json:"kind,omitempty"` // "": not one that this driver reads
	// NoDriver: the kernel has no w1_therm for it.
	NoDriver bool `json:"no_driver,omitempty"`
}

// List tells what the kernel has found. It reads sysfs only: nothing is said on the wire.
func List(root string) []Bus {
	dir := filepath.Join(root, devicesDir)
	masters, _ := filepath.Glob(filepath.Join(dir, "w1_bus_master*")) // the pattern is good
	out := []Bus{}
	for _, m := range masters {
		b := Bus{Name: filepath.Base(m), Sensors: []Slave{}}
		text, err := os.ReadFile(filepath.Join(m, "w1_master_slaves"))
		if err != nil {
			continue // it has just gone
		}
		for id := range strings.FieldsSeq(string(text)) {
			family, err := parseID(id)
			switch {
			case strings.HasPrefix(id, "00-"), err == nil && !genuine(filepath.Join(dir, id, "id")):
				b.Bogus++
			case err != nil: // "not found.", when there are none
			default:
				s := Slave{ID: id, Kind: families[family].name}
				_, err := os.Stat(filepath.Join(dir, id, "w1_slave"))
				s.NoDriver = s.Kind != "" && err != nil
				b.Sensors = append(b.Sensors, s)
			}
		}
		out = append(out, b)
	}
	return out
}

// genuine: the id's own checksum is right. A kernel that does not tell it has looked itself.
func genuine(path string) bool {
	b, err := os.ReadFile(path)
	return err != nil || len(b) != 8 || octets.Checks["crc8-maxim-dow"].Of(b[:7]) == uint32(b[7])
}
