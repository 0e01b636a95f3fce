package broker

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestListsNameClauses: a case of an outside suite that does not pass is listed with the clause that allows it.
func TestListsNameClauses(t *testing.T) {
	doc, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `((?:client_test5?\\.|\\d\\d-)[\\w.-]+)`(?: \\(cluster\\))? \\|")
	clause := regexp.MustCompile(`\[MQTT-\d+\.\d+\.\d+-\d+\]`)
	n := 0
	for _, l := range strings.Split(string(doc), "\n") {
		if m := row.FindStringSubmatch(l); m != nil {
			n++
			if !clause.MatchString(l) {
				t.Errorf("docs/conformance.md: %s differs, and no clause [MQTT-x.y.z-n] is named", m[1])
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d cases were found in the lists", n)
	}
}
