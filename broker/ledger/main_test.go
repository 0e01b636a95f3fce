package ledger

import "os"

const (
	epochA = "00000000000000aa"
	epochB = "00000000000000bb"
)

// soak is how often the long loops run.
func soak(full, ci int) int {
	if os.Getenv("HOLDFAST_SOAK") != "" {
		return full
	}
	return ci
}
