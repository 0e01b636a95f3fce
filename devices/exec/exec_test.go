package exec

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/text"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shown(rs []devices.Reading) string {
	var out []string
	for _, r := range rs {
		out = append(out, drivertest.Show(r))
	}
	return strings.Join(out, " ")
}

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		in, want string
		bad      uint64
		fate     text.Fate
	}{
		{`{"temperature": 21.5, "door": true, "state": "idle"}`, `door=true state="idle" temperature=21.5Cel`, 0, text.Taken},
		{`{"a":{"b":1,"c":{"d":2}},"l":[1,{"x":2}]}`, "a.b=1 a.c.d=2 l.0=1 l.1.x=2", 0, text.Taken},
		{`{"n":null,"big":9007199254740993,"huge":1e999,"ok":9007199254740992}`, "big=9.007199254740992e+15 uncertain:rounded huge= bad:not-finite n= bad:null ok=9.007199254740992e+15", 0, text.Taken},
		{`{"no name":1,"ok":2,"":3}`, "ok=2", 2, text.Taken},
		{`{}`, "", 0, text.Taken}, {" ", "", 0, text.Ignored}, {`[1]`, "", 0, text.Unmatched}, {`7`, "", 0, text.Unmatched},
		{`{"a":1`, "", 0, text.Undecodable}, {`{"a":1} x`, "", 0, text.Undecodable}, {`hello`, "", 0, text.Undecodable},
		{`{"a":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}", "", 1, text.Taken},
	} {
		got, bad, f := fromJSON([]byte(c.in), map[string]string{"temperature": "Cel"}, 1)
		if shown(got) != c.want || bad != c.bad || f != c.fate {
			t.Errorf("%s: %s, %d bad, fate %d; want %s, %d, %d", c.in, shown(got), bad, f, c.want, c.bad, c.fate)
		}
	}
}

func TestSenML(t *testing.T) {
	for _, c := range []struct {
		in, want string
		bad      uint64
		fate     text.Fate
	}{
		// RFC 8428 section 5.1.3, its times apart.
		{`[{"bn":"urn:dev:ow:10e2073a0108006:","bu":"A","bver":10,"n":"voltage","u":"V","v":120.1},{"n":"current","v":1.2}]`, "voltage=120.1V current=1.2A", 0, text.Taken},
		{`[{"n":"a","vs":"x"},{"n":"b","vb":false},{"n":"c","vd":"aGk"},{"n":"d","s":3},{"bv":100,"n":"e","v":1}]`, `a="x" b=false c=6869 d=3 e=101`, 0, text.Taken},
		{`[{"bn":"room/"},{"n":"t"},{"n":"u","vd":"!"},7]`, "", 3, text.Taken},
		{`[{"n":"a","v":1,"must_":2}]`, "", 0, text.Unmatched}, {`[{"bver":11,"n":"a","v":1}]`, "", 0, text.Unmatched}, {`{"n":"a","v":1}`, "", 0, text.Unmatched}, {`[`, "", 0, text.Undecodable},
	} {
		got, bad, f := fromSenML([]byte(c.in), time.Hour)
		if shown(got) != c.want || bad != c.bad || f != c.fate {
			t.Errorf("%s: %s, %d bad, fate %d; want %s, %d, %d", c.in, shown(got), bad, f, c.want, c.bad, c.fate)
		}
	}
	got, _, _ := fromSenML([]byte(`[{"bt":-5,"n":"a","v":1},{"n":"b","t":-5,"v":1},{"n":"c","t":5,"v":1},{"n":"d","t":1790000000,"v":1},{"n":"e","t":-1e99,"v":1}]`), time.Hour)
	for i, want := range []time.Duration{time.Hour - 5*time.Second, time.Hour - 10*time.Second, time.Hour, time.Hour, time.Hour} {
		if got[i].At != want {
			t.Errorf("%s is at %v, want %v", got[i].Metric, got[i].At, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,true,"x",null]},"c":1e5}`))
	f.Add([]byte(`[{"bn":"x:","bt":-5,"bu":"V","bv":1,"n":"a","v":1,"t":-3},{"n":"b","vd":"aGk="}]`))
	f.Fuzz(func(t *testing.T, line []byte) {
		a, _, _ := fromJSON(line, nil, time.Hour)
		b, _, _ := fromSenML(line, time.Hour)
		for _, r := range append(a, b...) {
			if err := devices.Validate(r); err != nil {
				t.Error(err)
			}
		}
	})
}

// script makes settings that run a shell script.
func script(t testing.TB, format, body string) *Settings {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	s := defaults()
	s.Command, s.Format = []string{file}, format
	return s
}

func (b *bench) count(name string, n uint64) {
	b.Helper()
	b.Drive(fmt.Sprint(name, " ≥ ", n), func(_ []devices.Reading, c map[string]uint64) bool { return c[name] >= n })
}

type bench struct{ *drivertest.Bench }

func begin(t testing.TB, s *Settings) *bench {
	return &bench{drivertest.Start(t, Driver{}, s, longWait)}
}

// gone waits until nobody has a process number any more.
func gone(t *testing.T, pids ...string) {
	t.Helper()
	for _, p := range pids {
		pid, err := strconv.Atoi(strings.TrimSpace(p))
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(drivertest.Patience); unix.Kill(pid, 0) == nil; {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if fields := strings.Fields(string(stat)); len(fields) > 2 && fields[2] == "Z" {
				break // ended; its new parent has not looked yet
			}
			if time.Now().After(end) {
				t.Fatalf("process %d is left: %s", pid, stat)
			}
			<-time.After(time.Millisecond)
		}
	}
}

