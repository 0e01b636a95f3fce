package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Guest is a running machine.
type Guest struct {
	Dir     string // sockets, initramfs, "console" and "qemu.log"
	Console string // file
	control string // host address of the guest's port 7
	shell   *shell // the other way in, of a Debian
	cmd     *exec.Cmd
	ended   chan struct{}
}

// Options are what differs between two guests of one board.
type Options struct {
	Dir     string   // an empty folder with a short name: sockets' names are bounded (unix(7): 108 bytes)
	Control string   // an unused address of the host, "127.0.0.1:port"; not for a Debian
	Status  string   // another one, for the guest's port 9180
	Devices []string // more options of QEMU
}

// Start runs a guest and returns when its first program serves. The guest reaches the
// host's 127.0.0.1 as 10.0.2.2.
func Start(ctx context.Context, s Store, image Image, o Options) (*Guest, error) {
	args, err := arguments(s, image, o)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", image.Board.Name, err)
	}
	g, err := launch(s, image.Board, o, args)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", image.Board.Name, err)
	}
	if err := g.wait(ctx); err != nil {
		g.Stop()
		return nil, fmt.Errorf("guest %s: %w\n%s", image.Board.Name, err, g.Logs())
	}
	return g, nil
}

// launch starts QEMU with what all guests have, and these options.
func launch(s Store, b Board, o Options, args []string) (*Guest, error) {
	g := &Guest{Dir: o.Dir, Console: filepath.Join(o.Dir, "console"), control: o.Control, ended: make(chan struct{})}
	log, err := os.Create(filepath.Join(o.Dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // QEMU has its own
	program, options := s.qemu(b.QEMU)
	options = append(options,
		"-nodefaults", "-display", "none", "-accel", "tcg,thread=single",
		"-serial", "file:"+filepath.Join(o.Dir, "console"),
		"-qmp", "unix:"+filepath.Join(o.Dir, "qmp")+",server=on,wait=off",
		"-qtest", "unix:"+filepath.Join(o.Dir, "qtest")+",server=on,wait=off", "-qtest-log", "/dev/null")
	options = append(append(append(options, b.Machine...), args...), o.Devices...)
	g.cmd = exec.Command(program, options...)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (Debian package %s)", err, b.packaged())
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, g.cmd.Process.Pid, 5) // others work here too
	go func() {
		_ = g.cmd.Wait() // how it ended stands in its log
		close(g.ended)
	}()
	return g, nil
}

// arguments writes the initramfs and says what QEMU is to run.
func arguments(s Store, image Image, o Options) ([]string, error) {
	b := image.Board
	kernel, err := s.one("linux-"+b.Debian, "boot", "vmlinuz-*")
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(o.Dir, "initrd")
	if err := image.write(s, initrd); err != nil {
		return nil, err
	}
	words := "console=" + b.Console + " panic=-1 loglevel=4 maxcpus=1" // QEMU's Raspberry Pi has four, which are one here
	if image.Card {
		words += " card=/dev/vda"
	}
	args := []string{
		"-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", words,
		"-netdev", "user,id=net,hostfwd=tcp:" + o.Control + "-:7,hostfwd=tcp:" + o.Status + "-:9180", "-device", b.NetCard + ",netdev=net",
	}
	if b.DTB != "" {
		dtb, err := s.one("linux-"+b.Debian, "usr", "lib", "linux-image-*", b.DTB)
		if err != nil {
			return nil, err
		}
		args = append(args, "-dtb", dtb)
	}
	return args, nil
}

// wait returns when the guest answers.
func (g *Guest) wait(ctx context.Context) error {
	return g.until(ctx, func() error {
		_, err := g.List("/")
		return err
	})
}

// until asks again and again, and returns when there is no error any more; the last one when ctx or the guest has ended.
func (g *Guest) until(ctx context.Context, answered func() error) error {
	for {
		err := answered()
		if err == nil {
			return nil
		}
		if e := g.pause(ctx); e != nil {
			return errors.Join(err, e)
		}
	}
}

// pause lies between two looks at something that is to become true.
func (g *Guest) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-g.ended:
		return errors.New("QEMU has ended")
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

// Stop ends the guest at once, as a loss of power would.
func (g *Guest) Stop() {
	_ = g.cmd.Process.Kill() // it may have ended
	<-g.ended
	if g.shell != nil {
		g.shell.close()
	}
}

// Used is the processor time that QEMU took, once it has ended: what a guest costs, however busy the machine is.
func (g *Guest) Used() time.Duration {
	s := g.cmd.ProcessState
	return (s.UserTime() + s.SystemTime()).Round(time.Second)
}

// Logs is the end of what QEMU and the guest's console said.
func (g *Guest) Logs() string {
	var all strings.Builder
	for _, name := range []string{"qemu.log", "console"} {
		text, err := os.ReadFile(filepath.Join(g.Dir, name))
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&all, "%s:\n%s\n", name, text[max(0, len(text)-8000):])
	}
	return all.String()
}
