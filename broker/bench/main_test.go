package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// natsConfig and ceilingListen make the test program another one: see TestMain.
const (
	natsConfig    = "HOLDFAST_BENCH_NATS"
	ceilingListen = "HOLDFAST_BENCH_CEILING"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(natsConfig); file != "" {
		runNats(file)
		return
	}
	if addrs := os.Getenv(ceilingListen); addrs != "" {
		runCeiling(addrs)
		return
	}
	os.Exit(m.Run())
}

// runNats is nats-server as its own program runs it.
func runNats(file string) {
	o, err := server.ProcessConfigFile(file)
	if err == nil {
		var s *server.Server
		if s, err = server.NewServer(o); err == nil {
			s.ConfigureLogger()
			err = server.Run(s)
			s.WaitForShutdown()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
