package i2c

import (
	"math"
	"math/rand/v2"
	"testing"

	"periph.io/x/conn/v3/physic"
	theirads "periph.io/x/devices/v3/ads1x15"
	theirbmx "periph.io/x/devices/v3/bmxx80"
	theirina "periph.io/x/devices/v3/ina219"
	theirmcp "periph.io/x/devices/v3/mcp9808"
	theirtmp "periph.io/x/devices/v3/tmp102"

	"holdfast/devices"
)

// peer is a chip that both read: ours through a session, and periph's driver over the same bus.
type peer struct {
	t    *testing.T
	bus  *fakeBus
	chip chip
	s    *session
}

func newPeer(t *testing.T, sensor string) (*peer, fakeChip) {
	w := newWorld()
	w.clock = instantly{}
	b := w.bus(t)
	p, _ := good(b, sensor).compile()
	fake := fakeModel(sensor, false)
	b.chips[p.address] = fake
	s := &session{ctx: t.Context(), clock: instantly{}, bus: &bus{turn: make(chan struct{}, 1)}, port: b, address: p.address}
	return &peer{t, b, p.make(), s}, fake
}

// ours is our values, by metric.
func (p *peer) ours() map[string]float64 {
	p.t.Helper()
	if err := p.chip.setup(p.s); err != nil {
		p.t.Fatal(err)
	}
	readings, err := p.chip.sample(p.s)
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, r := range readings {
		if r.Quality != devices.Bad {
			out[r.Metric] = r.Value.Num
		}
	}
	return out
}

func (p *peer) same(what string, ours, theirs, within float64) {
	p.t.Helper()
	if !(math.Abs(ours-theirs) <= within) {
		p.t.Errorf("%s: %v, periph says %v", what, ours, theirs)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPeriph: periph.io/x/devices reads the same from the same chips.
func TestPeriph(t *testing.T) {
	rng := rand.New(rand.NewPCG(20261121, 280))
	t.Run("bme280", func(t *testing.T) {
		p, fake := newPeer(t, "bme280")
		chip := fake.(*boschChip)
		theirs, err := theirbmx.NewI2C(p.bus, 0x76, &theirbmx.Opts{Temperature: theirbmx.O1x, Pressure: theirbmx.O1x, Humidity: theirbmx.O1x})
		ok(t, err)
		for range 40 {
			chip.t, chip.p, chip.h = 400000+rng.IntN(200000), 250000+rng.IntN(250000), 20000+rng.IntN(20000)
			ours := p.ours()
			chip.mem[0xF2] = 1 // ours has reset it, and periph's says this once
			var e physic.Env
			ok(t, theirs.Sense(&e))
			p.same("temperature", ours["temperature"], e.Temperature.Celsius(), 0.001)
			p.same("pressure", ours["pressure"], float64(e.Pressure)/float64(physic.Pascal), 0.01)
			p.same("humidity", ours["humidity"], float64(e.Humidity)/float64(physic.PercentRH), 0.002)
		}
	})
	t.Run("ina219", func(t *testing.T) {
		p, fake := newPeer(t, "ina219")
		chip := fake.(*inaChip)
		for range 200 {
			chip.shunt, chip.bus = uint16(int16(rng.IntN(32000)-16000)), uint16(rng.IntN(6500))
			ours := p.ours()
			theirs, err := theirina.New(p.bus, &theirina.Opts{Address: 0x40, SenseResistor: 2 * physic.MilliOhm, MaxCurrent: 160 * physic.Ampere})
			ok(t, err)
			m, err := theirs.Sense()
			ok(t, err)
			const ampere, volt = float64(physic.Ampere), float64(physic.Volt)
			p.same("shunt", ours["shunt_voltage"], float64(m.Shunt)/volt, 1e-9)
			p.same("voltage", ours["voltage"], float64(m.Voltage)/volt, 1e-9)
			p.same("current", ours["current"], float64(m.Current)/ampere, 0.02) // theirs goes through a register of 5 mA
		}
	})
	t.Run("mcp9808", func(t *testing.T) {
		p, fake := newPeer(t, "mcp9808")
		theirs, err := theirmcp.New(p.bus, &theirmcp.DefaultOpts)
		ok(t, err)
		for code := -40 * 16; code <= 125*16; code += 7 {
			fake.(*words).word[5] = uint16(code)&0x1FFF | 0xA000
			c, err := theirs.SenseTemp()
			ok(t, err)
			p.same("temperature", p.ours()["temperature"], c.Celsius(), 1e-6)
		}
	})
	t.Run("tmp102", func(t *testing.T) {
		p, fake := newPeer(t, "tmp102")
		theirs, err := theirtmp.NewI2C(p.bus, 0x48, nil)
		ok(t, err)
		for code := -55 * 16; code <= 127*16; code += 7 {
			fake.(*words).word[0] = uint16(code << 4)
			var e physic.Env
			ok(t, theirs.Sense(&e))
			p.same("temperature", p.ours()["temperature"], e.Temperature.Celsius(), 1e-6)
		}
	})
	t.Run("ads1115", func(t *testing.T) {
		p, fake := newPeer(t, "ads1115")
		theirs, err := theirads.NewADS1115(p.bus, &theirads.DefaultOpts)
		ok(t, err)
		level, err := theirs.PinForChannel(theirads.Channel0, 4096*physic.MilliVolt, 500*physic.Hertz, theirads.SaveEnergy)
		ok(t, err)
		bridge, err := theirs.PinForChannel(theirads.Channel2Minus3, 256*physic.MilliVolt, 500*physic.Hertz, theirads.SaveEnergy)
		ok(t, err)
		for range 40 {
			chip := fake.(*adsChip)
			chip.volts[4], chip.volts[3] = 8*rng.Float64()-4, 0.5*rng.Float64()-0.25
			ours := p.ours()
			a, err := level.Read()
			ok(t, err)
			b, err := bridge.Read()
			ok(t, err)
			p.same("level", ours["level"], float64(a.V)/float64(physic.Volt), 1e-6)
			p.same("bridge", ours["bridge"], float64(b.V)/float64(physic.Volt), 1e-6)
		}
	})
}
