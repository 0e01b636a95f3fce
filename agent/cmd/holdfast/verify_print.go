package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"holdfast/uplink/wire"
)

// verdict is a message as verify --json prints it.
type verdict struct {
	OK        bool              `json:"ok"`
	Where     string            `json:"where,omitempty"` // file and line
	Topic     string            `json:"topic"`
	Error     string            `json:"error,omitempty"`
	Gateway   string            `json:"gateway,omitempty"`
	Device    string            `json:"device,omitempty"`
	Epoch     string            `json:"epoch,omitempty"`
	Seq       uint64            `json:"seq,omitempty"`
	Type      string            `json:"type,omitempty"`
	Kid       string            `json:"kid,omitempty"`
	Endorsed  string            `json:"endorsed_by,omitempty"`   // kid of the key that vouched for kid
	Clock     string            `json:"clock,omitempty"`         // "synced", "anchored" (resolved later) or "unsynced" (times are lower bounds)
	TimeBound int64             `json:"time_bound_us,omitempty"` // how far an anchored time may be off
	Tags      map[string]string `json:"tags,omitempty"`          // of all its readings
	Readings  []readingJSON     `json:"readings,omitempty"`
}

// readingJSON is one reading; bytes are base64url, as in SenML.
type readingJSON struct {
	Metric  string   `json:"metric"`
	V       *float64 `json:"v,omitempty"`
	VS      *string  `json:"vs,omitempty"`
	VB      *bool    `json:"vb,omitempty"`
	VD      *string  `json:"vd,omitempty"`
	Unit    string   `json:"unit,omitempty"`
	Time    string   `json:"time"`
	Quality string   `json:"quality"`
	Reason  string   `json:"reason,omitempty"`
}

// clock says how a message's times came about.
func (j *judged) clock() string {
	switch {
	case !j.time.Synced:
		return wire.ClockUnsynced
	case j.Clock == wire.ClockUnsynced:
		return "anchored"
	}
	return wire.ClockSynced
}

func stamp(p wire.Pack, r wire.Record) string {
	return p.Base.Add(r.Time).UTC().Format("2006-01-02T15:04:05.000000Z")
}

func quality(r wire.Record) string {
	if r.Quality == wire.Good {
		return "good"
	}
	return r.Quality
}

func (v *verifier) print(j judged, m wire.Message) {
	if v.asJSON {
		v.printJSON(verdict{
			OK: true, Topic: m.Topic, Gateway: j.Gateway, Device: j.Device, Epoch: j.Epoch, Seq: j.Seq, Type: j.Type, Kid: j.Kid,
			Endorsed: j.endorsed, Clock: j.clock(), TimeBound: j.time.Bound.Microseconds(), Tags: j.pack.Tags, Readings: readingsJSON(j.pack),
		})
		return
	}
	unsure := " "
	if !j.time.Synced {
		unsure = "~"
	}
	tags := ""
	if len(j.pack.Tags) > 0 {
		tags = "  {" + wire.FormatTags(j.pack.Tags) + "}"
	}
	for _, r := range j.pack.Records {
		fmt.Fprintf(v.out, "%s%s  %s/%s  %s #%d  %s%s\n", unsure, stamp(j.pack, r), j.Gateway, j.Device, j.Epoch, j.Seq, said(j, r), tags)
	}
}

// said is a reading for people. Text of data is quoted: it may be anything.
func said(j judged, r wire.Record) string {
	if j.Type != wire.TypeData {
		s := r.Name + " " + harmless(*r.VS) // JSON
		if j.endorsed != "" {
			s += "  (key " + j.Kid + ", endorsed by " + j.endorsed + ")"
		}
		return s
	}
	var value string
	switch {
	case r.V != nil:
		b, _ := json.Marshal(*r.V) // finite: it was decoded
		value = string(b)
	case r.VS != nil:
		value = fmt.Sprintf("%q", *r.VS)
	case r.VB != nil:
		value = fmt.Sprint(*r.VB)
	case r.VD != nil:
		value = fmt.Sprintf("0x%x", r.VD)
	}
	parts := []string{r.Name}
	for _, s := range []string{value, r.Unit} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if r.Quality != wire.Good {
		parts = append(parts, r.Quality)
		if r.Reason != "" {
			parts = append(parts, fmt.Sprintf("%q", r.Reason))
		}
	}
	return strings.Join(parts, " ")
}

// harmless quotes what could move a terminal's cursor.
func harmless(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func readingsJSON(p wire.Pack) []readingJSON {
	list := make([]readingJSON, len(p.Records))
	for i, r := range p.Records {
		list[i] = readingJSON{
			Metric: r.Name, V: r.V, VS: r.VS, VB: r.VB, Unit: r.Unit, Time: stamp(p, r), Quality: quality(r), Reason: r.Reason,
		}
		if r.VD != nil {
			s := base64.RawURLEncoding.EncodeToString(r.VD)
			list[i].VD = &s
		}
	}
	return list
}

// printBad says which message is bad and why.
func (v *verifier) printBad(where string, m wire.Message, err error) {
	if v.asJSON {
		bad := verdict{Where: where, Topic: m.Topic, Error: err.Error()}
		if h, err := wire.Inspect(m); err == nil { // what it claims
			bad.Gateway, bad.Device, bad.Epoch, bad.Seq, bad.Type, bad.Kid = h.Gateway, h.Device, h.Epoch, h.Seq, h.Type, h.Kid
		}
		v.printJSON(bad)
		return
	}
	if where == "" {
		where = time.Now().UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(v.out, "BAD %s  topic %q: %s\n", where, m.Topic, harmless(err.Error()))
}

func (v *verifier) printJSON(d verdict) {
	e := json.NewEncoder(v.out)
	e.SetEscapeHTML(false)
	_ = e.Encode(d) // strings and finite numbers; the writer keeps its error for Flush
}
