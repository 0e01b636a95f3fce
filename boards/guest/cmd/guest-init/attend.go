package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// portName is what the host calls its virtio-serial port (package guest).
const portName = "holdfast.guest"

// attend serves on the virtio-serial port, which needs no network; that is brought up as well,
// if there is one.
func attend() error {
	if err := network("10.0.2.15", 100); err != nil {
		fmt.Println("guest-init:", err)
	}
	path, err := port(portName)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	s := newServer()
	for {
		if err := s.stream(f); !errors.Is(err, io.EOF) {
			return err
		}
		time.Sleep(100 * time.Millisecond) // nobody on the host has opened it
	}
}

// port finds a virtio-serial port by its name, whatever udev thinks of it.
func port(name string) (string, error) {
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*") // the pattern is good
	for _, p := range ports {
		if n, err := os.ReadFile(filepath.Join(p, "name")); err == nil && strings.TrimSpace(string(n)) == name {
			return "/dev/" + filepath.Base(p), nil
		}
	}
	return "", fmt.Errorf("no virtio-serial port %s", name)
}
