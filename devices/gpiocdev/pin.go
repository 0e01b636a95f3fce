package gpiocdev

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"
)

// Pin is a line as periph.io's drivers of chips want it: the alert line of a sensor, its
// reset. What they ask of a pin is less than the kernel has: whoever needs timestamps,
// numbers or to know that the chip is gone uses Run.
type Pin struct {
	sys      System
	name     string
	path     string
	offset   uint32
	consumer string

	mu     sync.Mutex
	line   *Line
	config Config
	edges  []Event
}

var _ gpio.PinIO = (*Pin)(nil)

// NewPin makes a pin of the line at an offset of the chip at path, which is where the name
// is at the moment. Nothing is requested before In or Out.
func NewPin(sys System, name, path string, offset uint32, consumer string) *Pin {
	return &Pin{sys: sys, name: name, path: path, offset: offset, consumer: consumer}
}

func (p *Pin) String() string { return p.name }

// Name implements pin.Pin.
func (p *Pin) Name() string { return p.name }

// Number implements pin.Pin: the line on its chip.
func (p *Pin) Number() int { return int(p.offset) }

// Function implements pin.Pin.
func (p *Pin) Function() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.line == nil:
		return ""
	case p.config.Output:
		return "OUT"
	}
	return "IN"
}

// Halt implements conn.Resource: the line is given back, and a WaitForEdge ends.
func (p *Pin) Halt() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release()
	return nil
}

func (p *Pin) release() {
	if p.line != nil {
		p.line.Close()
	}
	p.line, p.edges = nil, nil
}

// request asks for the line anew. The lock is held.
func (p *Pin) request(c Config) (err error) {
	p.release()
	p.line, err = Open(p.sys, p.path, p.offset, p.consumer, c)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.config = c
	return nil
}

// In implements gpio.PinIn. Edges of before are forgotten.
func (p *Pin) In(pull gpio.Pull, edge gpio.Edge) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.request(Config{Pull: pull, Edge: edge})
}

// Read implements gpio.PinIn; Low if it cannot be asked.
func (p *Pin) Read() gpio.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == nil {
		return gpio.Low
	}
	level, _ := p.line.Level() // there is no way to say that it failed
	return level
}

// WaitForEdge implements gpio.PinIn. A timeout below zero is none; false also if the line is
// not ours, or not any more.
func (p *Pin) WaitForEdge(timeout time.Duration) bool {
	if timeout >= 0 {
		// To end a Wait the line would have to be closed.
		return p.poll(time.Now().Add(timeout))
	}
	for {
		line, found := p.take()
		if found || line == nil {
			return found
		}
		if line.Wait() != nil {
			return false
		}
	}
}

// poll looks for an edge until the deadline.
func (p *Pin) poll(deadline time.Time) bool {
	for {
		line, found := p.take()
		left := time.Until(deadline)
		if found || line == nil || left <= 0 {
			return found
		}
		<-time.After(min(left, pace))
	}
}

// take takes one edge, if there is one. nil: the line is not ours.
func (p *Pin) take() (*Line, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == nil {
		return nil, false
	}
	if len(p.edges) == 0 {
		edges, err := p.line.Read(p.edges[:0])
		if err != nil {
			p.release()
			return nil, false
		}
		p.edges = edges
	}
	if len(p.edges) == 0 {
		return p.line, false
	}
	p.edges = p.edges[1:]
	return p.line, true
}

// Pull implements gpio.PinIn.
func (p *Pin) Pull() gpio.Pull {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config.Pull
}

// DefaultPull implements gpio.PinIn: the kernel does not say.
func (p *Pin) DefaultPull() gpio.Pull { return gpio.PullNoChange }

// Out implements gpio.PinOut.
func (p *Pin) Out(level gpio.Level) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == nil || !p.config.Output {
		return p.request(Config{Output: true, Initial: level})
	}
	if err := p.line.Set(level); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// PWM implements gpio.PinOut: the character device has none.
func (p *Pin) PWM(gpio.Duty, physic.Frequency) error {
	return fmt.Errorf("%s: %w", p.name, errors.ErrUnsupported)
}
