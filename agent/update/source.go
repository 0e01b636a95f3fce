package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// errSource: the file or the download broke, which says nothing about the release.
var errSource = errors.New("reading the release")

const (
	maxRelease = 512 << 20
	// stall is how long a download may give nothing.
	stall = time.Minute
)

// IsURL says whether a source names something on the network.
func IsURL(name string) bool { return strings.Contains(name, "://") }

// Source is a release file that is read once.
type Source struct {
	io.ReadCloser
	Size int64 // bytes; -1: unknown
}

// OpenFile opens a release file.
func OpenFile(name string) (*Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Source{&bounded{ReadCloser: f, left: maxRelease}, info.Size()}, nil
}

// Download begins to fetch a release over https. What arrives is bounded in size, and in
// how long nothing may arrive.
func Download(ctx context.Context, name string) (*Source, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" {
		return nil, fmt.Errorf("%s: only https is fetched", u.Redacted())
	}
	ctx, cancel := context.WithCancel(ctx)
	watch := time.AfterFunc(stall, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	client := &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) > 5 {
			return fmt.Errorf("redirected to %s", r.URL.Redacted())
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		cancel()
		return nil, errors.Join(fmt.Errorf("%s: %s", u.Redacted(), resp.Status), resp.Body.Close())
	}
	body := &download{resp.Body, watch, cancel}
	return &Source{&bounded{ReadCloser: body, left: maxRelease}, resp.ContentLength}, nil
}

// download ends when nothing comes for a while.
type download struct {
	io.ReadCloser
	watch  *time.Timer
	cancel func()
}

func (d *download) Read(b []byte) (int, error) {
	n, err := d.ReadCloser.Read(b)
	if n > 0 && !d.watch.Reset(stall) {
		return n, fmt.Errorf("nothing came for %v", stall)
	}
	return n, err
}

func (d *download) Close() error {
	d.watch.Stop()
	d.cancel()
	return d.ReadCloser.Close()
}

// bounded marks the errors of a source as such, and ends one that is too long.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrDamaged, int64(maxRelease))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errSource, err)
	}
	return n, err
}
