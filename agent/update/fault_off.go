//go:build !faults

package update

// step is where a test may end the process; see fault_on.go.
func step(string) {}
