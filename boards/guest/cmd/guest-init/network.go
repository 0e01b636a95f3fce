package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// network brings up lo and gives the first other interface an address, when it has come:
// one on USB takes a while. tries are 50 ms apart.
func network(address string, tries int) error {
	if err := up("lo"); err != nil {
		return err
	}
	for range tries {
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range all {
			if i.Name != "lo" && len(i.HardwareAddr) == 6 {
				return errors.Join(setAddress(i.Name, address), up(i.Name))
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("no network interface has come")
}

// setAddress gives an interface an address in a network of 24 bits (netdevice(7)).
func setAddress(name, address string) error {
	if err := setInet(name, unix.SIOCSIFADDR, net.ParseIP(address).To4()); err != nil {
		return fmt.Errorf("%s: address: %w", name, err)
	}
	if err := setInet(name, unix.SIOCSIFNETMASK, net.CIDRMask(24, 32)); err != nil {
		return fmt.Errorf("%s: netmask: %w", name, err)
	}
	return nil
}

func setInet(name string, request uint, four []byte) error {
	return onInterface(name, func(fd int, r *unix.Ifreq) error {
		if err := r.SetInet4Addr(four); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, request, r)
	})
}

func up(name string) error {
	err := onInterface(name, func(fd int, r *unix.Ifreq) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
			return err
		}
		r.SetUint16(r.Uint16() | unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	})
	if err != nil {
		return fmt.Errorf("%s: up: %w", name, err)
	}
	return nil
}

func onInterface(name string, do func(fd int, r *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return do(fd, r)
}
