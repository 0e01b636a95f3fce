package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// AuditFile is the audit log under the broker's data_dir; older parts are AuditFile.1 and so on, the higher the older.
const AuditFile = "audit.log"

// Bounds of the audit log. A change takes two lines of about 300 bytes: the files hold some 50,000 changes.
const (
	auditBytes = 8 << 20 // of one file
	auditFiles = 4       // with the one that is written
	auditLine  = 64 << 10
)

// The values of AuditEntry.Result.
const (
	AuditBegun   = "begun"   // about to be done; a line with the same id says how it ended
	AuditDone    = "done"    //
	AuditFailed  = "failed"  // tried, and answered with an error
	AuditRefused = "refused" // not tried: the role does not allow it
)

// AuditEntry is one line of the audit log. No secret is in it.
type AuditEntry struct {
	Time    time.Time      `json:"time"`
	ID      string         `json:"id"` // of the change
	Node    string         `json:"node"`
	Who     string         `json:"who"`
	Role    Role           `json:"role"`
	From    string         `json:"from"`
	What    string         `json:"what"`   // the request, as docs/BROKER.md lists them
	Target  string         `json:"target"` // its path and query
	Details map[string]any `json:"details,omitempty"`
	Result  string         `json:"result"`
	Status  int            `json:"status,omitempty"` // of the answer
	Error   string         `json:"error,omitempty"`
}

// AuditLog is who changed what, when, from where and with what result: JSON lines in a file, synced one by one, and in
// the program's log.
type AuditLog struct {
	dir, node string
	log       *slog.Logger
	now       func() time.Time
	limit     int64 // bytes of one file

	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenAudit opens the audit log under dir. A last line that a crash has torn is ended.
func OpenAudit(dir, node string, now func() time.Time, log *slog.Logger) (*AuditLog, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &AuditLog{dir: dir, node: node, log: log, now: now, limit: auditBytes}
	return a, a.open()
}

func (a *AuditLog) path(n int) string {
	if n == 0 {
		return filepath.Join(a.dir, AuditFile)
	}
	return filepath.Join(a.dir, fmt.Sprintf("%s.%d", AuditFile, n))
}

func (a *AuditLog) open() error {
	f, err := os.OpenFile(a.path(0), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte("\n"))
		}
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", errors.Join(err, f.Close()))
	}
	a.file, a.size = f, info.Size()
	return nil
}

// Close ends the log.
func (a *AuditLog) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

// Write adds a line; it is on disk when Write returns. Time and node are filled in.
func (a *AuditLog) Write(e AuditEntry) error {
	e.Time, e.Node = a.now().UTC(), a.node
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return fmt.Errorf("audit log: %w", fs.ErrClosed)
	}
	if a.size+int64(len(line)) >= a.limit {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	n, err := a.file.Write(append(line, '\n'))
	a.size += int64(n)
	if err == nil {
		err = a.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if e.Result != AuditBegun {
		a.log.Info("audit", "who", e.Who, "role", e.Role, "from", e.From, "what", e.What, "target", e.Target, "result", e.Result, "id", e.ID)
	}
	return nil
}

// rotate begins a new file and lets the oldest go. a.mu is held.
func (a *AuditLog) rotate() error {
	for n := auditFiles - 1; n > 0; n-- {
		if err := os.Rename(a.path(n-1), a.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	old := a.file
	if err := a.open(); err != nil {
		return err
	}
	_ = old.Close() // each of its lines is synced
	return nil
}

// Last returns the newest lines, the oldest of them first. A line that cannot be read is shown as such.
func (a *AuditLog) Last(limit int) ([]AuditEntry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []AuditEntry
	for n := 0; n < auditFiles && len(out) < limit; n++ {
		part, err := readAudit(a.path(n))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		out = append(part[max(0, len(part)-(limit-len(out))):], out...)
	}
	return out, nil
}

func readAudit(path string) (out []AuditEntry, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := bufio.NewScanner(f)
	in.Buffer(make([]byte, 4096), 2*auditLine)
	for in.Scan() {
		if line := bytes.TrimSpace(in.Bytes()); len(line) > 0 {
			out = append(out, parseAudit(line))
		}
	}
	return out, in.Err()
}

func parseAudit(line []byte) AuditEntry {
	var e AuditEntry
	if err := json.Unmarshal(line, &e); err != nil {
		return AuditEntry{What: "a line that cannot be read", Error: err.Error()}
	}
	return e
}
