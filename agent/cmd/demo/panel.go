package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// view is what the panel shows of one moment.
type view struct {
	elapsed       time.Duration
	broker, agent bool   // is it running?
	nodes         []lamp // of a cluster
	written       uint64 // readings on the wire so far
	counts        counts // at the subscriber
}

// lamp is a node of the cluster.
type lamp struct {
	name  string
	on    bool // it runs
	ready bool
	says  string // how it fares, who is connected to it
}

func (l lamp) words() string { return strings.TrimSpace(l.name + " " + l.says) }

func (v view) buffered() uint64 {
	if v.counts.readings > v.written {
		return 0
	}
	return v.written - v.counts.readings
}

// panel shows the progress: in a terminal as a picture that is drawn over itself, else
// as a line every five seconds.
type panel struct {
	w     io.Writer
	live  bool
	color bool
	width int

	number, total int
	says          string
	height        int           // of the picture on the screen
	nextLine      time.Duration // when the next plain line is due
	rates         []uint64      // readings delivered in each second
	rateAt        time.Duration
	rateFrom      uint64
}

func newPanel(f *os.File) *panel {
	p := &panel{w: f, width: 80}
	if term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.live, p.color = true, os.Getenv("NO_COLOR") == ""
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			p.width = w
		}
		fmt.Fprint(f, "\x1b[?25l\n") // the cursor would flicker
	}
	return p
}

func (p *panel) act(number, total int, says string) {
	p.number, p.total, p.says = number, total, says
	p.nextLine = 0
	if !p.live {
		fmt.Fprintf(p.w, "%d/%d %s\n", number, total, says)
		p.nextLine = -1
	}
}

func (p *panel) show(v view) {
	p.sample(v)
	if p.live {
		p.draw(v)
		return
	}
	if p.nextLine < 0 {
		p.nextLine = v.elapsed + 5*time.Second
	}
	if v.elapsed >= p.nextLine {
		p.nextLine = v.elapsed + 5*time.Second
		fmt.Fprintf(p.w, "  %2.0f s  taken %d  delivered %d  buffered %d  duplicates %d  signatures %d good, %d bad%s\n",
			v.elapsed.Seconds(), v.written, v.counts.readings, v.buffered(), v.counts.again, v.counts.good, v.counts.bad, v.nodeWords())
	}
}

// nodeWords is the cluster in a plain line.
func (v view) nodeWords() string {
	var b strings.Builder
	for i, n := range v.nodes {
		b.WriteString([]string{"  ", ", "}[min(i, 1)] + n.words())
	}
	return b.String()
}

// sample keeps how many readings arrived in each second.
func (p *panel) sample(v view) {
	for v.elapsed >= p.rateAt+time.Second {
		p.rates = append(p.rates, v.counts.readings-p.rateFrom)
		p.rateFrom = v.counts.readings
		p.rateAt += time.Second
	}
}

// The styles of the picture (ECMA-48 SGR).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (p *panel) paint(style, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

func (p *panel) lamp(name string, on bool) string {
	if on {
		return p.paint(green, "●") + " " + name
	}
	return p.paint(red, "○") + " " + p.paint(dim, name+" is dead")
}

// nodes is a line of the picture, and no line with one broker.
func (p *panel) nodes(nodes []lamp) []string {
	if nodes == nil {
		return nil
	}
	line := "  "
	for _, n := range nodes {
		style, sign := green, "●"
		switch {
		case !n.on:
			style, sign = red, "○"
		case !n.ready:
			style = yellow
		}
		line += p.paint(style, sign) + " " + n.words() + strings.Repeat(" ", max(2, 18-utf8.RuneCountInString(n.words())))
	}
	return []string{strings.TrimRight(line, " ")}
}

func (p *panel) draw(v view) {
	room := max(10, min(p.width, 100)-30)
	bar := func(n uint64, style string) string {
		if v.written == 0 {
			return ""
		}
		return p.paint(style, strings.Repeat("█", int(uint64(room)*min(n, v.written)/v.written)))
	}
	row := func(name string, n uint64, style string) string {
		return fmt.Sprintf("  %-11s%9s  %s", name, thousands(n), bar(n, style))
	}
	marks := strings.Repeat("■", p.number) + strings.Repeat("□", p.total-p.number)
	broker := "broker"
	if v.nodes != nil {
		broker = "cluster"
	}
	lines := []string{
		fmt.Sprintf("  %s  %s", p.paint(bold, "Holdfast"), p.paint(dim, fmt.Sprintf("%02d:%02d", int(v.elapsed.Minutes()), int(v.elapsed.Seconds())%60))),
		"",
		fmt.Sprintf("  %s  %s", p.paint(cyan, marks), clip(p.says, p.width-4-p.total)),
		"",
		fmt.Sprintf("  %s ─── %s ─── %s ─── %s", p.lamp("meter", true), p.lamp("agent", v.agent), p.lamp(broker, v.broker), p.lamp("subscriber", true)),
	}
	lines = append(lines, p.nodes(v.nodes)...)
	lines = append(lines,
		"",
		row("taken", v.written, cyan),
		row("delivered", v.counts.readings, green),
		row("buffered", v.buffered(), yellow),
		fmt.Sprintf("  %-11s%9s  %s", "duplicates", thousands(v.counts.again), p.paint(dim, "messages that came twice, and are counted once")),
		fmt.Sprintf("  %-11s%9s  %s", "signatures", thousands(v.counts.good), p.signatures(v.counts.bad)),
		"",
		fmt.Sprintf("  %s %s", p.paint(dim, "delivered per second"), p.paint(green, spark(p.rates, min(p.width, 100)-26))),
	)
	var b strings.Builder
	if p.height > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.height)
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[2K" + l + "\n")
	}
	p.height = len(lines)
	io.WriteString(p.w, b.String())
}

func (p *panel) signatures(bad uint64) string {
	if bad > 0 {
		return p.paint(red, fmt.Sprintf("good, %d BAD", bad))
	}
	return p.paint(dim, "checked by the subscriber, none bad")
}

func (p *panel) close() {
	if p.live {
		fmt.Fprint(p.w, "\x1b[?25h\n")
	}
}

// spark draws the latest of ns as little columns.
func spark(ns []uint64, room int) string {
	if room < 1 {
		return ""
	}
	if len(ns) > room {
		ns = ns[len(ns)-room:]
	}
	top := uint64(1)
	for _, n := range ns {
		top = max(top, n)
	}
	var b strings.Builder
	for _, n := range ns {
		if n == 0 {
			b.WriteRune('_')
			continue
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[min(7, n*8/(top+1))])
	}
	return b.String()
}

func clip(s string, n int) string {
	r := []rune(s)
	if n < 1 || len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// thousands writes 12345 as "12 345".
func thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
