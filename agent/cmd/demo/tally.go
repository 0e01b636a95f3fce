package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
)

// tally is what arrived at the subscriber. Safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	messages uint64
	control  uint64
	good     uint64            // signatures
	bad      map[string]uint64 // signatures that are not, by reason
	seen     map[string]bool   // identities of messages
	again    uint64            // messages whose identity was seen before
	numbers  map[uint64]int    // of the metric n: how often
	weights  map[uint64]int    // of the metric weight, in hundredths
	quality  map[string]uint64 // readings that say that something was wrong, by what they say
	strange  uint64            // records of no known kind
}

func newTally() *tally {
	return &tally{bad: map[string]uint64{}, seen: map[string]bool{}, numbers: map[uint64]int{}, weights: map[uint64]int{}, quality: map[string]uint64{}}
}

// message counts one message that arrived. err: its signature is not good.
func (t *tally) message(h header, payload []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.messages++
	if err != nil {
		t.bad[err.Error()]++
		return
	}
	t.good++
	id := fmt.Sprintf("%s/%s/%s/%d", h.Gw, h.Dev, h.Epoch, h.Seq)
	switch {
	case t.seen[id]:
		t.again++
		return
	case h.Dev != deviceName:
		t.control++
	default:
		t.pack(payload)
	}
	t.seen[id] = true
}

// record is a SenML record (RFC 8428 section 4) as far as the meter's lines need it.
type record struct {
	BaseName string   `json:"bn"`
	Name     string   `json:"n"`
	Value    *float64 `json:"v"`
	Text     *string  `json:"vs"`
}

func (t *tally) pack(payload []byte) {
	var records []record
	if err := json.Unmarshal(payload, &records); err != nil {
		t.bad["SenML: "+err.Error()]++
		return
	}
	base := ""
	for _, r := range records {
		if r.BaseName != "" {
			base = r.BaseName
		}
		name := base + r.Name
		name = name[strings.LastIndex(name, "/")+1:]
		switch {
		case name == "n" && r.Value != nil:
			t.numbers[uint64(*r.Value)]++
		case name == "weight" && r.Value != nil:
			t.weights[uint64(math.Round(*r.Value*100))]++
		case strings.HasSuffix(name, ":quality") && r.Text != nil:
			t.quality[*r.Text]++
		default:
			t.strange++
		}
	}
}

// counts is what the panel shows.
type counts struct{ messages, readings, again, good, bad uint64 }

func (t *tally) counts() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := counts{messages: t.messages, readings: uint64(len(t.numbers) + len(t.weights)), again: t.again, good: t.good}
	for _, n := range t.bad {
		c.bad += n
	}
	return c
}

// compare holds what arrived against the lines 1 to n: how many values each line
// lacks, how many different ones came, how many came again under another identity,
// and how many belong to no line.
func (t *tally) compare(n uint64) (lacking map[uint64]uint64, values, twice, foreign uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lacking = map[uint64]uint64{}
	known := map[uint64]bool{}
	for line := uint64(1); line <= n; line++ {
		w := weightOf(line)
		known[w] = true
		for _, times := range []int{t.numbers[line], t.weights[w]} {
			if times == 0 {
				lacking[line]++
				continue
			}
			values++
			twice += uint64(times - 1)
		}
	}
	for line := range t.numbers {
		if line < 1 || line > n {
			foreign++
		}
	}
	for w := range t.weights {
		if !known[w] {
			foreign++
		}
	}
	return lacking, values, twice, foreign
}
