package holdfast

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goFiles parses every Go file of the module, by its folder ("agent/cmd/holdfast").
func goFiles(t *testing.T, tests bool) map[string][]*ast.File {
	t.Helper()
	files := map[string][]*ast.File{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "bin", "dist"}, d.Name())):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") != tests:
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		files[dir] = append(files[dir], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func imports(f *ast.File) []string {
	var out []string
	for _, s := range f.Imports {
		p, _ := strconv.Unquote(s.Path.Value)
		out = append(out, p)
	}
	return out
}

// allowed says which of the module's packages a folder may import ("x/..." for all below x).
// The longest matching folder decides. The picture is in docs/ARCHITECTURE.md.
var allowed = map[string][]string{
	"agent":               {"agent/update", "devices", "devices/catalog", "buffer", "uplink", "uplink/est", "uplink/wire", "boards", "systemd", "systemd/settings"},
	"agent/update":        {}, // it is told everything: who it is, what time it is, whether a program is well
	"agent/cmd":           {"agent", "agent/update", "devices", "devices/catalog", "devices/i2c", "devices/modbus", "devices/onewire", "buffer", "uplink", "uplink/est", "uplink/wire", "boards", "systemd", "systemd/program", "systemd/settings"},
	"agent/cmd/demo":      {}, // it watches from outside: a path of its own to every signature
	"broker":              {"uplink/est", "uplink/wire", "systemd", "systemd/settings", "broker/..."},
	"broker/admin":        {},
	"broker/auth":         {"uplink/wire", "systemd/settings"},
	"broker/auth/servers": {"systemd/freeport"},
	"broker/door":         {"broker/limitlog", "broker/mqtt", "uplink/wire"},
	"broker/ledger":       {"uplink/wire"},
	"broker/limitlog":     {},
	"broker/limits":       {"broker/limitlog", "broker/mqtt", "systemd/settings"},
	"broker/listen":       {"broker/limitlog", "broker/limits", "systemd/settings"},
	"broker/cmd":          {"broker", "broker/...", "uplink/est", "uplink/wire", "systemd/program", "systemd/settings"},
	"devices":             {},
	"devices/catalog":     {"devices", "devices/..."},
	"devices/":            {"devices", "devices/tty", "devices/stream", "devices/octets", "devices/text"}, // a driver knows the contract, how bytes and lines are read and nothing else
	"devices/gpio":        {"devices", "devices/gpiocdev"},
	"devices/counter":     {"devices", "devices/gpiocdev"},
	"devices/gpiocdev":    {"devices", "devices/gpiocdev"},
	"devices/tty":         {"devices"},
	"devices/stream":      {"devices", "devices/tty"},
	"devices/octets":      {"devices"},
	"devices/text":        {"devices"},
	"buffer":              {},
	"uplink":              {},
	"uplink/wire":         {},
	"uplink/est":          {"uplink/wire"},
	"boards":              {"boards/fdt"},
	"boards/fdt":          {},
	"boards/gen":          {"boards", "boards/fdt"},
	"boards/boardtest":    {"boards"},
	"boards/image":        {"boards"},
	"boards/pictures":     {"boards"},
	"systemd":             {},
	"systemd/freeport":    {},
	"systemd/program":     {"systemd", "systemd/settings"},
	"systemd/settings":    {},

	"agent/cmd/release": {"agent/update", "buffer"},
}

func rule(dir string) ([]string, bool) {
	for d := dir; ; {
		if r, ok := allowed[d]; ok {
			return r, true
		}
		i := strings.LastIndex(d, "/")
		if i < 0 {
			return nil, false
		}
		if d == dir && d[:i] == "devices" {
			return allowed["devices/"], true
		}
		d = d[:i]
	}
}

func permits(rules []string, imported string) bool {
	for _, r := range rules {
		if r == imported || strings.HasSuffix(r, "/...") && strings.HasPrefix(imported, strings.TrimSuffix(r, "...")) {
			return true
		}
	}
	return false
}

func TestHouseImports(t *testing.T) {
	for dir, files := range goFiles(t, false) {
		if dir == "." {
			continue
		}
		rules, ok := rule(dir)
		if !ok {
			t.Errorf("%s: no import rule: is it a room of this house?", dir)
		}
		for _, f := range files {
			for _, p := range imports(f) {
				if in, ours := strings.CutPrefix(p, "holdfast/"); ours && !permits(rules, in) {
					t.Errorf("%s imports %s: not allowed (docs/ARCHITECTURE.md)", dir, p)
				}
			}
		}
	}
}

// soleUsers: a library that only one file (or folder) may know, so that it can be replaced there.
var soleUsers = map[string][]string{
	"github.com/nats-io/nats-server/v2":   {"broker"},
	"github.com/nats-io/nats.go":          {"broker"},
	"github.com/mochi-mqtt/server/v2":     {"broker/listen", "broker/mqtt"},
	"github.com/dgraph-io/badger/v4":      {"buffer"},
	"github.com/eclipse/paho.golang":      {"uplink", "agent/cmd/holdfast", "agent/cmd/demo"},
	"aead.dev/minisign":                   {"agent/update", "agent/cmd/release"},
	"go.bug.st/serial":                    {"devices/tty"},
	"github.com/prometheus/client_golang": {"agent", "broker"},
	"github.com/pelletier/go-toml/v2":     {"systemd/settings"},
	"github.com/fxamacker/cbor/v2":        {"uplink/wire"},
	"rsc.io/qr":                           {"agent"},
	"github.com/redis/go-redis/v9":        {"broker/auth"},
	"github.com/go-sql-driver/mysql":      {"broker/auth"},
	"github.com/jackc/pgx/v5":             {"broker/auth"},
	"github.com/go-jose/go-jose/v4":       {"broker/auth"},
}

func TestHouseSoleUsers(t *testing.T) {
	for dir, files := range goFiles(t, false) {
		for _, f := range files {
			for _, p := range imports(f) {
				for lib, users := range soleUsers {
					if (p == lib || strings.HasPrefix(p, lib+"/")) && !slices.Contains(users, dir) {
						t.Errorf("%s imports %s, which is %v's alone", dir, p, users)
					}
				}
			}
		}
	}
}

func TestHousePackageDocs(t *testing.T) {
	for dir, files := range goFiles(t, false) {
		said := slices.ContainsFunc(files, func(f *ast.File) bool { return f.Doc != nil && len(f.Doc.Text()) > 40 })
		if !said {
			t.Errorf("%s: no package doc that says what it is, what it promises and what it will not do", dir)
		}
	}
}

// TestHouseLeakChecks: a package that starts goroutines checks for leaks in its TestMain.
func TestHouseLeakChecks(t *testing.T) {
	tests := goFiles(t, true)
	for dir, files := range goFiles(t, false) {
		starts := false
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool { _, is := n.(*ast.GoStmt); starts = starts || is; return true })
		}
		if !starts || strings.Contains(dir, "/cmd/") || dir == "devices/drivertest" {
			continue
		}
		checks := slices.ContainsFunc(tests[dir], func(f *ast.File) bool { return slices.Contains(imports(f), "go.uber.org/goleak") })
		if !checks {
			t.Errorf("%s starts goroutines, but no test of it uses go.uber.org/goleak", dir)
		}
	}
}

// TestHouseTestsDoNotSleep: a sleep is not synchronisation.
func TestHouseTestsDoNotSleep(t *testing.T) {
	for dir, files := range goFiles(t, true) {
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				c, ok := n.(*ast.SelectorExpr)
				if x, is := ident(c, ok); is && x == "time" && c.Sel.Name == "Sleep" {
					t.Errorf("%s: a test calls time.Sleep", dir)
				}
				return true
			})
		}
	}
}

func ident(s *ast.SelectorExpr, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	id, is := s.X.(*ast.Ident)
	if !is {
		return "", false
	}
	return id.Name, true
}

// TestHouseRooms: the rooms of the house are fixed.
func TestHouseRooms(t *testing.T) {
	rooms := []string{"agent", "devices", "buffer", "uplink", "broker", "boards", "systemd", "docs", "bin", "dist"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(rooms, e.Name()) {
			t.Errorf("%s/ is not a room of this house", e.Name())
		}
	}
}
