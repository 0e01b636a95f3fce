package main

import (
	"os"
	"strings"
	"testing"

	"holdfast/systemd/program"
)

// TestOperatePage: every command of docs/OPERATE.md is one of this program, with arguments and flags that it takes.
func TestOperatePage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/OPERATE.md")
	if err != nil {
		t.Fatal(err)
	}
	n, inside := 0, false
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		}
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		args, ours := strings.CutPrefix(line, "holdfast-broker ")
		if !inside || !ours {
			continue
		}
		n++
		c, rest, err := tree(&program.Env{}).Find(strings.Fields(args))
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err == nil {
			err = c.ValidateArgs(c.Flags().Args())
		}
		if err == nil && !c.Runnable() {
			t.Errorf("%q is no command", line)
		}
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if n < 10 {
		t.Errorf("%d commands on the page", n)
	}
}
