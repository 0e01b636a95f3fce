package modbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

// Scan looks for slaves on a serial line whose settings nobody knows, or behind a TCP
// server: it asks every slave number, at every setting, for one holding register. Whoever
// answers, be it by an exception, is there.
//
// It disturbs the line: nobody else may be master of it meanwhile. It writes nothing.
type Scan struct {
	Port    string // a serial line, or
	Server  string // host:port
	Bauds   []int
	Frames  []string // "8N1"
	RS485   string   // as the setting "rs485"
	Slaves  []byte
	Timeout time.Duration // for each request
	Count   int           // requests to each slave that was found: for its latency and errors
	All     bool          // go on after a setting at which slaves answered
	Clock   devices.Clock

	// Step, if not nil, is called before each slave is asked.
	Step func(Step)

	open func(busConfig, devices.Clock) opener // in tests; nil: openLink
}

// Step is how far a scan is.
type Step struct {
	Setting     string // "9600 8N1", or the server
	Slave       byte
	Done, Total int // requests, if nobody answers
	Found       int // slaves
}

// Found is a slave that answered.
type Found struct {
	Slave     byte    `json:"slave"`
	Baud      int     `json:"baud,omitempty"`
	Frame     string  `json:"frame,omitempty"`
	Server    string  `json:"server,omitempty"`
	Answer    string  `json:"answer"` // "register" or its exception
	Requests  int     `json:"requests"`
	Answers   int     `json:"answers"`
	Timeouts  int     `json:"timeouts"`
	CRCErrors int     `json:"crc_errors"`
	MinMS     float64 `json:"latency_min_ms"`
	MeanMS    float64 `json:"latency_mean_ms"`
	MaxMS     float64 `json:"latency_max_ms"`
}

// Scanned is what a scan brought.
type Scanned struct {
	Found []Found  `json:"found"`
	Heard []string `json:"heard"` // settings at which something came that no slave's answer was
	Done  int      `json:"done"`  // requests to see who is there
	Total int      `json:"total"`
}

// setting is one way to set the line.
type setting struct {
	busConfig
	found Found // what all its slaves have in common
}

// Check tells what is wrong with it; the keys are the command's flags.
func (s *Scan) Check() []devices.Problem {
	_, problems := s.settings()
	return problems
}

