package broker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func scrape(t *testing.T, b *Broker) string {
	t.Helper()
	w := httptest.NewRecorder()
	MetricsHandler(b).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestEveryCounterIsExported: whatever Stats counts, and whatever a queue drops, is in /metrics.
func TestEveryCounterIsExported(t *testing.T) {
	b, _ := openConsole(t)
	n := uint64(1 << 40)
	var want []string
	var fill func(name string, v reflect.Value)
	fill = func(name string, v reflect.Value) {
		if c, is := v.Addr().Interface().(*atomic.Uint64); is {
			n++
			c.Store(n)
			want = append(want, fmt.Sprintf("%s %d", name, n))
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(name+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				fill(fmt.Sprint(name, i), v.Index(i))
			}
		default:
			t.Errorf("%s is no counter", name)
		}
	}
	fill("Stats", reflect.ValueOf(b.Stats()).Elem())
	fill("discards.messages", reflect.ValueOf(&b.discards.messages).Elem())
	fill("discards.batches", reflect.ValueOf(&b.discards.batches).Elem())
	fill("door.accepted", reflect.ValueOf(&b.door.Accepted).Elem())
	fill("door.refused", reflect.ValueOf(&b.door.Refused).Elem())
	fill("tail.drops", reflect.ValueOf(&b.tail.drops).Elem())
	fill("tracer.lost", reflect.ValueOf(&b.tracer.lost).Elem())
	text := scrape(t, b)
	values := map[string]bool{}
	for _, l := range strings.Split(text, "\n") {
		if _, v, ok := strings.Cut(strings.TrimPrefix(l, "#"), " "); ok {
			var f float64
			if _, err := fmt.Sscan(v[strings.LastIndexByte(v, ' ')+1:], &f); err == nil {
				values[fmt.Sprintf("%.0f", f)] = true
			}
		}
	}
	sums := map[string]bool{"Stats.Refused": true, "Stats.StoreRefused": true} // of those with a reason
	for _, w := range want {
		name, value, _ := strings.Cut(w, " ")
		if !values[value] && !sums[name] {
			t.Errorf("%s is counted and not in /metrics", name)
		}
	}
}

// TestMetricsAreListed: docs/METRICS.md has every metric of a node of a cluster, with its type, labels and help, and no
// other.
func TestMetricsAreListed(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.cfgs[0].Auth = newTestUsers().links() // what is about them is not there without
	l := &c.cfgs[0].Listen
	l.MQTTS = "127.0.0.1:0"
	l.CertFile, l.KeyFile, _ = certificate(t)
	c.begin()
	text := scrape(t, c.up[0].Broker)
	help, kind, labels := map[string]string{}, map[string]string{}, map[string][]string{}
	sample := regexp.MustCompile(`^(` + metricPrefix + `\w+)(?:\{([^}]*)\})? `)
	for _, l := range strings.Split(text, "\n") {
		if rest, is := strings.CutPrefix(l, "# HELP "+metricPrefix); is {
			name, words, _ := strings.Cut(rest, " ")
			help[name] = words
		} else if rest, is := strings.CutPrefix(l, "# TYPE "+metricPrefix); is {
			name, what, _ := strings.Cut(rest, " ")
			kind[name] = what
		} else if m := sample.FindStringSubmatch(l); m != nil {
			names := []string{}
			for _, pair := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
				names = append(names, pair[1])
			}
			slices.Sort(names)
			labels[strings.TrimPrefix(m[1], metricPrefix)] = names
		}
	}
	var want []string
	for name := range help {
		l := ""
		if len(labels[name]) > 0 {
			l = "`" + strings.Join(labels[name], "`, `") + "`"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", name, kind[name], l, help[name]))
	}
	doc, err := os.ReadFile("../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	var has []string
	for _, l := range strings.Split(string(doc), "\n") {
		if strings.HasPrefix(l, "| `") {
			has = append(has, l)
		}
	}
	slices.Sort(want)
	slices.Sort(has)
	for _, l := range want {
		if !slices.Contains(has, l) {
			t.Errorf("docs/METRICS.md should have the line\n%s", l)
		}
	}
	for _, l := range has {
		if !slices.Contains(want, l) {
			t.Errorf("docs/METRICS.md has a line that is not so\n%s", l)
		}
	}
}
