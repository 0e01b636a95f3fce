package agent

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"holdfast/agent/update"
)

// quick is for programs that are well: they have all the time that a slow machine needs.
const quick = "confirm_within = \"4m\"\nsettle = \"300ms\""

// short is for those that are not: long enough that they have begun on a slow machine.
const short = "confirm_within = \"10s\"\nsettle = \"1s\""

// TestUpdateProgram: a release comes over https, holds, is left and taken up again, and
// gives way to a newer package; what cannot be taken changes nothing.
func TestUpdateProgram(t *testing.T) {
	t.Parallel()
	f := newFleet(t, mosquitto(t), quick)
	f.runs("v1.0.0")
	f.connected()
	f.expect(0, "the package's program", "--status")
	f.expect(1, "nothing ran before", "--back")
	f.expect(2, "which release?")
	f.expect(2, "one at a time", "--back", "--status")
	f.expect(3, "no such file", filepath.Join(f.dir, "absent"))
	f.expect(3, "only https", "http://127.0.0.1/x")

	file := f.release("v1.1.0", built(t, buildNew))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		name = filepath.Join(f.dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	f.expect(1, "damaged or cut short", write("cut", whole[:len(whole)/2]))
	f.expect(1, "damaged or cut short", write("other", []byte("#!/bin/sh\n")))
	stranger := &fleet{gateway: f.gateway, platform: f.platform}
	if _, stranger.secret, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	f.expect(1, "not signed by a key", stranger.release("v1.1.0", built(t, buildNew)))
	foreign := &fleet{gateway: f.gateway, platform: "linux_mips", secret: f.secret}
	f.expect(1, "it has none for "+f.platform, foreign.release("v1.1.0", built(t, buildNew)))
	f.expect(1, "install the package", f.release("v0.9.0", built(t, buildNew)))
	f.expect(1, "it does not run here", f.release("v1.1.0", filepath.Join("testdata", "badrelease", "main.go")))
	f.runs("v1.0.0")
	if s := f.state(); s.Trial != nil || len(s.Events) != 0 {
		t.Errorf("what was refused left its mark: %+v", s)
	}

	f.fetch(whole)
	f.runs("v1.1.0")
	if s, err := f.status(); err != nil || s.Update.Release == "" || s.Update.Last != update.Confirmed || s.Update.Trial {
		t.Errorf("%+v, %v", s.Update, err)
	}
	f.expect(0, "release v1.1.0-", "--status")
	f.expect(0, "v1.1.0 runs already", file)
	f.expect(0, "the program before", "--back")
	f.runs("v1.0.0")
	f.expect(0, "v1.1.0 went back: by command", "--status")
	f.expect(0, "the program before", "--back")
	f.runs("v1.1.0")

	f.install(built(t, buildNew), f.sup.program) // a package that is not older
	f.sup.kill()
	f.runs("v1.1.0")
	eventually(t, "the package's program runs", func() bool {
		s, err := f.status()
		return err == nil && s.Update.Release == "" && s.Update.Last == update.LetGo
	})
}

// fetch updates over https, from a server whose certificate the command is told to trust.
func (f *fleet) fetch(release []byte) {
	f.t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(release) }))
	defer server.Close()
	f.expect(3, "certificate", server.URL+"/holdfast.release")
	ca := filepath.Join(f.dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		f.t.Fatal(err)
	}
	code, out := f.update([]string{"SSL_CERT_FILE=" + ca}, server.URL+"/holdfast.release")
	if code != 0 || !strings.Contains(out, "v1.1.0 is confirmed") {
		f.t.Fatalf("exit %d\n%s", code, out)
	}
}

// TestUpdateGoesBack: a release that does not do what it must is left by itself, and the
// command says why.
func TestUpdateGoesBack(t *testing.T) {
	t.Parallel()
	for mode, why := range map[string]string{
		"crash":       "started 3 times",
		"hang":        "it does not answer",
		"unready":     "it never will be",
		"unconnected": "not connected",
		"mute":        "7 messages wait",
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			settings := short
			if mode == "crash" {
				settings = quick
			}
			f := newFleet(t, mosquitto(t), settings) // one of its own: on a shared one they would take each other's session
			f.runs("v1.0.0")
			f.connected()
			f.expect(1, why, f.release("v1.9.0", buildBad(t, mode, f.platform)))
			f.runs("v1.0.0")
			eventually(t, "the status says so", func() bool {
				s, err := f.status()
				return err == nil && s.Update.Last == update.WentBack && strings.Contains(s.Update.Reason, why) && len(s.Warnings) > 0
			})
			f.expect(1, "went back", "--status")
		})
	}
}

// TestUpdateWhileDown: where nothing was connected, ready is enough; the command says that
// an agent that does not run is not started.
func TestUpdateWhileDown(t *testing.T) {
	t.Parallel()
	px := newProxy(t, mosquitto(t))
	px.set(true)
	f := newFleet(t, px.addr, "confirm_within = \"15s\"\nsettle = \"300ms\"")
	f.runs("v1.0.0")
	f.expect(0, "is confirmed", f.release("v1.1.0", built(t, buildNew)))
	f.runs("v1.1.0")
	f.expect(0, "the program before", "--back")
	f.runs("v1.0.0")
	f.sup.stop()
	f.expect(0, "its next start tries it", f.release("v1.1.0", built(t, buildNew)))
	f.expect(1, "ON TRIAL", "--status")
	f.sup.start()
	f.runs("v1.1.0")
}

