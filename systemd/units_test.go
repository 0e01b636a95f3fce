package systemd_test

import (
	"os"
	"strings"
	"testing"
)

// TestUnitsKeepTheirPromises: what the programs count on from the service manager.
func TestUnitsKeepTheirPromises(t *testing.T) {
	for file, lines := range map[string][]string{
		"holdfast.service": {
			"Type=notify", "ExecStart=/usr/bin/holdfast run --config /etc/holdfast/agent.toml", "ExecReload=/bin/kill -HUP $MAINPID",
			"StateDirectory=holdfast", "RuntimeDirectory=holdfast",
			"RuntimeDirectoryPreserve=yes",                                 // or a stop deletes the journal of what is not yet on the card
			"WatchdogSec=60s", "Restart=always", "StartLimitIntervalSec=0", // it must come back however often it fell
			"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=",
			"Wants=time-sync.target",            // and nothing that requires it: a gateway without a network starts as well
			"MemoryHigh=128M", "MemoryMax=192M", // beside a system on 512 MiB
			"Environment=GOMEMLIMIT=96MiB", // below MemoryHigh, or the collector does not know of it
		},
		"holdfast-broker.service": {
			"Type=notify", "ExecStart=/usr/bin/holdfast-broker run --config /etc/holdfast-broker/broker.toml",
			"StateDirectory=holdfast-broker", "RuntimeDirectory=holdfast-broker", "Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict", "WatchdogSec=120s",
		},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range lines {
			if !strings.Contains("\n"+string(text), "\n"+want+"\n") {
				t.Errorf("%s: no line %s", file, want)
			}
		}
	}
}
