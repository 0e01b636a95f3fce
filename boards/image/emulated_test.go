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
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// patience bounds a failure: a boot takes half a minute where nothing else runs.
const patience = 10 * time.Minute

// emulated is a Raspberry Pi 3 in QEMU with a card of ours in it. There is no firmware: what it would do with config.txt and
// cmdline.txt, this does.
type emulated struct {
	dir, sd, status string
	args            []string
	cmd             *exec.Cmd
	ended           chan struct{}
	boots           int
}

// TestFirstBoots: the image's own kernel and root file system on QEMU's Raspberry Pi 3, from the first boot on; then the power is
// cut, and it boots again.
func TestFirstBoots(t *testing.T) {
	if !strings.Contains(os.Getenv("HOLDFAST_BOARDS"), "rpi3") {
		t.Fatal("no image for rpi3 was made: .ci/test-image rpi3")
	}
	b, err := boardByName("rpi3")
	if err != nil {
		t.Fatal(err)
	}
	c := openCard(t, b, filepath.Join(os.Getenv("HOLDFAST_IMAGES"), "holdfast-rpi3.img"))
	e := insert(t, c)

	began := time.Now()
	e.start(t)
	e.await(t, "The agent is running.")
	t.Logf("the first boot: on the screen after %v", time.Since(began).Round(time.Second))
	first := e.identity(t)
	e.reads(t)
	e.cut()

	data := e.dataPartition(t)
	files := shell(t, "debugfs", "-R", "ls -p /holdfast", data)
	for _, name := range []string{"/identity.pem/", "/gateway-id/"} {
		if !strings.Contains(files, name) {
			t.Errorf("the data partition has no %s:\n%s", name, files)
		}
	}
	out, _ := exec.Command("/sbin/e2fsck", "-p", data).CombinedOutput() // what a boot does; 1: repaired
	t.Logf("e2fsck after the cut: %s", out)

	began = time.Now()
	e.start(t)
	e.await(t, "The agent is running.")
	t.Logf("the second boot: %v", time.Since(began).Round(time.Second))
	if second := e.identity(t); second != first {
		t.Errorf("it is another gateway now:\n%s\n%s", first, second)
	}
	e.cut()
}

// insert writes the image to a card of 1 GiB, as dd would.
func insert(t *testing.T, c card) *emulated {
	e := &emulated{dir: t.TempDir()}
	e.sd = filepath.Join(e.dir, "sd")
	shell(t, "cp", "--sparse=always", c.image, e.sd)
	if err := os.Truncate(e.sd, 1<<30); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vmlinuz", "bcm2710-rpi-3-b.dtb"} {
		shell(t, "mcopy", "-n", "-i", c.boot, "::"+name, filepath.Join(e.dir, name))
	}
	dtb := filepath.Join(e.dir, "bcm2710-rpi-3-b.dtb")
	said := strings.TrimSpace(shell(t, "fdtget", "-t", "s", dtb, "/chosen", "bootargs"))
	cmdline := strings.TrimSpace(c.onBoot(t, "cmdline.txt"))
	// enable_uart=1 makes serial0 the mini-UART here; i2c_arm=on turns bus 1 on.
	cmdline = strings.ReplaceAll(cmdline, "serial0", "ttyS0")
	shell(t, "fdtput", "-t", "s", dtb, "/soc/i2c@7e804000", "status", "okay")
	// There is no radio in QEMU, and the kernel waits for it before it looks for the card: what disable-wifi would do.
	shell(t, "fdtput", "-t", "s", dtb, "/soc/mmcnr@7e300000", "status", "disabled")
	// QEMU knows no watchdog: it takes its start for the end (hw/misc/bcm2835_powermgt.c). The USB driver's fast interrupts are ARM's FIQ, which it lacks too.
	cmdline += " systemd.watchdog_sec=0 dwc_otg.fiq_enable=0 dwc_otg.fiq_fsm_enable=0 dwc_otg.nak_holdoff=0"
	addr := freeport.Addrs(t, 1)[0]
	e.status = "http://" + addr
	e.args = []string{"-M", "raspi3b", "-m", "1G", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi",
		"-kernel", filepath.Join(e.dir, "vmlinuz"), "-dtb", dtb, "-append", said + " " + cmdline,
		"-drive", "if=sd,format=raw,file=" + e.sd,
		"-netdev", "user,id=net,hostfwd=tcp:" + addr + "-:9180", "-device", "usb-net,netdev=net",
		"-device", "tmp105,bus=i2c-bus.1,address=0x48"}
	t.Cleanup(func() {
		e.cut()
		if t.Failed() {
			t.Logf("%s", e.console())
		}
	})
	return e
}

func (e *emulated) start(t *testing.T) {
	e.boots++
	program, options := "qemu-system-aarch64", []string{}
	store := filepath.Join(os.Getenv("HOLDFAST_GUEST"), "qemu", "usr")
	if _, err := os.Stat(filepath.Join(store, "bin", program)); err == nil {
		program, options = filepath.Join(store, "bin", program), []string{"-L", filepath.Join(store, "share", "qemu")}
	}
	e.cmd = exec.Command(program, append(append(options, e.args...), "-serial", "null", "-serial", "file:"+e.consoleFile())...)
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &bytes.Buffer{}
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		t.Fatalf("%v (Debian package qemu-system-arm)", err)
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, e.cmd.Process.Pid, 5) // others work here too
	e.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // how it ended stands in its log
		close(ended)
	}(e.cmd, e.ended)
}

// cut is the loss of power.
func (e *emulated) cut() {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Kill()
	<-e.ended
	e.cmd = nil
}

func (e *emulated) consoleFile() string {
	return filepath.Join(e.dir, fmt.Sprintf("console%d", e.boots))
}

func (e *emulated) console() string {
	text, err := os.ReadFile(e.consoleFile())
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(text), "\r", "")
}

// await waits for a line on the serial console.
func (e *emulated) await(t *testing.T, what string) {
	t.Helper()
	for end := time.After(patience); !strings.Contains(e.console(), what); {
		select {
		case <-e.ended:
			t.Fatalf("QEMU has ended before the console said %q", what)
		case <-end:
			t.Fatalf("the console never said %q", what)
		case <-time.After(200 * time.Millisecond):
		}
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

// reads asks the status page over the emulated network card: the sensor is read through the kernel's own driver.
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
		if d.Name == "cabinet" && d.Quality == "good" && d.Taken > 0 {
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
