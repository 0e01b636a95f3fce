package agent

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// buildDir is where tests build programs.
var buildDir string

func TestMain(m *testing.M) {
	if file := os.Getenv(killChildEnv); file != "" {
		os.Exit(killChild(file))
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "holdfast-build"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(buildDir)
		os.Exit(code)
	}))
}
