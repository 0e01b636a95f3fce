package agent

import (
	"encoding/json"
	"fmt"
	"strings"

	"rsc.io/qr"
)

// PublicIdentity is what a broker's registry wants to know of a gateway. There is nothing
// secret in it.
type PublicIdentity struct {
	Gateway string          `json:"gateway"`
	Kid     string          `json:"kid"`
	Alg     string          `json:"alg"`
	JWK     json.RawMessage `json:"jwk"`
}

// Public is what of an identity may be told.
func (i Identity) Public() PublicIdentity {
	return PublicIdentity{i.Gateway, i.Key.Kid(), i.Key.Alg(), i.Key.Public().JWK()}
}

// Public is the identity that a status shows.
func (s Status) Public() PublicIdentity {
	return PublicIdentity{s.Gateway, s.Kid, s.Alg, s.JWK}
}

// QR is a QR code (ISO/IEC 18004): whoever scans it has the identity as JSON, the form that
// `holdfast-broker device add --key` takes.
type QR struct{ code *qr.Code }

// QR makes the code.
func (p PublicIdentity) QR() (QR, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return QR{}, fmt.Errorf("identity: %w", err)
	}
	code, err := qr.Encode(string(text), qr.L) // a screen has no scratches, and a small code fits a console
	if err != nil {
		return QR{}, fmt.Errorf("identity as a QR code: %w", err)
	}
	return QR{code}, nil
}

// quiet is the width of the light frame around the code, in modules (ISO/IEC 18004, 9.1).
const quiet = 4

// Terminal draws the code with two modules to a character, light on dark as a console is. colour sets
// both colours, for a terminal that may be dark on light.
func (q QR) Terminal(colour bool) string {
	halves := [2][2]string{{"█", "▀"}, {"▄", " "}} // by upper and lower module: light, dark
	var b strings.Builder
	for y := -quiet; y < q.code.Size+quiet; y += 2 {
		if colour {
			b.WriteString("\x1b[97;40m") // bright white on black (ECMA-48 8.3.117, with aixterm's colours)
		}
		for x := -quiet; x < q.code.Size+quiet; x++ {
			b.WriteString(halves[dark(q.code, x, y)][dark(q.code, x, y+1)])
		}
		if colour {
			b.WriteString("\x1b[0m")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func dark(c *qr.Code, x, y int) int {
	if c.Black(x, y) {
		return 1
	}
	return 0
}

// SVG draws the code as a picture that grows with its place.
func (q QR) SVG() []byte {
	var b strings.Builder
	side := q.code.Size + 2*quiet
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%dv%dH0z"/><path d="`, side, side, side, side)
	for y := range q.code.Size {
		for x := 0; x < q.code.Size; x++ {
			run := 0
			for q.code.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
				x += run
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return []byte(b.String())
}
