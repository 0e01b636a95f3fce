package holdfast

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// printed is every text that the programs have in them: string literals, and the packages' scripts.
func printed(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, files := range goFiles(t, false) {
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, is := n.(*ast.BasicLit); is && lit.Kind == token.STRING {
					s, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					list = append(list, s)
				}
				return true
			})
		}
	}
	script, err := os.ReadFile("systemd/deb/postinst")
	if err != nil {
		t.Fatal(err)
	}
	return append(list, string(script))
}

// said is the first column of a table, where it is a message of a program.
var said = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// TestTroubleshootingSaysWhatProgramsPrint: every message that docs/TROUBLESHOOTING.md explains is one
// that a program still has in it, each piece between two … in one text.
func TestTroubleshootingSaysWhatProgramsPrint(t *testing.T) {
	page, err := os.ReadFile("docs/TROUBLESHOOTING.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := printed(t)
	messages := said.FindAllStringSubmatch(string(page), -1)
	if len(messages) < 40 {
		t.Fatalf("only %d messages found", len(messages))
	}
	for _, m := range messages {
		for _, piece := range strings.Split(m[1], "…") {
			piece = strings.TrimSpace(piece)
			if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, piece) }) {
				t.Errorf("%q of %q is printed by no program", piece, m[1])
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)

// TestDocsLinkToWhatIsThere: every relative link of the documentation leads to a file, and to a heading of it.
func TestDocsLinkToWhatIsThere(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"docs/*/*.md", "*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	if len(pages) < 30 {
		t.Fatalf("only %d pages", len(pages))
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(withoutCode(string(text)), -1) {
			target, anchor := m[1], strings.TrimPrefix(m[2], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			linked, err := os.ReadFile(file)
			if info, is := os.Stat(file); is != nil || err != nil && !info.IsDir() {
				t.Errorf("%s links to %s, which is not there", page, target)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(linked)), anchor) {
				t.Errorf("%s links to %s#%s: there is no such heading", page, target, anchor)
			}
		}
	}
}

var code = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")

func withoutCode(text string) string { return code.ReplaceAllString(text, "") }

// anchors are the headings of a page as they are linked to: small letters, digits, '-' and '_' for blanks.
func anchors(page string) (list []string) {
	for _, line := range strings.Split(page, "\n") {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		heading = strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(strings.TrimSpace(heading)))
		list = append(list, heading)
	}
	return list
}

// TestAuthTestsNameTestsThatThereAre: what docs/AUTH-TESTS.md says proves something is a test, a fuzz target, a benchmark or a file.
func TestAuthTestsNameTestsThatThereAre(t *testing.T) {
	page, err := os.ReadFile("docs/AUTH-TESTS.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, files := range goFiles(t, true) {
		for _, f := range files {
			for _, d := range f.Decls {
				if fn, is := d.(*ast.FuncDecl); is && fn.Recv == nil {
					there[fn.Name.Name] = true
				}
			}
		}
	}
	names := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 100 {
		t.Fatalf("only %d tests are named", len(names))
	}
	for _, n := range names {
		if !there[n[1]] {
			t.Errorf("%s: there is no such test", n[1])
		}
	}
}
