package agent

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"
)

func someone() PublicIdentity {
	return PublicIdentity{"gw-0042", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "EdDSA",
		json.RawMessage(`{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`)}
}

// TestQRInATerminal: what is drawn is the code, module by module, with its quiet zone, and no wider than a console.
func TestQRInATerminal(t *testing.T) {
	q, err := someone().QR()
	if err != nil {
		t.Fatal(err)
	}
	modules := map[rune][2]bool{'█': {false, false}, '▀': {false, true}, '▄': {true, false}, ' ': {true, true}} // is it dark
	lines := strings.Split(strings.TrimSuffix(q.Terminal(false), "\n"), "\n")
	side := q.code.Size + 2*quiet
	if len(lines) != (side+1)/2 || side > 80 {
		t.Fatalf("%d lines for %d modules", len(lines), side)
	}
	for i, line := range lines {
		if utf8.RuneCountInString(line) != side {
			t.Fatalf("line %d has %d characters", i, utf8.RuneCountInString(line))
		}
		for x, r := range []rune(line) {
			for half, isDark := range modules[r] {
				if y := 2*i + half; isDark != q.code.Black(x-quiet, y-quiet) {
					t.Fatalf("module %d,%d: dark is %v", x, y, isDark)
				}
			}
		}
	}
	if !strings.HasPrefix(q.Terminal(true), "\x1b[97;40m█") || !strings.HasSuffix(q.Terminal(true), "\x1b[0m\n") {
		t.Error("with colours: they are not set and taken back")
	}
}

// TestQRIsTheIdentity golden: the drawing was read back with zbarimg once; it must not change by itself.
func TestQRIsTheIdentity(t *testing.T) {
	q, err := someone().QR()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/qr.txt", q.Terminal(false))
	golden(t, "testdata/qr.svg", string(q.SVG()))
}

// TestQRThatDoesNotFit is an error, not a cut code.
func TestQRThatDoesNotFit(t *testing.T) {
	p := someone()
	p.JWK = json.RawMessage(`"` + strings.Repeat("x", 3000) + `"`)
	if _, err := p.QR(); err == nil || !strings.Contains(err.Error(), "QR code") {
		t.Errorf("got %v", err)
	}
	w := httptest.NewRecorder()
	StatusHandler(fakeSource{status: Status{JWK: p.JWK}}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/identity.svg", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("identity.svg: %d", w.Code)
	}
}

// TestIdentityOverHTTP: the page's picture, and the file that the registry takes.
func TestIdentityOverHTTP(t *testing.T) {
	p := someone()
	h := StatusHandler(fakeSource{status: Status{Gateway: p.Gateway, Kid: p.Kid, Alg: p.Alg, JWK: p.JWK}})
	want, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, h, "/identity.json"); code != 200 || strings.TrimSpace(body) != string(want) {
		t.Errorf("identity.json: %d %s", code, body)
	}
	q, err := p.QR()
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/identity.svg", nil))
	if w.Code != 200 || w.Header().Get("Content-Type") != "image/svg+xml" || w.Body.String() != string(q.SVG()) {
		t.Errorf("identity.svg: %d %s", w.Code, w.Header())
	}
}
