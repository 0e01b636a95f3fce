package admin

import (
	"context"
	"io"
	"net/http"
	"time"
)

// backup streams a backup. It may take hours: each piece has its own deadline.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	if s.o.Backup == nil {
		fail(w, &Error{http.StatusNotImplemented, "this node makes no backups", ""})
		return
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the request is read; its deadline would end the stream
	b := &backupBody{w: w, out: out}
	if err := s.o.Backup.Backup(r.Context(), b); err != nil {
		s.o.Log.Error("a backup was given up", "err", err)
		if !b.begun {
			fail(w, err)
		}
	}
}

// backupBody is the answer's body.
type backupBody struct {
	w     http.ResponseWriter
	out   *http.ResponseController
	begun bool
}

// Write implements io.Writer.
func (b *backupBody) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "application/octet-stream")
		b.w.Header().Set("Cache-Control", "no-store")
	}
	_ = b.out.SetWriteDeadline(time.Now().Add(lineTimeout)) // without deadlines (tests' recorders) it works as well
	return b.w.Write(p)
}

// Body calls fn with the body of an answer that may be long.
func (c *Client) Body(ctx context.Context, path string, fn func(io.Reader) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return fn(resp.Body)
}