func (s *Scan) settings() (out []setting, problems []devices.Problem) {
	bad := func(key, message string) { problems = append(problems, devices.Problem{Key: key, Message: message}) }
	if len(s.Slaves) == 0 {
		bad("slaves", "none: want numbers such as 1-32")
	}
	if s.Timeout < time.Millisecond || s.Count < 1 {
		bad("timeout", "want a timeout of at least 1ms, and a count of at least 1")
	}
	if (s.Port == "") == (s.Server == "") {
		bad("port", "want a serial port or a server")
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if s.Server == "" && (slices.Min(s.Slaves) < 1 || slices.Max(s.Slaves) > 247) { // V1.02 section 2.2
		bad("slaves", "on a serial line they are 1 to 247")
	}
	if s.Server != "" {
		at := s.Server
		if _, _, err := net.SplitHostPort(at); err != nil {
			at = net.JoinHostPort(at, tcpPort)
		}
		return []setting{{busConfig{server: at}, Found{Server: at}}}, problems
	}
	for _, b := range s.Bauds {
		for _, f := range s.Frames {
			mode, wrong := tty.ParseMode(b, f)
			for _, p := range wrong {
				if !p.Warning {
					bad(p.Key+"s", p.Message)
				}
			}
			if len(problems) > 0 {
				return nil, problems
			}
			out = append(out, setting{
				busConfig{port: s.Port, mode: mode, pause: silence(mode), turn: tty.Turn{By: s.RS485}}, Found{Baud: b, Frame: f},
			})
		}
	}
	if len(out) == 0 {
		bad("bauds", "no baud rates, or no frames")
	}
	return out, problems
}

// Longest is how long the scan takes if nobody answers.
func (s *Scan) Longest() (d time.Duration) {
	settings, _ := s.settings()
	for _, c := range settings {
		each := s.Timeout
		if !c.tcp() {
			each += c.mode.Chars(8) + c.pause
			d += s.patient() - s.Timeout
		}
		d += time.Duration(len(s.Slaves)) * each
	}
	return d
}

// Run scans until it is through, or ctx ends: then the error is the context's and
// Scanned has what was found until then. Any other error is the port's or the server's.
func (s *Scan) Run(ctx context.Context) (Scanned, error) {
	settings, problems := s.settings()
	out := Scanned{Found: []Found{}, Heard: []string{}, Total: len(settings) * len(s.Slaves)}
	if len(problems) > 0 {
		return out, fmt.Errorf("%s: %s", problems[0].Key, problems[0].Message)
	}
	for _, c := range settings {
		before := len(out.Found)
		if err := s.at(ctx, c, &out); err != nil {
			return out, err
		}
		if len(out.Found) > before && !s.All {
			break
		}
	}
	return out, nil
}

// at asks all slaves at one setting.
func (s *Scan) at(ctx context.Context, c setting, out *Scanned) error {
	open := s.open
	if open == nil {
		open = openLink
	}
	l, _, err := open(c.busConfig, s.Clock)(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	before := len(out.Found)
	look := scanning{Scan: s, setting: c, out: out, talker: &talker{busConfig: c.busConfig, clock: s.Clock, link: l, free: s.Clock.Now() + c.pause}}
	for _, slave := range s.Slaves {
		if s.Step != nil {
			s.Step(Step{Setting: c.String(), Slave: slave, Done: out.Done, Total: out.Total, Found: len(out.Found)})
		}
		if err := look.at(ctx, slave, s.Timeout, s.patient()); err != nil {
			return err
		}
		out.Done++
	}
	if !c.tcp() { // the last ones may be slow
		if err := pass(ctx, s.Clock, s.patient()-s.Timeout); err != nil {
			return err
		}
		rest, _, _ := l.in().take(nil)
		if err := look.late(ctx, rest); err != nil {
			return err
		}
	}
	slices.SortFunc(out.Found[before:], func(a, b Found) int { return int(a.Slave) - int(b.Slave) })
	if look.heard && !look.any {
		out.Heard = append(out.Heard, c.String())
	}
	return nil
}

func (c setting) String() string {
	if c.tcp() {
		return c.server
	}
	return c.mode.String()
}

// scanning is a scan at one setting.
type scanning struct {
	*Scan
	setting setting
	out     *Scanned
	talker  *talker
	any     bool // a slave was found
	heard   bool // something came that no slave's answer was
}

// patient is how long a slave has that was heard.
func (s *Scan) patient() time.Duration { return max(2*s.Timeout, time.Second) }

func (l *scanning) has(slave byte) bool {
	for _, f := range l.out.Found {
		if f.Slave == slave && f.Baud == l.setting.found.Baud && f.Frame == l.setting.found.Frame {
			return true
		}
	}
	return false
}

var probe = request{function: readHoldings, address: 0, quantity: 1}

// at looks for one slave; if something else is heard, also for whoever that is. The
// error is the link's or the context's.
func (l *scanning) at(ctx context.Context, slave byte, timeout, patient time.Duration) error {
	f := l.setting.found
	f.Slave, f.MinMS = slave, math.Inf(1)
	for f.Requests < l.Count {
		rep, err := l.talker.ask(ctx, slave, probe, timeout)
		f.Requests++
		if rep.crc {
			f.CRCErrors++
		}
		code := Exception(0)
		isException := errors.As(err, &code)
		switch {
		case err == nil:
			f.Answer = "register"
		case isException:
			f.Answer = code.Error()
		case errors.Is(err, errTimeout):
			f.Timeouts++
		case !errors.Is(err, errDamaged):
			return err
		}
		switch {
		case isException && code.absent():
			return nil
		case err == nil || isException:
			f.add(rep.latency)
		case f.Answers > 0:
		case rep.foreign == 0 && rep.stale == 0:
			return nil
		case patient > timeout:
			l.heard = true
			return l.late(ctx, clone(l.talker.buf), slave)
		default:
			l.heard = true
			return nil
		}
	}
	f.MeanMS /= float64(f.Answers)
	f.MinMS, f.MeanMS, f.MaxMS = hundredths(f.MinMS), hundredths(f.MeanMS), hundredths(f.MaxMS)
	l.out.Found = append(l.out.Found, f)
	l.any = true
	return nil
}

// late looks again, with patience, for the slaves whose answers came too late, and for
// those that are suspected.
func (l *scanning) late(ctx context.Context, heard []byte, suspects ...byte) error {
	for _, slave := range l.Slaves {
		came := !l.setting.tcp() && findRTU(heard, slave, probe).pdu != nil
		if (came || slices.Contains(suspects, slave)) && !l.has(slave) {
			if err := l.at(ctx, slave, l.patient(), l.patient()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Found) add(latency time.Duration) {
	ms := float64(latency) / float64(time.Millisecond)
	f.Answers++
	f.MinMS, f.MaxMS = min(f.MinMS, ms), max(f.MaxMS, ms)
	f.MeanMS += ms
}

func hundredths(v float64) float64 { return math.Round(100*v) / 100 }