// TestNothingIsLeft: a program that does not want to end, and what it started, end with the device.
func TestNothingIsLeft(t *testing.T) {
	s := script(t, formatText, `trap "" TERM
sleep 1000 &
echo "pids $$ $!"
while :; do sleep 1000; done
`)
	s.Pattern, s.Types = `^pids (?P<a>\d+) (?P<b>\d+)$`, map[string]string{"a": "text", "b": "text"}
	b := begin(t, s)
	b.count("lines_ok", 1)
	r := b.Readings()
	b.Stop()
	gone(t, r[0].Value.Text, r[1].Value.Text)
}

// TestOrphan: what a program leaves behind when it ends does not keep its place.
func TestOrphan(t *testing.T) {
	s := script(t, formatText, `sleep 1000 &
echo "$!"
exit 3
`)
	s.Pattern, s.Types = `^(?P<pid>\d+)$`, map[string]string{"pid": "text"}
	b := begin(t, s)
	b.count("restarts", 2)
	b.Stop()
	var pids []string
	for _, r := range b.Readings() {
		if r.Quality == devices.Good {
			pids = append(pids, r.Value.Text)
		} else if r.Reason != "failed" {
			t.Errorf("%+v", r)
		}
	}
	gone(t, pids...)
}

// TestSchedule: a program that prints and ends, one that fails, one that does not end.
func TestSchedule(t *testing.T) {
	dir := t.TempDir()
	s := script(t, formatJSON, `n=$(cat n 2>/dev/null || echo 0); n=$((n+1)); echo $n > n
echo "turn $n" >&2
case $n in
2) exit 7;;
3) echo '{"n": 3}'; exec sleep 1000;;
esac
printf '{"n": %d, "who": "%s"}' $n "$WHO"
`)
	s.Dir, s.Env, s.Every, s.Timeout = dir, map[string]string{"WHO": "me"}, time.Minute, 30*time.Second
	b := begin(t, s)
	until := func(what string) {
		t.Helper()
		b.Wait(t, what, func(r []devices.Reading, _ map[string]uint64) bool { return strings.Contains(shown(r), what) })
	}
	for _, turn := range []struct {
		what string
		then time.Duration
	}{
		{`n=1 who="me"`, time.Minute}, {"n= bad:failed who= bad:failed", time.Minute}, {"n=3", 30 * time.Second},
		{"n=3 n= bad:timeout who= bad:timeout", 30 * time.Second}, {`n=4 who="me"`, time.Minute}, {`n=5 who="me"`, 0},
	} {
		until(turn.what)
		b.Clock.Advance(turn.then)
	}
	b.Stop()
	if c := b.Counts(); c["stderr_lines"] < 5 {
		t.Errorf("%v", c)
	}
}

func TestNotThere(t *testing.T) {
	s := defaults()
	s.Command = []string{filepath.Join(t.TempDir(), "absent")}
	b := begin(t, s)
	b.Drive("word of it", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) > 0 })
	if r := b.Readings()[0]; r.Metric != "device" || r.Reason != "not-found" {
		t.Errorf("%+v", r)
	}
}

func TestContract(t *testing.T) {
	drivertest.Run(t, drivertest.Contract{
		Driver: Driver{},
		Make: func(t *testing.T) drivertest.Fixture {
			// The program copies a pipe that has a name; opened for both, it has no end.
			pipe := filepath.Join(t.TempDir(), "pipe")
			if err := unix.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(pipe, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			s := script(t, formatText, "while read -r line; do case $line in end) exit 0;; esac; echo \"$line\"; done < "+pipe)
			s.Pattern = `^n=(?P<n>\d+)$`
			n := 0
			return drivertest.Fixture{
				Settings: s, Step: longWait,
				Feed: func() { n++; fmt.Fprintf(f, "n=%d\n", n) },
				Flood: func(stop func() bool) {
					_ = f.SetWriteDeadline(time.Now().Add(time.Second))
					for !stop() {
						if _, err := f.WriteString("n=7\n"); err != nil {
							break
						}
					}
					_ = f.SetWriteDeadline(time.Time{})
				},
				// It is started again at once, and ends again.
				Lose:   func() { fmt.Fprint(f, "end\nend\nend\nend\n") },
				Return: func() {},
				Within: longWait, Reasons: []string{"ended"},
			}
		},
		Bad: map[string]func(devices.Settings){
			"no command":       func(s devices.Settings) { s.(*Settings).Command = nil },
			"relative command": func(s devices.Settings) { s.(*Settings).Command = []string{"station"} },
			"relative dir":     func(s devices.Settings) { s.(*Settings).Dir = "x" },
			"variable":         func(s devices.Settings) { s.(*Settings).Env = map[string]string{"A=B": ""} },
			"format":           func(s devices.Settings) { s.(*Settings).Format = "xml" },
			"no pattern":       func(s devices.Settings) { s.(*Settings).Pattern = "" },
			"pattern of JSON":  func(s devices.Settings) { s.(*Settings).Format = formatJSON },
			"every":            func(s devices.Settings) { s.(*Settings).Every = time.Millisecond },
			"timeout":          func(s devices.Settings) { s.(*Settings).Every, s.(*Settings).Timeout = time.Minute, time.Hour },
			"negative stale":   func(s devices.Settings) { s.(*Settings).StaleAfter = -1 },
			"report_every":     func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
			"max_line":         func(s devices.Settings) { s.(*Settings).MaxLine = 0 },
			"units of SenML": func(s devices.Settings) {
				f := s.(*Settings)
				f.Format, f.Pattern, f.Units = formatSenML, "", map[string]string{"a": "V"}
			},
			"unit of no metric": func(s devices.Settings) {
				f := s.(*Settings)
				f.Format, f.Pattern, f.Units = formatJSON, "", map[string]string{"": "V"}
			},
		},
	})
}
