package devices

import (
	"testing"
	"time"
)

func TestProblems(t *testing.T) {
	var p Problems
	p.Within("n", 5, 1, 5)
	p.Span("d", time.Second, 0, time.Second)
	p.Metric("m", "weight")
	p.Unit("u", "")
	p.Unit("u", "kg")
	if len(p) > 0 {
		t.Errorf("%+v", p)
	}
	p.Unit("u", "celsius")
	if len(p) != 1 || !p[0].Warning || p[0].Message != `"celsius" is not a SenML unit of RFC 8428 or RFC 8798; "Cel" is probably meant: receivers may not know it` || p.Err("x") != nil {
		t.Errorf("%+v, %v", p, p.Err("x"))
	}
	p.Within("n", 6, 1, 5)
	p.Span("d", -1, 0, time.Second)
	p.Metric("m", "-")
	p.Unit("u", "k g")
	const want = "scale: n: want 1 to 5, not 6\nd: want 0s to 1s, not -1ns\nm: \"-\" cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*\nu: \"k g\" cannot be a unit: want printable ASCII without spaces, at most 32 bytes"
	if err := p.Err("scale"); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}
