package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// seconds is how long each load is measured; HOLDFAST_BENCH_SECONDS changes it.
func seconds(b testing.TB) time.Duration {
	text := os.Getenv("HOLDFAST_BENCH_SECONDS")
	if text == "" {
		return 5 * time.Second
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n <= 0 {
		b.Fatalf("HOLDFAST_BENCH_SECONDS=%q: want a number of seconds", text)
	}
	return time.Duration(n * float64(time.Second))
}

// load is what publishers do to a system, and who reads it.
type load struct {
	name       string
	publishers int
	window     int
	spread     bool          // publishers on all nodes; else on the first
	every      time.Duration // of each publisher; 0: as fast as PUBACKs allow
	deaf       bool          // nobody subscribes
	stalled    int           // more subscribers, that read nothing
}

// loads: the window of all publishers together is what bounds how long a message may wait at full speed.
var loads = []load{
	{name: "1pub", publishers: 1, window: 1000},
	{name: "50pub", publishers: 50, window: 50},
	{name: "50pub-spread", publishers: 50, window: 50, spread: true},
	{name: "2k", publishers: 10, window: 50, every: 5 * time.Millisecond},
}

// result is what a load has reached.
type result struct {
	cost                     float64 // µs on any core, of all programs, for each message
	acked, delivered         float64 // per second
	answers, deliveries      histogram
	missing, twice, disorder int64
	publishes                int64
}

// BenchmarkClusterLoad is the throughput and the delays of all systems, one after the other in one run. A subscriber on
// another node than the publishers', or than the most of them, reads everything.
func BenchmarkClusterLoad(b *testing.B) {
	program := broker(b)
	rates := map[string]float64{}
	each := func(start func(b *testing.B) *system) func(b *testing.B) {
		return func(b *testing.B) {
			s := start(b)
			for _, l := range loads {
				b.Run(l.name, func(b *testing.B) {
					var r *result
					for b.Loop() {
						r = s.load(b, l)
					}
					r.report(b, l)
					rates[s.name+"/"+l.name] = r.delivered
					if s.name != "holdfast" || l.every > 0 {
						return
					}
					for _, peer := range []string{"mosquitto", "nats-server", "comqtt"} {
						if other := rates[peer+"/"+l.name]; other > 0 {
							b.ReportMetric(r.delivered/other, "x-"+peer)
						}
					}
				})
			}
		}
	}
	b.Run("ceiling", each(func(b *testing.B) *system { return ceiling(b).run(b) }))
	b.Run("mosquitto", each(func(b *testing.B) *system { return mosquitto(b).run(b) }))
	b.Run("nats-server", each(func(b *testing.B) *system { return nats(b).run(b) }))
	b.Run("comqtt", each(func(b *testing.B) *system { return comqtt(b).run(b) }))
	b.Run("holdfast", each(func(b *testing.B) *system { return holdfast(b, program, 3).run(b) }))
}

// BenchmarkClusterOneNode is one node, which syncs before it acknowledges, without a subscriber.
func BenchmarkClusterOneNode(b *testing.B) {
	program := broker(b)
	for _, start := range []func() *system{func() *system { return mosquitto(b) }, func() *system { return holdfast(b, program, 1) }} {
		s := start()
		b.Run(s.name+"/50pub-ingest", func(b *testing.B) {
			s.run(b)
			l := load{publishers: 50, window: 512, deaf: true}
			for b.Loop() {
				s.load(b, l).report(b, l)
			}
		})
	}
}

// BenchmarkClusterBefore is one node against the program of before the cluster code, HOLDFAST_BENCH_BEFORE: by turns, and the
// median of the pairs.
func BenchmarkClusterBefore(b *testing.B) {
	old := os.Getenv("HOLDFAST_BENCH_BEFORE")
	if old == "" {
		b.Skip("name the older program in HOLDFAST_BENCH_BEFORE")
	}
	const pairs = 5
	program := broker(b)
	l := load{publishers: 50, window: 512, deaf: true}
	for b.Loop() {
		var ratios, olds, news []float64
		rate := func(program string) float64 {
			s := holdfast(b, program, 1).run(b)
			defer s.nodes[0].signal(syscall.SIGKILL, true)
			return s.load(b, l).acked
		}
		for i := range pairs {
			var was, is float64
			if i%2 == 0 {
				was, is = rate(old), rate(program)
			} else {
				is, was = rate(program), rate(old)
			}
			ratios, olds, news = append(ratios, is/was), append(olds, was), append(news, is)
		}
		for _, all := range [][]float64{ratios, olds, news} {
			slices.Sort(all)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ratios[pairs/2], "ratio")
		b.ReportMetric(ratios[0], "lowest")
		b.ReportMetric(ratios[pairs-1], "highest")
		b.ReportMetric(olds[pairs/2], "before-acked/s")
		b.ReportMetric(news[pairs/2], "acked/s")
	}
}

// BenchmarkClusterDrain is one connection with a window of 512, as a gateway that comes back with a backlog, into three nodes.
func BenchmarkClusterDrain(b *testing.B) {
	s := holdfast(b, broker(b), 3)
	s.run(b)
	l := load{publishers: 1, window: 512, deaf: true}
	for b.Loop() {
		s.load(b, l).report(b, l)
	}
}

// BenchmarkClusterSlow is what ten subscribers that have stopped to read take from one that reads on.
func BenchmarkClusterSlow(b *testing.B) {
	s := holdfast(b, broker(b), 3)
	s.run(b)
	l := load{publishers: 10, window: 100, every: time.Millisecond / 2}
	for b.Loop() {
		alone := s.load(b, l)
		l.stalled = 10
		beside := s.load(b, l)
		beside.report(b, l)
		b.ReportMetric(alone.deliveries.ms(0.99), "delivery-p99-ms-alone")
		b.ReportMetric(beside.delivered/alone.delivered, "ratio")
	}
}

func (r *result) report(b *testing.B, l load) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(r.acked, "acked/s")
	b.ReportMetric(r.cost, "cpu-µs/msg")
	b.ReportMetric(r.answers.ms(0.5), "puback-p50-ms")
	b.ReportMetric(r.answers.ms(0.99), "puback-p99-ms")
	if l.deaf {
		return
	}
	b.ReportMetric(r.delivered, "delivered/s")
	b.ReportMetric(r.deliveries.ms(0.5), "delivery-p50-ms")
	b.ReportMetric(r.deliveries.ms(0.99), "delivery-p99-ms")
	if r.missing+r.twice+r.disorder > 0 {
		b.ReportMetric(float64(r.missing), "missing")
		b.ReportMetric(float64(r.twice), "twice")
		b.ReportMetric(float64(r.disorder), "out-of-order")
	}
}

