package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const byID = "/dev/serial/by-id"

// followSerialPorts asks the kernel to be told of devices that come and go; what it
// returns keeps a link in /dev/serial/by-id for each USB serial port, as the rules of
// systemd's 60-serial.rules name them.
func followSerialPorts() (func(), error) {
	if err := os.MkdirAll(byID, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, fmt.Errorf("listen to the kernel's events: %w", err)
	}
	links := map[string]string{}                        // ttyUSB0 → link
	found, _ := filepath.Glob("/sys/class/tty/ttyUSB*") // the pattern is good
	for _, path := range found {
		link(links, filepath.Base(path))
	}
	return func() {
		buf := make([]byte, 64<<10)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				fmt.Println("guest-init: the kernel's events:", err)
				continue
			}
			event(links, buf[:n])
		}
	}, nil
}

// event is "add@/devices/…\0ACTION=add\0SUBSYSTEM=tty\0DEVNAME=ttyUSB0\0…".
func event(links map[string]string, message []byte) {
	value := map[string]string{}
	for field := range bytes.SplitSeq(message, []byte{0}) {
		k, v, _ := strings.Cut(string(field), "=")
		value[k] = v
	}
	name := value["DEVNAME"]
	if value["SUBSYSTEM"] != "tty" || !strings.HasPrefix(name, "ttyUSB") {
		return
	}
	switch value["ACTION"] {
	case "add":
		link(links, name)
	case "remove":
		if target, err := os.Readlink(links[name]); err == nil && filepath.Base(target) == name {
			_ = os.Remove(links[name])
		}
		delete(links, name)
	}
}

func link(links map[string]string, name string) {
	port, err := filepath.EvalSymlinks("/sys/class/tty/" + name + "/device") // …/1-1/1-1:1.0/ttyUSB0
	if err != nil {
		return // gone again
	}
	function := filepath.Dir(port)
	device := filepath.Dir(function)
	say := func(file string) string {
		b, _ := os.ReadFile(file)
		return strings.ReplaceAll(strings.TrimSpace(string(b)), " ", "_")
	}
	path := fmt.Sprintf("%s/usb-%s_%s_%s-if%s-port%s", byID, say(device+"/manufacturer"), say(device+"/product"), say(device+"/serial"),
		say(function+"/bInterfaceNumber"), say(port+"/port_number"))
	_ = os.Remove(path)
	if err := os.Symlink("../../"+name, path); err != nil {
		fmt.Println("guest-init:", err)
		return
	}
	links[name] = path
}
