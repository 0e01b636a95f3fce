package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this binary was built from",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			if a.json {
				return printJSON(a.stdout, b)
			}
			fmt.Fprintf(a.stdout, "holdfast-broker %s (commit %s, built %s, %s, %s/%s)\n", b.Version, b.Commit, b.Time, b.Go, b.OS, b.Arch)
			return nil
		},
	}
}

func thisBuild() build {
	b := buildOf(debug.ReadBuildInfo())
	b.OS, b.Arch = runtime.GOOS, runtime.GOARCH
	for _, s := range []*string{&b.Version, &b.Commit, &b.Time} {
		if *s == "" {
			*s = "unknown"
		}
	}
	return b
}

// build is what this binary was made from.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Time    string `json:"built"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func buildOf(info *debug.BuildInfo, found bool) build {
	b := build{Version: version, Commit: commit, Time: buildTime, Go: "unknown"}
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
		}
	}
	if b.Version == "" {
		b.Version = info.Main.Version + dirty
	}
	return b
}
