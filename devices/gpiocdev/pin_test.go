package gpiocdev_test

import (
	"errors"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices/gpiocdev"
	"holdfast/devices/gpiocdev/gpiotest"
)

func TestPin(t *testing.T) {
	k := gpiotest.New()
	p := gpiocdev.NewPin(k.System(), "GPIO3", "/dev/gpiochip0", 3, "test")
	if p.WaitForEdge(-1) || p.Function() != "" || p.Read() != gpio.Low {
		t.Error("it is not ours yet")
	}
	if err := p.In(gpio.PullUp, gpio.RisingEdge); err != nil {
		t.Fatal(err)
	}
	if _, up, _ := k.Held(3); !up || p.Pull() != gpio.PullUp || p.Function() != "IN" {
		t.Error("pull-up input")
	}
	if p.WaitForEdge(0) || p.WaitForEdge(time.Millisecond) {
		t.Error("an edge before there was one")
	}
	for _, timeout := range []time.Duration{-1, time.Hour} {
		k.Set(3, true)
		k.Set(3, false)
		k.Set(3, true)
		if p.Read() != gpio.High || !p.WaitForEdge(timeout) || !p.WaitForEdge(timeout) || p.WaitForEdge(0) {
			t.Errorf("timeout %v: two edges are two", timeout)
		}
		k.Set(3, false)
	}
	waited := make(chan bool, 1)
	go func() { waited <- p.WaitForEdge(-1) }()
	if err := p.Halt(); err != nil {
		t.Fatal(err)
	}
	if <-waited {
		t.Error("an edge after the end")
	}
	if err := p.Out(gpio.High); err != nil || !k.Level(3) || p.Function() != "OUT" {
		t.Error(err, k.Level(3))
	}
	if err := p.Out(gpio.Low); err != nil || k.Level(3) {
		t.Error(err, k.Level(3))
	}
	if err := p.PWM(gpio.DutyHalf, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if p.String() != "GPIO3" || p.Name() != "GPIO3" || p.Number() != 3 || p.DefaultPull() != gpio.PullNoChange {
		t.Error(p)
	}
	k.Unplug("/dev/gpiochip0")
	if p.WaitForEdge(time.Hour) || p.In(gpio.PullNoChange, gpio.BothEdges) == nil {
		t.Error("the chip is gone")
	}
	if err := p.Halt(); err != nil || k.Open() != 0 {
		t.Error(err, k.Open())
	}
}