var runs atomic.Int64

// load runs a load: a second to warm up, then what is measured, then a moment for what is still on its way.
func (s *system) load(b testing.TB, l load) *result {
	b.Helper()
	run := runs.Add(1)
	var measure atomic.Bool
	var sub *subscriber
	if !l.deaf {
		c, err := dial(s.on(1), fmt.Sprintf("sub-%d", run), s.version, clean)
		if err != nil {
			b.Fatal(err)
		}
		defer c.bye()
		if sub, err = listen(c, fmt.Sprintf("b%d/#", run), &measure); err != nil {
			b.Fatal(err)
		}
	}
	for i := range l.stalled {
		c, err := dial(s.on(1), fmt.Sprintf("stalled-%d-%d", run, i), s.version, clean)
		if err != nil {
			b.Fatal(err)
		}
		defer c.bye()
		if err := c.subscribe(fmt.Sprintf("b%d/#", run), 1); err != nil {
			b.Fatal(err)
		}
	}
	var pubs []*publisher
	for i := range l.publishers {
		at := 0
		if l.spread {
			at = i
		}
		c, err := dial(s.on(at), fmt.Sprintf("pub-%d-%d", run, i), s.version, clean)
		if err != nil {
			b.Fatal(err)
		}
		defer c.bye()
		p := newPublisher(c, fmt.Sprintf("b%d/%d", run, i), uint32(i), l.window)
		p.every = l.every
		pubs = append(pubs, p)
	}
	if s.name == "nats-server" || s.name == "comqtt" { // a subscription takes a moment to be known on all nodes
		sleep(nil, time.Second)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, p := range pubs {
		wg.Go(func() {
			if l.every > 0 && !sleep(stop, l.every*time.Duration(i)/time.Duration(len(pubs))) {
				return
			}
			if err := p.run(stop, &measure); err != nil {
				b.Errorf("%s: %v", s.name, err)
			}
		})
	}
	acked := func() (n int64) {
		for _, p := range pubs {
			n += p.acked.Load()
		}
		return n
	}
	got := func() int64 {
		if sub == nil {
			return 0
		}
		return sub.got.Load()
	}
	sleep(nil, time.Second)
	measure.Store(true)
	begin, used, acked0, got0 := time.Now(), s.spent(b), acked(), got()
	sleep(nil, seconds(b))
	took, acked1, got1 := time.Since(begin).Seconds(), acked(), got()
	measure.Store(false)
	used = s.spent(b) - used
	close(stop)
	wg.Wait()
	r := &result{acked: float64(acked1-acked0) / took, delivered: float64(got1-got0) / took, cost: float64(used.Microseconds()) / float64(max(1, acked1-acked0)), publishes: acked()}
	for _, p := range pubs {
		r.answers.merge(&p.answers)
	}
	if sub != nil {
		for end := time.Now().Add(10 * time.Second); sub.got.Load() < r.publishes && time.Now().Before(end); {
			sleep(nil, 10*time.Millisecond)
		}
		r.missing, r.twice, r.disorder = sub.faults()
		r.missing = max(r.missing, r.publishes+r.twice-sub.got.Load())
		sub.mu.Lock()
		r.deliveries.merge(&sub.delivered)
		sub.mu.Unlock()
	}
	return r
}
