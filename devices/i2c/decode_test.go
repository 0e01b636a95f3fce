package i2c

import (
	"encoding/hex"
	"math"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// TestThermometers: the tables of the datasheets.
func TestThermometers(t *testing.T) {
	// TMP102 SBOS397C table 5, TMP105 SLLS648D table 5: 12 bits, the upper ones of the register.
	for code, want := range map[uint16]float64{
		0x7FF: 127.9375, 0x640: 100, 0x500: 80, 0x4B0: 75, 0x320: 50, 0x190: 25, 0x004: 0.25, 0x000: 0, 0xFFC: -0.25, 0xE70: -25, 0xC90: -55,
	} {
		hi, lo := byte(code>>4), byte(code<<4)
		if a, b := tmp102Cel(hi, lo), tmp105Cel(hi, lo); a != want || b != want {
			t.Errorf("%03x: TMP102 %v, TMP105 %v, want %v", code, a, b, want)
		}
	}
	// TMP102 table 6: 13 bits, and the last bit of the register is 1.
	for code, want := range map[uint16]float64{
		0x0960: 150, 0x0800: 128, 0x07FF: 127.9375, 0x0640: 100, 0x0190: 25, 0x0004: 0.25, 0x1FFC: -0.25, 0x1E70: -25, 0x1C90: -55,
	} {
		if got := tmp102Cel(byte(code>>5), byte(code<<3)|1); got != want {
			t.Errorf("extended %04x: %v, want %v", code, got, want)
		}
	}
	// LM75 SNIS153B page 9: 9 bits; what is below them is anything.
	for code, want := range map[uint16]float64{0x0FA: 125, 0x032: 25, 0x001: 0.5, 0x000: 0, 0x1FF: -0.5, 0x1CE: -25, 0x192: -55} {
		for _, noise := range []byte{0, 0x7F} {
			if got := lm75Cel(byte(code>>1), byte(code<<7)|noise); got != want {
				t.Errorf("LM75 %03x: %v, want %v", code, got, want)
			}
		}
	}
	// LM75A Rev. 04 table 10: 11 bits.
	for code, want := range map[uint16]float64{0x3F8: 127, 0x3F7: 126.875, 0x3E8: 125, 0x0C8: 25, 0x001: 0.125, 0x000: 0, 0x7FF: -0.125, 0x738: -25, 0x649: -54.875, 0x648: -55} {
		if got := lm75aCel(byte(code>>3), byte(code<<5)|0x1F); got != want {
			t.Errorf("LM75A %03x: %v, want %v", code, got, want)
		}
	}
	// MCP9808 DS25095A equation 5-1, with and without alarms.
	for code, want := range map[uint16]float64{0x0194: 25.25, 0xC194: 25.25, 0x0000: 0, 0x1FFF: -0.0625, 0x1E6C: -25.25, 0x1D80: -40, 0x07D0: 125} {
		if got := mcp9808Cel(code); got != want {
			t.Errorf("MCP9808 %04x: %v, want %v", code, got, want)
		}
	}
}

// TestBME280: the worked example of BST-BMP280-DS001 revision 1.23 page 23, and humidity
// beside the same formula in floating point (BST-BME280-DS002 section 8.1).
func TestBME280(t *testing.T) {
	chip := newBosch(0x60, 0)
	c := parseTrim280(chip.mem[0x88:0xA2], chip.mem[0xE1:0xE8])
	if want := (trim280{27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000, 75, 362, 0, 316, 48, 30}); c != want {
		t.Fatalf("trimming %+v", c)
	}
	cel, fine := c.temperature(519888)
	pa, ok := c.pressure(415148, fine)
	if cel != 2508 || fine != 128422 || !ok || math.Abs(float64(pa)/256-100653.27) > 0.02 {
		t.Errorf("%d, %d, %v", cel, fine, float64(pa)/256)
	}
	for raw := int64(0); raw < 65536; raw += 97 {
		got := float64(c.humidity(raw, fine)) / 1024
		want := float64(fine) - 76800
		want = (float64(raw) - (float64(c.h4)*64 + float64(c.h5)/16384*want)) *
			(float64(c.h2) / 65536 * (1 + float64(c.h6)/67108864*want*(1+float64(c.h3)/67108864*want)))
		want = min(100, max(0, want*(1-float64(c.h1)*want/524288)))
		if math.Abs(got-want) > 0.02 {
			t.Errorf("humidity of %d: %v, want %v", raw, got, want)
		}
	}
	// H4 and H5 have a sign, in the byte that they do not share.
	if c := parseTrim280(make([]byte, 26), []byte{0, 0, 0, 0xFE, 0x21, 0xFD, 0}); c.h4 != -31 || c.h5 != -46 {
		t.Errorf("H4 %d, H5 %d", c.h4, c.h5)
	}
	if _, ok := (trim280{}).pressure(1, 1); ok {
		t.Error("divided by zero")
	}
}

func TestSHT(t *testing.T) {
	if crc := octets.Checks["crc8-nrsc5"].Of([]byte{0xBE, 0xEF}); crc != 0x92 { // SHT3x-DIS version 5 table 20
		t.Errorf("CRC %02x", crc)
	}
	for raw, want := range map[uint16][3]float64{
		0: {-45, 0, 0}, 65535: {130, 100, 100}, 26214: {25, 40, 44}, 32768: {42.501335, 50.000763, 56.500954}, 3145: {-36.601816, 4.798962, 0},
	} {
		got := [3]float64{shtCel(raw), sht3xRH(raw), sht4xRH(raw)}
		for i := range got {
			if math.Abs(got[i]-want[i]) > 1e-5 {
				t.Errorf("%d: %v, want %v", raw, got, want)
			}
		}
	}
	if _, _, err := shtWords([]byte{0xBE, 0xEF, 0x92, 0xBE, 0xEF, 0x93}); reasonOf(err) != badChecksum {
		t.Error(err)
	}
}

// TestINA: the worked examples: 10 A through 2 mΩ at 12 V (SBOS448F page 17, SBOS547B section 6.5.2).
func TestINA(t *testing.T) {
	p := &plan{shunt: 0.002, average: 16}
	a, b := newINA219(p).(*ina), newINA226(p).(*ina)
	if v, d, i := a.decode(0x5D98, 0x07D0); v != 11.98 || d != 0.02 || i != 10 {
		t.Errorf("INA219: %v V, %v V, %v A", v, d, i)
	}
	if v, d, i := b.decode(0x2570, 0x1F40); v != 11.98 || d != 0.02 || i != 10 {
		t.Errorf("INA226: %v V, %v V, %v A", v, d, i)
	}
	if _, d, _ := a.decode(0, 0x8300); d != -0.32 { // SBOS448G table 7
		t.Errorf("INA219: %v V", d)
	}
	if _, d, _ := b.decode(0, 0x8300); d != -0.08 { // SBOS547B section 7.1.2
		t.Errorf("INA226: %v V", d)
	}
	// 32 V, ±320 mV, 16 conversions averaged, both triggered; 16 of 1.1 ms each, both triggered.
	if a.config != 0x3E63 || b.config != 0x4523 {
		t.Errorf("%04x, %04x", a.config, b.config)
	}
	if one := newINA219(&plan{shunt: 1, average: 1}).(*ina); one.config != 0x399B { // the default, triggered
		t.Errorf("%04x", one.config)
	}
	if a.conversion < 17020*time.Microsecond || b.conversion < 2*16*1100*time.Microsecond {
		t.Errorf("too short: %v, %v", a.conversion, b.conversion)
	}
}

// TestADS1115: SBAS444D table 3.
func TestADS1115(t *testing.T) {
	for _, c := range []struct {
		code uint16
		full float64
		want float64
		end  bool
	}{
		{0x7FFF, 4.096, 4.095875, true}, {0x0001, 4.096, 0.000125, false}, {0, 4.096, 0, false}, {0xFFFF, 4.096, -0.000125, false}, {0x8000, 4.096, -4.096, true},
		{0x4000, 6.144, 3.072, false}, {0x1000, 0.256, 0.032, false},
	} {
		if v, end := adsVolt(c.code, c.full); v != c.want || end != c.end {
			t.Errorf("%04x of %v: %v, %v", c.code, c.full, v, end)
		}
	}
}

// raw is a chip whose answers are bytes of a fuzzer.
type raw struct{ data []byte }

func (c *raw) tx(_ devices.Instant, _, r []byte) error {
	for i := range r {
		if len(c.data) > 0 {
			r[i], c.data = c.data[0], c.data[1:]
		}
	}
	return nil
}

// FuzzChips: whatever a chip answers, each reading is valid, or there is a reason.
func FuzzChips(f *testing.F) {
	names := []string{"bme280", "bmp280", "sht3x", "sht4x", "lm75", "lm75a", "tmp102", "tmp105", "mcp9808", "ina219", "ina226", "ads1115"}
	if len(names) != len(models) {
		f.Fatal("a sensor is missing")
	}
	bosch := newBosch(0x60, 0)
	answer := append([]byte{0x60}, bosch.mem[0x88:0xA2]...)
	answer = append(append(answer, bosch.mem[0xE1:0xE8]...), 0, 0, 0xA0, 0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x6D, 0x60)
	f.Add(byte(0), answer)
	f.Add(byte(1), append([]byte{0x58}, answer[1:]...))
	for i, in := range []string{"beef92beef92", "000081000081", "1900", "19001980", "60a01900", "601900", "0054040000000190", "07d25d9a07d0", "544922600008257007d0", "c5831234b1831234"} {
		b, err := hex.DecodeString(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i+2), b)
	}
	f.Fuzz(func(t *testing.T, which byte, answers []byte) {
		w := newWorld()
		w.clock = instantly{}
		b := w.bus(t)
		s := good(b, names[int(which)%len(names)])
		p, _ := s.compile()
		b.chips[p.address] = &raw{answers}
		d, err := w.New(s, devices.Env{Name: "x", Clock: instantly{}})
		if err != nil {
			t.Fatal(err)
		}
		r := &run{device: d.(*device), bus: &bus{turn: make(chan struct{}, 1)}, chip: p.make(), sink: &counts{}}
		readings, _, err := r.sample(t.Context())
		if err != nil && !devices.ValidReason(reasonOf(err)) {
			t.Errorf("%v", err)
		}
		for _, g := range readings {
			if err := devices.Validate(g); err != nil {
				t.Error(err)
			}
		}
	})
}

// instantly is a clock on which no time is needed.
type instantly struct{}

func (instantly) Now() devices.Instant { return time.Hour }

func (instantly) After(time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

// counts is a sink for what is not looked at.
type counts struct{ n int }

func (c *counts) Emit(...devices.Reading) { c.n++ }
func (*counts) Hold() bool                { return false }
func (*counts) Count(string, uint64)      {}

func BenchmarkSample(b *testing.B) {
	for _, sensor := range []string{"tmp105", "bme280", "sht4x", "ina226"} {
		b.Run(sensor, func(b *testing.B) {
			w := newWorld()
			w.clock = instantly{}
			fake := w.bus(b)
			s := good(fake, sensor)
			p, _ := s.compile()
			fake.chips[p.address] = fakeModel(sensor, false)
			d, err := w.New(s, devices.Env{Name: "x", Clock: instantly{}})
			if err != nil {
				b.Fatal(err)
			}
			sink := &counts{}
			r := &run{device: d.(*device), bus: &bus{turn: make(chan struct{}, 1)}, chip: p.make(), sink: sink}
			b.ReportAllocs()
			for b.Loop() {
				r.turn(b.Context())
			}
			if sink.n == 0 {
				b.Fatal("no readings")
			}
		})
	}
}
