package auth

import (
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// watchEvery is how often a source's files are looked at. Looking also sees a renamed directory and a changed symlink,
// which is how certbot and Kubernetes put new files in place.
const watchEvery = time.Second

// watcher looks whether files have changed, and says so from a goroutine of its own.
type watcher struct {
	seen []watched
	end  chan struct{}
	over sync.WaitGroup
}

// watched is a file as it was at the last look.
type watched struct {
	file    string
	info    fs.FileInfo // nil: it could not be looked at
	settled bool        // it was not changed shortly before it was read, so the same times mean the same content
	sum     [sha256.Size]byte
}

// look says whether the content is another than at the last look.
func (w *watched) look() bool {
	info, err := os.Stat(w.file)
	if err != nil {
		gone := w.info != nil
		w.info, w.sum = nil, [sha256.Size]byte{}
		return gone
	}
	if w.info != nil && w.settled && os.SameFile(w.info, info) && w.info.Size() == info.Size() && w.info.ModTime().Equal(info.ModTime()) {
		return false
	}
	old := w.sum
	w.info, w.settled, w.sum = info, time.Since(info.ModTime()) > 2*time.Second, sumOf(w.file)
	return old != w.sum
}

func sumOf(file string) (sum [sha256.Size]byte) {
	f, err := os.Open(file)
	if err != nil {
		return sum
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// watch looks at a file for the first time; what is read after this is not missed.
func (w *watcher) watch(file string) {
	w.seen = append(w.seen, watched{file: file})
	w.seen[len(w.seen)-1].look()
}

// start calls changed whenever a look finds a change, until stop.
func (w *watcher) start(changed func()) {
	w.end = make(chan struct{})
	end := w.end
	w.over.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			other := false
			for i := range w.seen {
				other = w.seen[i].look() || other
			}
			if other {
				changed()
			}
		}
	})
}

func (w *watcher) stop() {
	if w.end != nil {
		close(w.end)
		w.end = nil
	}
	w.over.Wait()
}
