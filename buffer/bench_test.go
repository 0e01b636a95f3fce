package buffer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loopDisk is a file system of its own whose device counts what is written to it.
type loopDisk struct {
	t   testing.TB
	dev string
	dir string
}

// newLoopDisk mounts an ext4 of this many MiB. It needs root and Debian's e2fsprogs and mount.
func newLoopDisk(t testing.TB, mib int64) *loopDisk {
	t.Helper()
	base := t.TempDir()
	img := filepath.Join(base, "img")
	must := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v: %s (needs root, a loop device, packages e2fsprogs and mount)", name, strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(mib << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	must("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", img)
	l := &loopDisk{t: t, dir: filepath.Join(base, "mnt")}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.dev = must("losetup", "--find", "--show", img)
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", l.dev).Run() })
	must("mount", "-o", "noatime", l.dev, l.dir)
	t.Cleanup(func() {
		for range 50 {
			if exec.Command("umount", l.dir).Run() == nil {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	return l
}

// written is the bytes that reached the device, after everything did.
func (l *loopDisk) written() int64 {
	l.t.Helper()
	f, err := os.Open(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	_ = unix.Syncfs(int(f.Fd()))
	f.Close()
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(l.dev), "stat"))
	if err != nil {
		l.t.Fatal(err)
	}
	sectors, err := strconv.ParseInt(strings.Fields(string(b))[6], 10, 64) // Documentation/block/stat.rst
	if err != nil {
		l.t.Fatal(err)
	}
	return sectors * 512
}

const readingBytes = 200

// BenchmarkCard measures the bytes that reach the card per reading of 200 B.
func BenchmarkCard(b *testing.B) {
	const readings = 200_000
	for _, c := range []struct {
		name  string
		count int // readings per commit
		batch int // readings per message
		ack   bool
	}{
		{"online", 64, 1, true},
		{"offline/commit=20/message=1", 20, 1, false},
		{"offline/commit=20/message=20", 20, 20, false},
		{"offline/commit=100/message=1", 100, 1, false},
		{"offline/commit=100/message=20", 100, 20, false},
		{"offline/commit=100/message=100", 100, 100, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := newLoopDisk(b, 512)
			cfg := Config{DataDir: l.dir, RuntimeDir: tmpfs(b), MaxBytes: 128 << 20, CommitInterval: time.Hour, CommitCount: 0}
			env := Env{Log: slog.New(slog.DiscardHandler), Now: bootTime, Wall: time.Now, BootID: "b", Rand: randomness(3), KeyID: "k"}
			for range b.N {
				buf, err := Open(cfg, env)
				if err != nil {
					b.Fatal(err)
				}
				start := l.written()
				began := time.Now()
				fill(b, buf, readings, c.count, c.batch, c.ack)
				if c.ack {
					if err := buf.Sync(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
				stored := l.written()
				drain(b, buf)
				if err := buf.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
				all := l.written()
				b.ReportMetric(float64(stored-start)/readings/readingBytes, "stored/payload")
				b.ReportMetric(float64(all-start)/readings/readingBytes, "written/payload")
				b.ReportMetric(float64(all-start)/readings, "B/reading")
				b.ReportMetric(readings/time.Since(began).Seconds(), "readings/s")
			}
		})
	}
}

func fill(b *testing.B, buf *Buffer, readings, count, batch int, ack bool) {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	blob := make([]byte, readingBytes*batch)
	for n := 0; n < readings; {
		for i := range blob {
			blob[i] = byte(rnd.Uint32())
		}
		num, err := buf.Next("scale", batch)
		if err != nil {
			b.Fatal(err)
		}
		pos, err := buf.Append(context.Background(), num, Meta{Device: "scale", Readings: batch}, blob)
		if err != nil {
			b.Fatal(err)
		}
		if n += batch; ack {
			if err := buf.Ack([]uint64{pos}); err != nil {
				b.Fatal(err)
			}
		} else if n%count == 0 {
			if err := buf.Sync(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// drain reads and acknowledges everything, a window at a time.
func drain(b testing.TB, buf *Buffer) (messages int) {
	b.Helper()
	window := make([]uint64, 0, 256)
	for from := uint64(1); ; {
		window = window[:0]
		next, err := buf.Read(from, func(pos uint64, _ []byte) bool {
			window = append(window, pos)
			return len(window) < cap(window)
		})
		if err != nil {
			b.Fatal(err)
		}
		if len(window) == 0 {
			return messages
		}
		messages += len(window)
		if err := buf.Ack(window); err != nil {
			b.Fatal(err)
		}
		from = next
	}
}

// BenchmarkPlainFile is the yardstick: readings appended to a segment file, fdatasync
// per commit, the file removed at the end.
func BenchmarkPlainFile(b *testing.B) {
	const readings = 200_000
	for _, count := range []int{20, 100} {
		b.Run(fmt.Sprintf("commit=%d", count), func(b *testing.B) {
			l := newLoopDisk(b, 512)
			for range b.N {
				start := l.written()
				f, err := os.Create(filepath.Join(l.dir, "plain"))
				if err != nil {
					b.Fatal(err)
				}
				data := make([]byte, readingBytes*count)
				rnd := rand.New(rand.NewPCG(1, 1))
				for n := 0; n < readings; n += count {
					for i := range data {
						data[i] = byte(rnd.Uint32())
					}
					if _, err := f.Write(data); err != nil {
						b.Fatal(err)
					}
					if err := fdatasync(f); err != nil {
						b.Fatal(err)
					}
				}
				f.Close()
				os.Remove(f.Name())
				b.ReportMetric(float64(l.written()-start)/readings/readingBytes, "written/payload")
			}
		})
	}
}

// BenchmarkBacklog measures a backlog of a million messages of 256 B: append, reopen,
// drain, memory.
func BenchmarkBacklog(b *testing.B) {
	const messages = 1_000_000
	for range b.N {
		dir := b.TempDir()
		cfg := Config{DataDir: dir, RuntimeDir: tmpfs(b), MaxBytes: 512 << 20, CommitInterval: time.Second, CommitCount: 64}
		env := Env{Log: slog.New(slog.DiscardHandler), Now: bootTime, Wall: time.Now, BootID: "b", Rand: randomness(3), KeyID: "k"}
		buf, err := Open(cfg, env)
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		blob := make([]byte, 256)
		rnd := rand.New(rand.NewPCG(1, 1))
		for range messages {
			for i := 0; i < len(blob); i += 8 {
				blob[i] = byte(rnd.Uint32())
			}
			num, _ := buf.Next("scale", 1)
			if _, err := buf.Append(context.Background(), num, Meta{Device: "scale", Readings: 1}, blob); err != nil {
				b.Fatal(err)
			}
		}
		if err := buf.Sync(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(messages/time.Since(began).Seconds(), "appended/s")
		anon, rss := memory()
		b.ReportMetric(anon, "MB-anon-full")
		b.ReportMetric(rss, "MB-rss-full")
		if err := buf.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		began = time.Now()
		if buf, err = Open(cfg, env); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-open")
		began = time.Now()
		if n := drain(b, buf); n != messages {
			b.Fatalf("%d of %d", n, messages)
		}
		b.ReportMetric(messages/time.Since(began).Seconds(), "drained/s")
		anon, rss = memory()
		b.ReportMetric(anon, "MB-anon-drained")
		b.ReportMetric(rss, "MB-rss-drained")
		for buf.Stats().DiskBytes > 64<<20 {
			<-time.After(time.Millisecond)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-space-back")
		b.ReportMetric(float64(usage(dir))/(1<<20), "MiB-left")
		if err := buf.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// memory is what the process has now, in MB.
func memory() (anon, rss float64) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		v, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "RssAnon:":
			anon = v / 1000
		case "VmRSS:":
			rss = v / 1000
		}
	}
	return anon, rss
}
