package buffer

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crashEnv makes this test binary the process that is killed: "data dir,runtime dir,seed".
const crashEnv = "HOLDFAST_CRASH_CHILD"

func crashConfig(data, run string) (Config, Env) {
	cfg := Config{DataDir: data, RuntimeDir: run, MaxBytes: 32 << 20, CommitInterval: 20 * time.Millisecond, CommitCount: 64}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return cfg, Env{Log: slog.New(slog.DiscardHandler), Now: bootTime, Wall: time.Now, BootID: string(boot), Rand: rand.Reader, KeyID: "key"}
}

func bootTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// crashChild appends, takes and acknowledges as fast as it can and reports what has
// returned, until it is killed.
func crashChild(spec string) {
	part := strings.Split(spec, ",")
	var seed uint64
	fmt.Sscan(part[2], &seed)
	cfg, env := crashConfig(part[0], part[1])
	b, err := Open(cfg, env)
	if err != nil {
		fmt.Println("F", err)
		os.Exit(1)
	}
	fmt.Println("O", b.Opened().Epoch)
	rnd := mrand.New(mrand.NewPCG(seed, 2))
	slow := rnd.IntN(2) == 0 // acknowledgements hardly come: the card fills
	for i := 0; ; i++ {
		device := devices[rnd.IntN(len(devices))]
		raws := rnd.IntN(3)
		for range raws {
			if _, err := b.Take(device, 1, fmt.Appendf(nil, "raw %d", i)); err != nil {
				fmt.Println("F", err)
			}
		}
		num, err := b.Next(device, 1+raws)
		if err != nil {
			fmt.Println("F", err)
		}
		blob := fmt.Appendf(nil, "%s/%s/%d/%d/", num.Epoch, device, num.Seq, rnd.Uint64())
		blob = append(blob, strings.Repeat("x", rnd.IntN(1500))...)
		fmt.Printf("B %s %s %d %s\n", num.Epoch, device, num.Seq, blob) // before: it may be kept, from here on
		pos, err := b.Append(context.Background(), num, Meta{Device: device, Readings: 1 + raws, Raws: raws}, blob)
		if err != nil {
			fmt.Println("F", err)
			os.Exit(1)
		}
		fmt.Printf("A %d\n", pos)
		if !slow || i%50 == 0 {
			fmt.Printf("K %d\n", pos)
			if err := b.Ack([]uint64{pos}); err != nil {
				fmt.Println("F", err)
			}
		}
	}
}

// TestKillNine kills a process that uses the buffer, again and again: nothing for which
// Append had returned is lost, and no number ever means two different messages.
func TestKillNine(t *testing.T) {
	if testing.Short() {
		t.Skip("starts itself again, which the emulator of the short run cannot; the full run does it, for 386 too")
	}
	cycles := 20
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		cycles = 200
	}
	data, run := t.TempDir(), tmpfs(t)+"/run"
	cfg, env := crashConfig(data, run)
	rnd := mrand.New(mrand.NewPCG(7, 7))
	numbers := make(map[string]string) // epoch/device/seq: bytes, as the child meant to append them
	final := make(map[string]bool)     // of them, those that were appended or could be read
	held := make(map[string]bool)      // bytes for which Append returned, not acknowledged
	epoch := ""
	for cycle := range cycles {
		cut := time.Duration(2+rnd.IntN(150)) * time.Millisecond
		acked := killChild(t, fmt.Sprintf("%s,%s,%d", data, run, cycle), cut, numbers, final, held, &epoch)
		b, err := Open(cfg, env)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]bool)
		var positions []uint64
		if _, err := b.Read(1, func(pos uint64, blob []byte) bool {
			got[string(blob)] = true
			positions = append(positions, pos)
			key := strings.Join(strings.SplitN(string(blob), "/", 4)[:3], "/")
			if old := numbers[key]; old != string(blob) {
				t.Fatalf("cycle %d: number %s holds other bytes", cycle, key)
			}
			final[key] = true
			return true
		}); err != nil {
			t.Fatal(err)
		}
		for blob := range held {
			if !got[blob] && !acked[blob] {
				t.Fatalf("cycle %d: lost %.60s…, %d held: %+v %+v", cycle, blob, len(got), b.Stats(), b.Opened())
			}
		}
		held = got
		if len(positions) > 8000 { // keep below max_bytes: nothing may be dropped here
			if err := b.Ack(positions); err != nil {
				t.Fatal(err)
			}
			held = make(map[string]bool)
		}
		if s := b.Stats(); s.Dropped > 0 || len(b.Opened().SetAside) > 0 {
			t.Fatalf("cycle %d: %+v %+v", cycle, s, b.Opened())
		}
		if rnd.IntN(4) == 0 {
			err = b.Close(context.Background())
		} else {
			b.kill()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// killChild runs a child until the cut and takes over what it reported. It returns what
// may be acknowledged.
func killChild(t *testing.T, spec string, cut time.Duration, numbers map[string]string, final, held map[string]bool, epoch *string) map[string]bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashEnv+"="+spec)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := make(map[string]bool)
	byPos := make(map[string]string)
	last, lastKey := "", ""
	r := bufio.NewReaderSize(out, 1<<20)
	var timer *time.Timer
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		word := strings.Fields(line)
		switch word[0] {
		case "O":
			if *epoch != "" && word[1] != *epoch {
				t.Fatalf("epoch %s after %s, in one boot", word[1], *epoch)
			}
			*epoch = word[1]
			timer = time.AfterFunc(cut, func() { _ = cmd.Process.Kill() })
		case "B":
			key := strings.Join(word[1:4], "/")
			if final[key] {
				t.Fatalf("number %s given again: %.60s… and %.60s…", key, numbers[key], word[4])
			}
			numbers[key], last, lastKey = word[4], word[4], key
		case "A":
			held[last], final[lastKey] = true, true
			byPos[word[1]] = last
		case "K":
			acked[byPos[word[1]]] = true
		default:
			t.Fatalf("child: %s", line)
		}
	}
	if timer != nil {
		timer.Stop()
	}
	_ = cmd.Wait()
	return acked
}
