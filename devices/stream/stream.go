// Package stream runs a device that sends by itself over a serial port, for every driver
// of such a device: the driver says what the bytes mean (Decoder), and nothing else.
//
// It promises that a port which vanishes is told at once, reopened by its configured path
// as soon as it is back and never silent in between; that bad quality is told when it
// begins, at intervals, and anew after what was good, however fast garbage comes; that
// what was read before the end is decoded; that a sink which waits holds up the port and
// nothing piles up.
//
// It will not write to the device.
package stream

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

const (
	firstWait = 100 * time.Millisecond // before the first attempt to open again
	readSize  = 4096                   // as much as the kernel's line discipline queues (N_TTY_BUF_SIZE)
	readAhead = 16                     // reads that wait while the sink is slow: with readSize, 64 KiB at most
	errorPoll = 10 * time.Second       // between two looks at the receiver's error counts
)

// MaxWait is the longest time between two attempts to open the port.
const MaxWait = 5 * time.Second

// Config is what a driver knows of its device.
type Config struct {
	Port        string
	Mode        tty.Mode
	StaleAfter  time.Duration    // 0: a silent port is a normal one
	ReportEvery time.Duration    // bad quality that lasts is told again this often
	Metrics     []devices.Metric // what is told as bad when nothing comes
	// Decoder makes one for a port that was just opened.
	Decoder func(*Session) Decoder
}

// Decoder is what a driver makes of the bytes. It calls the Session that it was made for.
type Decoder interface {
	// Bytes takes what one read brought, and when. data is valid during the call only.
	Bytes(data []byte, at devices.Instant)
	// End: the port is closed; what has begun will have no end.
	End()
}

// Device is a devices.Device.
type Device struct {
	Config
	log   *slog.Logger
	clock devices.Clock
	rng   *rand.Rand
}

// New makes a device; it opens nothing yet.
func New(c Config, env devices.Env) *Device {
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Device{Config: c, log: log.With("port", c.Port), clock: env.Clock, rng: seeded(env)}
}

// seeded is the randomness of one device: the same for the same seed and name.
func seeded(env devices.Env) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(env.Name))
	return rand.New(rand.NewPCG(env.Seed, h.Sum64()))
}

// Run opens the port, reads it until it fails, and begins again.
func (d *Device) Run(ctx context.Context, sink devices.Sink) error {
	r := &run{Device: d, sink: sink, bad: devices.Trouble{Every: d.ReportEvery}, odd: devices.Trouble{Every: d.ReportEvery}}
	for {
		err := r.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.portDown(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.clock.After(r.nextWait()):
		}
	}
}

// run is the state of one Run.
type run struct {
	*Device
	sink devices.Sink
	bad  devices.Trouble // what was told as bad quality
	odd  devices.Trouble // what was written to the log about single pieces
	wait time.Duration
	at   devices.Instant // of the latest reading: it never goes back
	good bool            // something was taken since the start
}

// nextWait doubles from firstWait to MaxWait; half of it is random, so that a hundred
// gateways on one power switch do not move in step.
func (r *run) nextWait() time.Duration {
	r.wait = min(max(2*r.wait, firstWait), MaxWait)
	return r.wait/2 + time.Duration(r.rng.Int64N(int64(r.wait/2)))
}

// portDown tells that the port cannot be used.
func (r *run) portDown(err error) {
	reason := tty.Failed
	if e := (*tty.Error)(nil); errors.As(err, &e) {
		reason = e.Reason
	}
	if r.tell(reason, r.clock.Now()) {
		r.log.Warn("no readings: the port cannot be used; trying again until it can", "reason", reason, "err", err)
	}
}

// tell emits a bad reading for each metric, if it is time for that.
func (r *run) tell(reason string, at devices.Instant) bool {
	if !r.bad.Due(reason, at) {
		return false
	}
	readings := make([]devices.Reading, len(r.Metrics))
	for i, m := range r.Metrics {
		readings[i] = devices.Reading{Metric: m.Name, Unit: m.Unit, Quality: devices.Bad, Reason: reason, At: at}
	}
	r.emit(readings)
	return true
}

func (r *run) emit(readings []devices.Reading) {
	for i := range readings {
		r.at = max(r.at, readings[i].At)
		readings[i].At = r.at
	}
	r.sink.Emit(readings...)
}

// chunk is what one read brought, and when.
type chunk struct {
	data []byte
	at   devices.Instant
	err  error // the last one: why there is no more
}

// read passes on what the port brings until it fails or stop is closed. A stop ends
// it within the port's read timeout, as long as somebody takes from out.
func read(p *tty.Port, clock devices.Clock, out chan<- chunk, stop <-chan struct{}) {
	defer close(out)
	buf := make([]byte, readSize)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, err := p.Read(buf)
		if n == 0 && err == nil {
			continue
		}
		c := chunk{at: clock.Now(), err: err}
		if n > 0 {
			c.data = append([]byte(nil), buf[:n]...)
		}
		out <- c
		if err != nil {
			return
		}
	}
}

// session is the time that a port is open. It returns when the port has failed or ctx
// has ended; then the port is closed, the reader gone, and all that the reader had is
// decoded and with the sink.
func (r *run) session(ctx context.Context) error {
	p, note, err := tty.Open(r.Port, r.Mode)
	if err != nil {
		return err
	}
	s := r.begin(p)
	r.log.Info("port open", "baud", r.Mode.Baud)
	if note != "" {
		r.log.Warn(note)
	}
	chunks := make(chan chunk, readAhead)
	stop := make(chan struct{})
	go read(p, r.clock, chunks, stop)
	err = s.loop(ctx, chunks)
	close(stop)
	for c := range chunks {
		s.bytes(c)
	}
	// A port that failed has no more chunks, so this is at once: an open descriptor makes
	// a USB adapter come back under another name.
	p.Close()
	s.decoder.End()
	if r.clock.Now()-s.opened >= MaxWait {
		r.wait = 0
	}
	return err
}

// loop ends with the read error, or with nil when ctx has ended.
func (s *Session) loop(ctx context.Context, chunks <-chan chunk) error {
	stale := s.after(s.StaleAfter, s.StaleAfter > 0)
	look := s.after(errorPoll, s.counts)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-chunks:
			if !ok {
				return os.ErrClosed
			}
			s.bytes(c)
			if c.err != nil {
				return c.err
			}
		case <-stale:
			stale = s.after(s.idle(len(chunks) > 0), true)
		case <-look:
			s.lookAtErrors()
			look = s.after(errorPoll, s.counts)
		}
	}
}
