//go:build image

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestFirstBoots: the image's own kernel and root file system, from the first boot on; then the power is cut, and it boots again.
func TestFirstBoots(t *testing.T) {
	for _, name := range []string{"virt", "raspi3b"} {
		t.Run(name, func(t *testing.T) { firstBoots(t, machines[name](t, imageOf(t, "rpi3"))) })
	}
}

// imageOf is an image that .ci/test-image has made.
func imageOf(t *testing.T, name string) card {
	t.Helper()
	b, err := boardByName("rpi3")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(os.Getenv("HOLDFAST_IMAGES"), "holdfast-"+name+".img")
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: .ci/test-image rpi3 makes it", err)
	}
	return openCard(t, b, file)
}

func firstBoots(t *testing.T, e *emulated) {
	e.boot(t)
	if !regexp.MustCompile(`(?m)^addresses   10\.0\.2\.\d+`).MatchString(e.console()) {
		t.Error("the screen does not say under which address it is in the network")
	}
	first := e.identity(t)
	e.reads(t)
	e.cut()

	data := e.dataPartition(t)
	out, _ := exec.Command("/sbin/e2fsck", "-p", data).CombinedOutput() // what a boot does; 1: repaired
	t.Logf("e2fsck after the cut: %s", out)
	files := shell(t, "debugfs", "-R", "ls -p /holdfast", data)
	for _, name := range []string{"/identity.pem/", "/gateway-id/"} {
		if !strings.Contains(files, name) {
			t.Errorf("the data partition has no %s:\n%s", name, files)
		}
	}
	e.unwritten(t)

	e.boot(t)
	if second := e.identity(t); second != first {
		t.Errorf("it is another gateway now:\n%s\n%s", first, second)
	}
	e.reads(t)
	e.cut()
	e.unwritten(t)
}

// boot switches the power on and waits until the screen says that the agent runs.
func (e *emulated) boot(t *testing.T) {
	t.Helper()
	began := time.Now()
	e.start(t)
	e.await(t, "The agent is running.")
	t.Logf("boot %d: identity and agent on the screen after %v", e.boots, time.Since(began).Round(time.Second))
}

// unwritten: the two partitions with the system are, byte for byte, what was written to the card.
func (e *emulated) unwritten(t *testing.T) {
	t.Helper()
	for _, p := range []int{bootPartition, rootPartition} {
		part := layout[p-1]
		shell(t, "cmp", fmt.Sprintf("--bytes=%d", part.size), fmt.Sprintf("--ignore-initial=%d", part.start), e.image, e.sd)
	}
}

var told = regexp.MustCompile(`(?m)^gateway     (\S+)\nkey id      (\S+)\nalgorithm   (\S+)\npublic key  (\{.*\})$`)

// identity is what the console tells, in words and as a QR code, which must say the same.
func (e *emulated) identity(t *testing.T) string {
	t.Helper()
	m := told.FindStringSubmatch(e.console())
	if m == nil {
		t.Fatal("the console tells no identity")
	}
	want, err := json.Marshal(map[string]any{"gateway": m[1], "kid": m[2], "alg": m[3], "jwk": json.RawMessage(m[4])})
	if err != nil {
		t.Fatal(err)
	}
	scanned := e.scan(t)
	var got, said any
	if json.Unmarshal([]byte(scanned), &got) != nil || json.Unmarshal(want, &said) != nil || fmt.Sprint(got) != fmt.Sprint(said) {
		t.Errorf("the QR code says %s, the words %s", scanned, want)
	}
	return string(want)
}

// scan takes a picture of the console and reads the code in it.
func (e *emulated) scan(t *testing.T) string {
	t.Helper()
	var code []string
	for line := range strings.Lines(e.console()) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && strings.Trim(line, "█▀▄ ") == "" && strings.HasPrefix(line, "████") {
			code = append(code, line)
		}
	}
	const scale = 4
	picture := image.NewGray(image.Rect(0, 0, 100*scale, 2*len(code)*scale))
	light := map[rune][2]bool{'█': {true, true}, '▀': {true, false}, '▄': {false, true}}
	for row, line := range code {
		for x, r := range []rune(line) {
			for half, on := range light[r] {
				for i := range scale * scale {
					if on {
						picture.SetGray(x*scale+i%scale, (2*row+half)*scale+i/scale, color.Gray{Y: 255})
					}
				}
			}
		}
	}
	file := filepath.Join(e.dir, "screen.png")
	var buf bytes.Buffer
	if err := png.Encode(&buf, picture); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("zbarimg", "--quiet", "--raw", file).Output() // without what it says of a missing D-Bus
	if err != nil {
		t.Fatalf("zbarimg finds no code in the picture of the console: %v (Debian package zbar-tools)", err)
	}
	return strings.TrimSpace(string(out))
}

// reads asks the status page over the emulated network card. Where there is a sensor, it is read through the kernel's own driver.
func (e *emulated) reads(t *testing.T) {
	t.Helper()
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if last = e.temperature(t.Context()); last == nil {
			return
		}
		select {
		case <-e.ended:
			t.Fatal("QEMU has ended")
		case <-time.After(time.Second):
		}
	}
	t.Errorf("the status page: %v", last)
}

func (e *emulated) temperature(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.status+"/status.json", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var s struct {
		Devices []struct {
			Name, Quality string
			Taken         uint64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return err
	}
	for _, d := range s.Devices {
		if d.Name == "cabinet" && (!e.sensor || d.Quality == "good" && d.Taken > 0) {
			return nil
		}
	}
	return fmt.Errorf("no temperature yet: %+v", s.Devices)
}

// dataPartition is the card's third partition, which must have grown to its end.
func (e *emulated) dataPartition(t *testing.T) string {
	t.Helper()
	var said struct {
		PartitionTable struct{ Partitions []struct{ Start, Size int64 } }
	}
	if err := json.Unmarshal([]byte(shell(t, "sfdisk", "--json", e.sd)), &said); err != nil {
		t.Fatal(err)
	}
	p := said.PartitionTable.Partitions[dataPartition-1]
	if p.Start*sector != layout[2].start || (p.Start+p.Size)*sector != 1<<30 {
		t.Errorf("the data partition is from %d on, %d sectors", p.Start, p.Size)
	}
	file := filepath.Join(e.dir, "data")
	shell(t, "dd", "if="+e.sd, "of="+file, "bs=1M", "conv=sparse", fmt.Sprintf("skip=%d", p.Start*sector/mebi))
	head := shell(t, "dumpe2fs", "-h", file)
	if m := regexp.MustCompile(`Block count: +(\d+)`).FindStringSubmatch(head); m == nil || m[1] != fmt.Sprint(p.Size*sector/4096) {
		t.Errorf("the file system has not grown with it: %v", m)
	}
	return file
}
