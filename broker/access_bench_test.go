package broker

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"holdfast/broker/auth"
	"holdfast/broker/door"
	"holdfast/uplink/wire"
)

// BenchmarkRules: what rules and the verification of HMAC-SHA256 cost a publish: the same signed messages of 50 gateways (QoS 1,
// synced) to three brokers in turn, five times: one that asks for nothing, one with a thousand rules of which the last one decides, and one that
// verifies. The goals: rules 97 % of none, HMAC 85 %. Medians, as this machine is never quiet: -benchtime 300000x, as
// 50 clients that connect, each with its rules, are part of it.
func BenchmarkRules(b *testing.B) {
	const gateways, rounds = 50, 5
	u := newTestUsers()
	var rules []string
	for i := range 1000 {
		rules = append(rules, fmt.Sprintf("deny both plant/%d/+/%%c/#", i))
	}
	u.may("", append(rules, "both gw/#")...)
	u.change("", func(a *auth.Answer) { a.Password = nil })
	dir := b.TempDir()
	each := (b.N + gateways - 1) / gateways
	feeds, _ := signedFeeds(b, wire.HMACSHA256, dir, gateways, each)
	kinds := []struct {
		name   string
		change func(*Config)
	}{
		{"none", func(*Config) {}},
		{"rules", func(c *Config) { c.Auth = u.links() }},
		{"hmac", func(c *Config) { c.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}} }},
	}
	took, used := map[string][]time.Duration{}, map[string][]time.Duration{}
	b.ResetTimer()
	for round := range rounds {
		for i := range kinds {
			k := kinds[(i+round)%len(kinds)]
			before := processorTime(b)
			took[k.name] = append(took[k.name], replayPackets(b, dir, feeds, k.change))
			used[k.name] = append(used[k.name], processorTime(b)-before)
		}
	}
	median := func(d []time.Duration) float64 { slices.Sort(d); return d[len(d)/2].Seconds() }
	none, total := median(took["none"]), float64(gateways*each)
	b.ReportMetric(total/none, "none-msg/s")
	for _, k := range []string{"rules", "hmac"} {
		b.ReportMetric(total/median(took[k]), k+"-msg/s")
		b.ReportMetric(100*none/median(took[k]), k+"-%")
		b.ReportMetric((median(used[k])-median(used["none"]))/total*1e9, k+"-cpu-ns/msg") // more than without; says something on a busy machine, too
	}
}

// processorTime is what this process has had of the processors.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
