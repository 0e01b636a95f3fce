package wire

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMessageFormatDoc keeps docs/MESSAGE-FORMAT.md true: its examples are sealed
// here, and its Python verifies them and refuses them altered.
func TestMessageFormatDoc(t *testing.T) {
	if testing.Short() {
		t.Skip("the full test runs it; under emulation only the emulated side is of interest")
	}
	b, err := os.ReadFile("../../docs/MESSAGE-FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	k := testKey(t, Ed25519, 1)
	j, err1 := Seal(JSON, testHeader(3), documented(), k)
	c, err2 := Seal(CBOR, testHeader(3), documented(), k)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	unwrapped := strings.NewReplacer("},\n {", "},{", "\n", "").Replace(doc)
	for name, want := range map[string]string{"payload": string(j.Payload), "JWS": j.JWS, "COSE": hex.EncodeToString(c.Payload)} {
		if !strings.Contains(unwrapped, want) {
			t.Errorf("the %s in the document is not what is sealed now: %s", name, want)
		}
	}

	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("gw-0042.json", `{"gateway":"gw-0042","jwk":`+string(k.Public().JWK())+`}`)
	blocks := regexp.MustCompile("(?s)```python\n(.*?)```").FindAllStringSubmatch(doc, -1)
	if len(blocks) != 2 {
		t.Fatal(len(blocks), "Python examples")
	}
	const judge = `
def refused(*message):
    try:
        verify(*message)
    except Exception:
        return True

header, pack = verify(*good)
assert header["seq"] == 7 and header["total"] == 140 and len(pack) == 4, (header, pack)
payload = good[-1]
assert refused(*good[:-1], payload[:-70] + b"?" + payload[-69:])
assert refused("gw/gw-0042/other", *good[1:])
print("verified")
`
	payload := func(m Message) string { return `bytes.fromhex("` + hex.EncodeToString(m.Payload) + `")` }
	write("verify_json.py", blocks[0][1]+`good = ("`+j.Topic+`", "`+j.JWS+`", `+payload(j)+")\n"+judge)
	write("verify_cbor.py", blocks[1][1]+`good = ("`+c.Topic+`", `+payload(c)+")\n"+judge)
	for _, script := range []string{"verify_json.py", "verify_cbor.py"} {
		cmd := exec.Command("/usr/bin/python3", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "verified\n" {
			t.Errorf("%s: %v (needs apt-get install python3-jwcrypto python3-cbor2 python3-cryptography)\n%s", script, err, out)
		}
	}
}
