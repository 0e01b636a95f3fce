//go:build guest

package guest

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
)

// TestRaspberryPi is a board with an I²C controller of its own and a TMP105 on it.
func TestRaspberryPi(t *testing.T) {
	t.Parallel()
	for _, b := range []Board{Pi3, Pi2} {
		t.Run(b.Debian, func(t *testing.T) {
			t.Parallel()
			x := boot(t, b, func(string) []string {
				return []string{"-device", "tmp105,id=sensor,bus=i2c-bus.1,address=0x48"}
			})
			t.Run("i2c", func(t *testing.T) { testI2C(t, x) })
		})
	}
}

// testI2C: what the sensor measures becomes verified readings on the host, and what does not
// answer is told.
func testI2C(t *testing.T, x *bench) {
	// QEMU rounds towards zero, to 1/16 degree.
	measures := func(celsius float64) {
		t.Helper()
		if err := x.QMP("qom-set", map[string]any{"path": "/machine/peripheral/sensor", "property": "temperature", "value": int(math.Ceil(celsius * 1000))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	measures(23.5)
	x.agent(t, `
[[device]]
name = "cabinet"
driver = "i2c"
bus = "/dev/i2c-1"
sensor = "tmp105"
address = 0x48
interval = "500ms"

[[device]]
name = "absent"
driver = "i2c"
bus = "/dev/i2c-1"
sensor = "ina226"
shunt = 0.1
address = 0x40
interval = "500ms"
`)
	mark := 0
	for _, celsius := range []float64{23.5, -10.25, 124.9375, -55, 0.0625} {
		measures(celsius)
		_, mark = x.heard.wait(t, mark, "the temperature", func(r reading) bool {
			return r.device == "cabinet" && r.name == "temperature" && r.unit == "Cel" && r.quality == "" && r.value == celsius
		})
	}
	x.heard.wait(t, 0, "word of the chip that does not answer", func(r reading) bool {
		return r.device == "absent" && r.quality == "bad" && r.reason == "nack" && r.value == nil
	})
	for _, r := range x.heard.since(0, "absent") {
		if r.quality != "bad" {
			t.Errorf("a reading of a chip that is not there: %+v", r)
		}
	}
	found := false
	for _, bus := range x.offered(t).I2C {
		found = found || bus.Path == "/dev/i2c-1"
	}
	if !found {
		t.Errorf("holdfast devices does not list the bus: %+v", x.offered(t).I2C)
	}
	// Who answers, asked while the agent reads: its chip is found, and nobody else.
	var asked struct {
		I2C []struct {
			Path    string
			Answers []struct {
				Address string
				Sensors []string
			}
			NotAsked string `json:"not_asked"`
		}
	}
	if err := json.Unmarshal(x.holdfast(t, 0, "devices", "--probe", "--bus", "/dev/i2c-1", "--json"), &asked); err != nil {
		t.Fatal(err)
	}
	for _, bus := range asked.I2C {
		if bus.Path == "/dev/i2c-1" && (len(bus.Answers) != 1 || bus.Answers[0].Address != "0x48" || !slices.Contains(bus.Answers[0].Sensors, "tmp105")) {
			t.Errorf("--probe found %+v", bus)
		}
	}
}
