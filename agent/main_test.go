package agent

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(killChildEnv); file != "" {
		os.Exit(killChild(file))
	}
	goleak.VerifyTestMain(m)
}
