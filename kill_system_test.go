package holdfast

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestBothKilled kills -9 agent and broker, one or both, at random moments under load, their starts included. Then
// the ledger of the broker has nothing missing, uncertain or in conflict, and the agent holds nothing.
func TestBothKilled(t *testing.T) {
	rounds := 20
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		rounds = 200
	}
	sys := startSystem(t)
	stop, fed := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		defer func() { fed <- n }()
		for tick := time.NewTicker(2 * time.Millisecond); ; n++ {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				if _, err := fmt.Fprintf(sys.wire, "n=%d w=%d.5\r\n", n, n); err != nil {
					return
				}
			}
		}
	}()
	again := map[string]func(){
		"holdfast":        func() { sys.agent = sys.kill(t, sys.agent, "holdfast", sys.agentConfig) },
		"holdfast-broker": func() { sys.broker = sys.kill(t, sys.broker, "holdfast-broker", sys.brokerConfig) },
	}
	rng := rand.New(rand.NewPCG(2, 9))
	for range rounds {
		moment := time.NewTimer(time.Duration(rng.IntN(700)) * time.Millisecond) // the load is what is killed in
		<-moment.C
		switch rng.IntN(4) {
		case 0, 1:
			again["holdfast"]()
		case 2:
			again["holdfast-broker"]()
		case 3:
			again["holdfast"]()
			again["holdfast-broker"]()
		}
	}
	close(stop)
	lines := <-fed

	eventually(t, "the agent holds nothing any more", func() error {
		out, code := sys.run(t, "holdfast", "status", "--json", "--config", sys.agentConfig)
		var st struct {
			Buffer struct {
				Messages int `json:"messages"`
				Raws     int `json:"raws"`
			} `json:"buffer"`
		}
		if err := json.Unmarshal(out, &st); code != 0 || err != nil || st.Buffer.Messages+st.Buffer.Raws > 0 {
			return fmt.Errorf("exit %d, %v: %s", code, err, out)
		}
		return nil
	})
	out, code := sys.run(t, "holdfast-broker", "ledger", "gw-test", "--check", "--config", sys.brokerConfig)
	if code != 0 {
		t.Errorf("ledger --check: exit %d\n%s", code, out)
	}
	t.Logf("%d rounds, %d lines fed\n%s", rounds, lines, out)
}

// kill ends a process with SIGKILL and starts it anew; that it had ended by itself is an error.
func (s *system) kill(t *testing.T, cmd *exec.Cmd, name, config string) *exec.Cmd {
	t.Helper()
	log := s.logs[name]
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("%s ended by itself: %v\n%s", name, err, log.String())
	}
	return s.spawn(t, name, "run", "--config", config)
}