// TestUpdateLosesNothing: every reading that was taken before, between and after an update,
// a going back and kill -9 in the middle of them arrives once, and our broker's ledger agrees.
func TestUpdateLosesNothing(t *testing.T) {
	t.Parallel()
	broker := ledgerBroker(t)
	px := newProxy(t, broker.addr)
	f := newFleet(t, px.addr, quick)
	f.runs("v1.0.0")
	_, sub := trusting(t, f.cfg, broker.addr)
	id, err := OpenIdentity(f.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	broker.register(id)
	total := 0
	feed := func(version string) {
		t.Helper()
		f.runs(version)
		before, ok := 0, false
		eventually(t, "it says what it has taken", func() bool { before, ok = f.taken(); return ok })
		for range 40 {
			f.line.Send(fmt.Sprintf("n=%d w=%d.5\n", total, total))
			total++
		}
		eventually(t, "all is taken", func() bool { n, ok := f.taken(); return ok && n == before+40 })
	}
	feed("v1.0.0")
	f.connected()
	feed("v1.0.0")
	f.expect(0, "is confirmed", f.release("v1.1.0", built(t, buildNew)))
	feed("v1.1.0")
	f.sup.kill()
	feed("v1.1.0")
	px.set(true) // a backlog
	eventually(t, "it is not connected", func() bool { s, err := f.status(); return err == nil && !s.Uplink.Connected })
	feed("v1.1.0")
	f.settings(short)
	f.expect(1, "went back", f.release("v1.9.0", buildBad(t, "unready", f.platform)))
	feed("v1.1.0")
	f.settings(quick)
	f.expect(1, "started 3 times", f.release("v1.9.0", buildBad(t, "crash", f.platform)))
	feed("v1.1.0")
	f.expect(0, "the program before", "--back")
	feed("v1.0.0")
	f.sup.kill()
	feed("v1.0.0")
	px.set(false)
	if !settled(func() bool { return len(sub.numbers(t, "meter")) >= total }) {
		t.Errorf("%d taken, %d arrived", total, len(sub.numbers(t, "meter")))
	}
	for i, n := range sub.numbers(t, "meter") {
		if n != i {
			t.Fatalf("line %d in place %d", n, i)
		}
	}
	broker.check()
	t.Logf("%d lines, %d starts", total, f.sup.started())
}

// stopsAt are the places where an update may be ended, as the program's source has them.
func stopsAt(t *testing.T) (steps []string) {
	t.Helper()
	files, err := filepath.Glob("update/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(text), "\tstep(\"")[1:] {
			name, _, _ := strings.Cut(part, `"`)
			steps = append(steps, name)
		}
	}
	if len(steps) < 15 {
		t.Fatalf("only %d steps found: %v", len(steps), steps)
	}
	return steps
}

// TestUpdateKilled: whoever is killed at whatever step, the updater, the program that
// starts, the judge or the new one under it: an agent runs, and the update works when it
// is tried again.
func TestUpdateKilled(t *testing.T) {
	t.Parallel()
	for _, step := range stopsAt(t) {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, mosquitto(t), quick) // one of its own, as above
			code, program, version := 0, built(t, buildNew), "v1.1.0"
			if step == "judge-decided" {
				f.settings(short)
				code, program, version = 1, buildBad(t, "unready", f.platform), "v1.9.0"
			}
			f.runs("v1.0.0")
			f.connected()
			flag := filepath.Join(f.dir, "flag")
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			f.endAt(step + ":" + flag)
			release := f.release(version, program)
			got, out := f.update([]string{"HOLDFAST_FAULT=" + step + ":" + flag}, release)
			eventually(t, "somebody was killed at "+step, func() bool { _, err := os.Stat(flag); return err != nil })
			f.decided()
			if got != -1 && got != code {
				t.Errorf("exit %d\n%s", got, out)
			}
			if code == 1 {
				f.runs("v1.0.0")
				return
			}
			got, out = f.update(nil, release) // whatever the first one came to
			if got != 0 {
				t.Errorf("the second time: exit %d\n%s", got, out)
			}
			f.runs("v1.1.0")
		})
	}
}

// endAt has the supervised program end at a step, from its next start on.
func (f *fleet) endAt(fault string) {
	f.sup.mu.Lock()
	defer f.sup.mu.Unlock()
	f.sup.env = append(f.sup.env, "HOLDFAST_FAULT="+fault)
}

// decided waits until no trial is under way, and an agent is ready.
func (f *fleet) decided() {
	f.t.Helper()
	eventually(f.t, "the trial is decided", func() bool {
		if s := f.state(); s.Trial != nil {
			if s.Trial.Tries == 0 { // the updater was killed before it told the agent
				f.sup.kill()
				ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
				defer cancel()
				<-ctx.Done()
			}
			return false
		}
		s, err := f.status()
		return err == nil && s.Ready
	})
}
