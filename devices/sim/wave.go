package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"holdfast/devices"
)

// generator makes the values. It depends on nothing but its arguments: no clock.
type generator struct {
	metrics  []Metric
	walk     []float64 // of wave "walk", where it stands
	rng      *rand.Rand
	n        uint64 // ticks so far
	interval time.Duration
	jitter   float64
	late     time.Duration // how much the tick that is due was moved
}

func newGenerator(metrics []Metric, jitter float64, interval time.Duration, seed uint64) *generator {
	g := &generator{
		metrics: metrics, walk: make([]float64, len(metrics)), interval: interval, jitter: jitter,
		rng: rand.New(rand.NewPCG(seed, 0x686f6c6466617374)),
	}
	for i, m := range metrics {
		g.walk[i] = (m.Min + m.Max) / 2
	}
	return g
}

// step is the time to the next tick. Jitter moves each tick by itself: it does not add up.
func (g *generator) step() time.Duration {
	if g.jitter == 0 {
		return g.interval
	}
	late := time.Duration(g.rng.Float64() * g.jitter * float64(g.interval))
	step := g.interval + late - g.late
	g.late = late
	return max(step, 0)
}

// readings is one tick, at the time t since the start.
func (g *generator) readings(t time.Duration, at devices.Instant) []devices.Reading {
	g.n++
	out := make([]devices.Reading, len(g.metrics))
	for i := range g.metrics {
		m := &g.metrics[i]
		out[i] = devices.Reading{Metric: m.Name, Unit: m.Unit, Value: g.value(i, m, t), At: at}
	}
	return out
}

func (g *generator) lost(at devices.Instant, reason string) []devices.Reading {
	out := make([]devices.Reading, len(g.metrics))
	for i, m := range g.metrics {
		out[i] = devices.Reading{Metric: m.Name, Unit: m.Unit, Quality: devices.Bad, Reason: reason, At: at}
	}
	return out
}

func (g *generator) value(i int, m *Metric, t time.Duration) devices.Value {
	phase := math.Mod(float64(t)/float64(m.Period), 1)
	span := m.Max - m.Min
	switch m.Wave {
	case "counter":
		return devices.Number(float64(g.n))
	case "bool":
		return devices.Bool(phase < 0.5)
	case "text":
		return devices.Text(fill(m.Text, g.n, m.Size))
	case "bytes":
		return devices.Bytes(g.bytes(m.Size))
	case "square":
		return m.number(g.noise(m) + m.Min + span*float64(int(2*phase)))
	case "saw":
		return m.number(g.noise(m) + m.Min + span*phase)
	case "walk":
		g.walk[i] = reflect(g.walk[i]+(g.rng.Float64()-0.5)*span/10, m.Min, m.Max)
		return m.number(g.noise(m) + g.walk[i])
	case "constant":
		return m.number(g.noise(m) + m.Min)
	}
	return m.number(g.noise(m) + m.Min + span*(1+math.Sin(2*math.Pi*phase))/2)
}

func (g *generator) noise(m *Metric) float64 {
	if m.Noise == 0 {
		return 0
	}
	return (2*g.rng.Float64() - 1) * m.Noise
}

// number rounds as an instrument does.
func (m *Metric) number(v float64) devices.Value {
	if m.Decimals != nil {
		p := math.Pow10(*m.Decimals)
		if r := math.Round(v*p) / p; !math.IsInf(r, 0) {
			v = r
		}
	}
	return devices.Number(v)
}

// reflect keeps a walk within its walls.
func reflect(v, lo, hi float64) float64 {
	if v > hi {
		v = 2*hi - v
	}
	if v < lo {
		v = 2*lo - v
	}
	return min(max(v, lo), hi)
}

// fill makes the text of a tick: "text 17", and padding up to size.
func fill(text string, n uint64, size int) string {
	s := strings.TrimSpace(fmt.Sprintf("%s %d", text, n))
	if len(s) < size {
		s += strings.Repeat(".", size-len(s))
	}
	return s
}

func (g *generator) bytes(size int) []byte {
	b := make([]byte, max(size, 8))
	for i := range b {
		b[i] = byte(g.rng.Uint32())
	}
	return b
}
