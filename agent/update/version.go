package update

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Build says which program one is.
type Build struct {
	Version string // of git describe
	Time    string // of the commit, RFC 3339
}

// described is what git describe makes: tag, commits since, hash.
var described = regexp.MustCompile(`^v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?:-([0-9A-Za-z.]+?))?(?:-(\d{1,9})-g[0-9a-f]+)?(?:-dirty)?$`)

// Compare orders builds: negative if b is older than other. Tagged ones go by their number,
// others by their commit's time; any tagged one is newer than any other, as with the
// packages. 0: neither is newer, which does not mean that they are the same.
func (b Build) Compare(other Build) int {
	x, y := described.FindStringSubmatch(b.Version), described.FindStringSubmatch(other.Version)
	switch {
	case x == nil && y == nil:
		return b.time().Compare(other.time())
	case x == nil:
		return -1
	case y == nil:
		return 1
	}
	return cmp.Or(number(x[1], y[1]), number(x[2], y[2]), number(x[3], y[3]), preRelease(x[4], y[4]), number(x[5], y[5]))
}

func (b Build) time() time.Time {
	t, _ := time.Parse(time.RFC3339, b.Time) // what tells no time is older than all that do
	return t
}

func number(a, b string) int {
	x, _ := strconv.Atoi(a) // "" is 0, more than nine digits do not match
	y, _ := strconv.Atoi(b)
	return cmp.Compare(x, y)
}

// preRelease is semver.org, 11: none is the highest, numbers by value and below words.
func preRelease(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(b), len(a))
	}
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		n, badN := strconv.Atoi(x[i])
		m, badM := strconv.Atoi(y[i])
		c := 0
		switch {
		case badN == nil && badM == nil:
			c = cmp.Compare(n, m)
		case badN == nil:
			c = -1
		case badM == nil:
			c = 1
		default:
			c = cmp.Compare(x[i], y[i])
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}
