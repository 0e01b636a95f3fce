package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Manifest is what a release says of itself, and what is signed.
type Manifest struct {
	Name    string  `json:"name"` // "holdfast"
	Version string  `json:"version"`
	Commit  string  `json:"commit"`
	Built   string  `json:"built"` // RFC 3339, of the commit
	Buffer  Formats `json:"buffer"`
	Files   []File  `json:"files"`
}

// Formats are versions of the agent's store on the card.
type Formats struct {
	Oldest int `json:"oldest"` // the program reads from this one ...
	Newest int `json:"newest"` // ... to this one
	Writes int `json:"writes"`
}

func (f Formats) reads(format int) bool { return f.Oldest <= format && format <= f.Newest }

// File is one platform's program.
type File struct {
	Platform string `json:"platform"` // "linux_armv6"
	Size     int64  `json:"size"`     // bytes
	SHA256   string `json:"sha256"`   // in hexadecimal
}

// Build is what a release's age is known by.
func (m Manifest) Build() Build { return Build{m.Version, m.Built} }

const (
	maxManifest  = 64 << 10
	maxSignature = 4 << 10
	maxProgram   = 128 << 20
)

var (
	versionForm  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+~-]{0,63}$`)
	platformForm = regexp.MustCompile(`^[0-9a-z]{1,16}_[0-9a-z]{1,16}$`)
	hashForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseManifest reads a manifest. Keys that it does not know are those of later versions.
func ParseManifest(text []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if err := m.check(); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func (m Manifest) check() error {
	switch {
	case m.Name != programName:
		return fmt.Errorf("this is a release of %q, not of %s", m.Name, programName)
	case !versionForm.MatchString(m.Version):
		return fmt.Errorf("%q is no version", m.Version)
	case m.Buffer.Oldest < 1 || m.Buffer.Newest < m.Buffer.Oldest || m.Buffer.Writes < 1:
		return fmt.Errorf("buffer formats %+v are none", m.Buffer)
	case len(m.Files) == 0:
		return errors.New("it holds no program")
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		if !platformForm.MatchString(f.Platform) || !hashForm.MatchString(f.SHA256) || f.Size < 1 || f.Size > maxProgram || seen[f.Platform] {
			return fmt.Errorf("the entry of platform %q is malformed", f.Platform)
		}
		seen[f.Platform] = true
	}
	return nil
}

// File is the program for a platform.
func (m Manifest) File(platform string) (File, error) {
	var has []string
	for _, f := range m.Files {
		if f.Platform == platform {
			return f, nil
		}
		has = append(has, f.Platform)
	}
	return File{}, fmt.Errorf("%w: it has none for %s, only for %s", ErrRefused, platform, strings.Join(has, ", "))
}

// ID names the installed program of a platform: two builds that call themselves the same
// are two releases.
func (m Manifest) ID(f File) string { return m.Version + "-" + f.SHA256[:12] }

// ErrRefused: the release is well-formed, and not for here.
var ErrRefused = errors.New("the release is refused")
