package broker

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/broker/limits"
)

// TestEveryLimitIsSaid: each limit has a counter of its own and a line that names it, its setting with the value, and the client's address; a second time
// within the minute it is counted alone. What reaches each limit is in limits_wire_test.go, limits/addresses_test.go, pace_test.go and logins_wire_test.go.
func TestEveryLimitIsSaid(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits = limits.Config{ConnectionsPerAddress: 2, ConnectRate: 3, ConnectRatePerAddress: 4, HalfOpen: 5, MessagesPerSecond: 6, BytesPerSecond: 7 << 20, LoginFailures: 8}
	b, log := logged(t, cfg)
	values := [...]string{"2", "3", "4", "5", "10s", "128KiB", "1MiB", "6", "7MiB", "1024", "4096", "128", "65535B", "1048576", "8"}
	if len(values) != len(limits.Names) {
		t.Fatalf("%d values of %d limits", len(values), len(limits.Names))
	}
	for i, name := range limits.Names {
		for range 3 {
			b.limits.Hit(i, "client-7", "192.0.2.7:1234", "it is tested")
		}
		line := fmt.Sprintf(`limit=%s client=client-7 addr=192.0.2.7:1234 do="if it is right to do so, change %s = %s under [limits]"`, name, name, values[i])
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%d times in the log: %s\n%s", n, line, log)
		}
		if line := fmt.Sprintf("%slimit_reached_total{limit=%q} 3", metricPrefix, name); !strings.Contains(scrape(t, b.Broker), line) {
			t.Errorf("not among the metrics: %s", line)
		}
	}
}
