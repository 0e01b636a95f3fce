package program

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Filled in by the linker (make build); else the build information is asked.
var (
	version   string
	commit    string
	buildTime string
)

func (e *Env) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this binary was built from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := ThisBuild()
			if e.JSON {
				return e.PrintJSON(b)
			}
			_, err := fmt.Fprintf(e.Stdout, "%s %s (commit %s, built %s, %s, %s/%s)\n", cmd.Root().Name(), b.Version, b.Commit, b.Time, b.Go, b.OS, b.Arch)
			return err
		},
	}
}

// ThisBuild is what this binary was made from.
func ThisBuild() Build {
	b := buildOf(debug.ReadBuildInfo())
	b.OS, b.Arch = runtime.GOOS, runtime.GOARCH+b.Arch
	for _, s := range []*string{&b.Version, &b.Commit, &b.Time} {
		if *s == "" {
			*s = "unknown"
		}
	}
	return b
}

// Build is what a binary was made from; "unknown" where it does not say.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Time    string `json:"built"` // RFC 3339, of the commit
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func buildOf(info *debug.BuildInfo, found bool) Build {
	b := Build{Version: version, Commit: commit, Time: buildTime, Go: "unknown"}
	if !found {
		return b
	}
	b.Go = info.GoVersion
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && b.Commit == "" && len(s.Value) >= 12:
			b.Commit = s.Value[:12]
		case s.Key == "vcs.time" && b.Time == "":
			b.Time = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		case s.Key == "GOARM":
			b.Arch = "v" + s.Value
		}
	}
	if b.Version == "" {
		b.Version = info.Main.Version + dirty
	}
	return b
}
