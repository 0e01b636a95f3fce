package broker

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"holdfast/broker/admin"
	"holdfast/broker/door"
	"holdfast/broker/ledger"
	"holdfast/uplink/wire"
)

func openConsole(t *testing.T) (*Broker, *Console) {
	t.Helper()
	b, err := New(testConfig(t.TempDir()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b, NewConsole(b, "v1")
}

func TestMetricsAreWellFormed(t *testing.T) {
	b, _ := openConsole(t)
	w := httptest.NewRecorder()
	MetricsHandler(b).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	text := w.Body.String()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, metricPrefix) {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, want := range []string{"holdfast_broker_publishes_received_total 0", `holdfast_broker_not_verified_total{reason="revoked_key"} 0`,
		"holdfast_broker_ledger_missing_messages 0", "holdfast_broker_ready 0", "go_goroutines"} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no line %q", want)
		}
	}
}

func TestStatusSaysHowItIs(t *testing.T) {
	_, c := openConsole(t)
	b, err := json.Marshal(c.Status())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("null")) {
		t.Errorf("a null in %s", b)
	}
	var s StatusBody
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.Node != "n1" || s.Version != "v1" || len(s.NotReady) != 1 || len(s.Refused) != len(door.Door{}.Refused) {
		t.Errorf("%s", b)
	}
}

// TestConsoleErrors: every mistake has a status and says what to do next.
func TestConsoleErrors(t *testing.T) {
	_, c := openConsole(t)
	ctx := t.Context()
	pem := string(newKey(t).Public().MarshalPEM())
	if _, err := c.AddDevice(ctx, admin.AddDevice{Gateway: "gw-1", Key: pem}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		name   string
		status int
		do     func() error
	}{
		{"show unknown", 404, func() error { _, err := c.ShowDevice("x"); return err }},
		{"ledger unknown", 404, func() error { _, err := c.ReportLedger(ctx, "x"); return err }},
		{"revoke unknown", 404, func() error { _, err := c.RevokeDevice(ctx, "x", ""); return err }},
		{"revoke unknown key", 404, func() error { _, err := c.RevokeDevice(ctx, "gw-1", "x"); return err }},
		{"no key", 400, func() error { _, err := c.AddDevice(ctx, admin.AddDevice{Gateway: "gw-2", Key: "x"}); return err }},
		{"bad name", 400, func() error {
			_, err := c.AddDevice(ctx, admin.AddDevice{Gateway: "a/b", Key: string(newKey(t).Public().MarshalPEM())})
			return err
		}},
		{"taken", 409, func() error { _, err := c.AddDevice(ctx, admin.AddDevice{Gateway: "gw-2", Key: pem}); return err }},
		{"restore unknown", 404, func() error {
			_, err := c.AddDevice(ctx, admin.AddDevice{Gateway: "gw-9", Key: pem, Restore: true})
			return err
		}},
		{"tail filter", 400, func() error { return c.Tail(ctx, "a#", func(any) error { return nil }) }},
	} {
		var e *admin.Error
		if err := m.do(); !errors.As(err, &e) || e.Status != m.status || e.Message == "" {
			t.Errorf("%s: %v, want status %d", m.name, err, m.status)
		}
	}
	if v, err := c.ReportLedger(ctx, "gw-1"); err != nil || len(v.([]ledger.Gateway)) != 0 {
		t.Errorf("a registered gateway that sent nothing: %v, %v", v, err)
	}
}

func TestTailShowsWhatItCannotRead(t *testing.T) {
	_, c := openConsole(t)
	m := c.tailMessage(&Record{Topic: "a/b", Payload: []byte("hello")})
	if m.Verified || m.Error == "" || m.Topic != "a/b" || len(m.Readings) != 0 {
		t.Errorf("%+v", m)
	}
	senml := []byte(`[{"bn":"gw-1/scale/","bt":1780000000,"n":"weight","u":"kg","v":1.5},{"n":"id","vs":"x"},{"n":"on","vb":true},{"n":"raw","vd":"AQI"}]`)
	m = c.tailMessage(&Record{Topic: "a/b", Payload: senml})
	if m.Verified || m.Error != "" || m.Clock != TailUnsynced {
		t.Fatalf("%+v", m)
	}
	b, err := json.Marshal(m.Readings)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"value":1.5`, `"value":"x"`, `"value":true`, `"value":"AQI="`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
}

func TestDataDirIsLocked(t *testing.T) {
	dir := t.TempDir() + "/new/data"
	l, err := LockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDataDir(dir); err == nil || !strings.Contains(err.Error(), "another broker runs on") {
		t.Errorf("a second lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = LockDataDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := LockDataDir("/dev/null/x"); err == nil || !strings.Contains(err.Error(), "give it to the broker's user") {
		t.Errorf("no directory: %v", err)
	}
}

// FuzzDeviceKey: nothing that is given to `device add` makes the broker panic.
func FuzzDeviceKey(f *testing.F) {
	f.Add([]byte(`{"gateway":"gw-1","jwk":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := ParseDeviceKey("gw-1", data); err == nil && key.Kid() == "" {
			t.Error("a key without an id")
		}
	})
}

// newKey is a gateway's key.
func newKey(t *testing.T) *wire.PrivateKey {
	t.Helper()
	k, err := wire.GenerateKey(wire.Ed25519, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
