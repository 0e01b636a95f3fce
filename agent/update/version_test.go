package update

import "testing"

// TestCompare: each is older than the next.
func TestCompare(t *testing.T) {
	order := []Build{
		{"unknown", ""},
		{"0544aa7", "2026-01-01T00:00:00Z"},
		{"ffffff0-dirty", "2026-01-02T01:00:00+02:00"},
		{"0000000", "2026-01-02T00:00:00Z"},
		{"v0.9", "2030-01-01T00:00:00Z"},
		{"v1.0.0-rc.2", ""},
		{"v1.0.0-rc.10", ""},
		{"v1.0.0-rc.10-3-gabcdef0", ""},
		{"v1.0.0-rc.x", ""},
		{"v1.0.0-rc.x.1", ""},
		{"1.0.0", ""},
		{"v1.0.0-1-gabcdef0", "2020-01-01T00:00:00Z"},
		{"v1.0.0-12-gabcdef0-dirty", ""},
		{"v1.0.1", ""},
		{"v1.10.0", ""},
		{"v10.0.0", ""},
	}
	for i, a := range order {
		for j, b := range order {
			got, want := a.Compare(b), 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got != want {
				t.Errorf("%v against %v: %d, want %d", a, b, got, want)
			}
		}
	}
}
