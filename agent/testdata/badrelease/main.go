// Command badrelease is a signed release that does not do what an agent does.
package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Filled in by the linker.
var mode, version, goos, arch string

func main() {
	if len(os.Args) > 1 && os.Args[1] == "version" {
		_ = json.NewEncoder(os.Stdout).Encode(map[string]string{"version": version, "os": goos, "arch": arch})
		return
	}
	status := map[string]any{"version": version, "ready": true}
	switch mode {
	case "crash":
		os.Exit(1)
	case "hang":
		signal.Ignore(syscall.SIGTERM)
		for { // select {} would be a deadlock, which Go notices and ends
			time.Sleep(time.Hour)
		}
	case "unready":
		status["ready"], status["not_ready"] = false, []string{"it never will be"}
	case "unconnected":
		status["uplink"] = map[string]any{"connected": false}
	case "mute":
		status["uplink"], status["buffer"] = map[string]any{"connected": true}, map[string]any{"messages": 7}
	}
	socket := os.Getenv("HOLDFAST_TEST_SOCKET")
	if socket == "" {
		socket = "/run/holdfast/agent.sock"
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(status) })))
}
