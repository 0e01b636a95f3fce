package holdfast

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/systemd/freeport"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// backlog is how many messages of 256 B the drain is measured with; HOLDFAST_BENCH_N changes it.
func backlog(b *testing.B) int {
	n, err := strconv.Atoi(cmpOr(os.Getenv("HOLDFAST_BENCH_N"), "1000000"))
	if err != nil || n < 1 {
		b.Fatalf("HOLDFAST_BENCH_N=%q: want a number", os.Getenv("HOLDFAST_BENCH_N"))
	}
	return n
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// BenchmarkDrain empties a real buffer through a real uplink into a real broker, and sends the same messages over a raw
// pipelining socket into the same broker, in the same run: the ratio is the figure.
func BenchmarkDrain(b *testing.B) {
	for _, peer := range []struct {
		name  string
		start func(*testing.B, bool) endpoint
	}{{"mosquitto", startMosquitto}, {"holdfast-broker", startBroker}} {
		b.Run(peer.name+"/plain", func(b *testing.B) { benchDrain(b, peer.start(b, false), nil) })
	}
	b.Run("mosquitto/tls", func(b *testing.B) {
		at := startMosquitto(b, true)
		benchDrain(b, at, at.roots)
	})
}

type endpoint struct {
	addr  string
	ca    string // file
	roots *x509.CertPool
}

func benchDrain(b *testing.B, at endpoint, roots *x509.CertPool) {
	n := backlog(b)
	var raw, ours spent
	for b.Loop() {
		raw.add(rawDrain(b, at, roots, n))
		ours.add(ourDrain(b, at, n))
	}
	total := float64(n * b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(total/raw.wall.Seconds(), "raw-msg/s")
	b.ReportMetric(total/ours.wall.Seconds(), "msg/s")
	b.ReportMetric(raw.wall.Seconds()/ours.wall.Seconds(), "ratio")
	b.ReportMetric(float64(raw.cpu.Nanoseconds())/total, "raw-cpu-ns/msg")
	b.ReportMetric(float64(ours.cpu.Nanoseconds())/total, "cpu-ns/msg")
}

// spent is time by the clock, and of this process on any core: the broker has its own.
type spent struct{ wall, cpu time.Duration }

func (s *spent) add(more spent) { s.wall += more.wall; s.cpu += more.cpu }

// spending begins to measure; what it returns ends it.
func spending() func() spent {
	cpu := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began, used := time.Now(), cpu()
	return func() spent { return spent{time.Since(began), cpu() - used} }
}

// What both send, but for the payload.
const (
	benchTopic = "bench/d"
	benchType  = "application/senml+json"
)

func payload(i int) []byte {
	p := make([]byte, 256)
	x := uint64(i)*0x9E3779B97F4A7C15 + 1
	for j := 0; j+8 <= len(p); j += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[j:], x)
	}
	return p
}

// ourDrain fills a buffer and times from the start of the uplink to the last PUBACK.
func ourDrain(b *testing.B, at endpoint, n int) spent {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	start := time.Now()
	boot := func() time.Duration { return time.Since(start) }
	// All on tmpfs: in the field the card is not the broker's disk, and must not share its syncs here.
	run, err := os.MkdirTemp("/dev/shm", "holdfast-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(run)
	buf, err := buffer.Open(buffer.Config{DataDir: filepath.Join(run, "card"), RuntimeDir: run, MaxBytes: 4 << 30, CommitInterval: time.Second, CommitCount: 100},
		buffer.Env{Log: quiet, Now: boot, Wall: time.Now, BootID: "bench", Rand: rand.Reader, KeyID: "k"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var blob []byte
	for i := range n {
		num, err := buf.Next("d", 1)
		if err != nil {
			b.Fatal(err)
		}
		blob = wire.Message{Topic: benchTopic, ContentType: benchType, Payload: payload(i)}.AppendEnvelope(blob[:0])
		if _, err := buf.Append(ctx, num, buffer.Meta{Device: "d", Readings: 1}, blob); err != nil {
			b.Fatal(err)
		}
	}
	if err := buf.Sync(ctx); err != nil {
		b.Fatal(err)
	}
	scheme := "mqtt://"
	if at.ca != "" {
		scheme = "mqtts://"
	}
	up, err := uplink.New(uplink.Config{Servers: []string{scheme + at.addr}, ClientID: "bench-uplink", CAFile: at.ca, SessionExpiry: time.Hour},
		uplink.Options{Source: buf, Log: quiet, Open: openEnvelope})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	began, measured := time.Now(), spending()
	go func() { done <- up.Run(ctx) }()
	for first, next := buf.Bounds(); first < next; first, next = buf.Bounds() {
		select {
		case err := <-done:
			b.Fatalf("uplink ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(began) > 10*time.Minute {
			b.Fatalf("not drained: %d of %d left; %+v", next-first, n, up.Status())
		}
	}
	took := measured()
	cancel()
	<-done
	if err := buf.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	return took
}

func openEnvelope(blob []byte) (uplink.Message, error) {
	m, err := wire.ParseEnvelope(blob)
	if err != nil {
		return uplink.Message{}, err
	}
	return uplink.Message{Topic: m.Topic, ContentType: m.ContentType, Payload: m.Payload}, nil
}

// rawDrain is the yardstick: PUBLISH packets made by hand, as many under way as the broker's Receive Maximum allows.
func rawDrain(b *testing.B, at endpoint, roots *x509.CertPool, n int) spent {
	conn, err := net.Dial("tcp", at.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if roots != nil {
		conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	}
	w, r := bufio.NewWriterSize(conn, 64<<10), bufio.NewReaderSize(conn, 64<<10)
	// CONNECT, MQTT 5 section 3.1: clean start, keep alive 0, no properties, client id "raw".
	_, _ = w.Write([]byte("\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03raw"))
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	window := connack(b, r)
	free := make(chan uint16, window)
	for id := 1; id <= window; id++ {
		free <- uint16(id)
	}
	ended := make(chan error, 1)
	measured := spending()
	go func() {
		for range n {
			head, err := r.Peek(4)
			if err != nil || head[0] != 0x40 {
				ended <- fmt.Errorf("want PUBACK, got % x: %w", head, err)
				return
			}
			if head[1] > 2 {
				if full, err := r.Peek(2 + int(head[1])); err != nil || full[4] >= 0x80 {
					ended <- fmt.Errorf("PUBACK % x: %w", full, err)
					return
				}
			}
			id := binary.BigEndian.Uint16(head[2:])
			_, _ = r.Discard(2 + int(head[1]))
			free <- id
		}
		ended <- nil
	}()
	props := append([]byte{3 + byte(len(benchType)), 0x03, 0, byte(len(benchType))}, benchType...) // Property Length, Content Type
	for i := range n {
		var id uint16
		select {
		case id = <-free:
		default:
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
			select {
			case id = <-free:
			case err := <-ended:
				b.Fatal(err)
			}
		}
		rest := 2 + len(benchTopic) + 2 + len(props) + 256
		_, _ = w.Write([]byte{0x32, byte(rest&0x7f) | 0x80, byte(rest >> 7), 0, byte(len(benchTopic))})
		_, _ = w.WriteString(benchTopic)
		_, _ = w.Write([]byte{byte(id >> 8), byte(id)})
		_, _ = w.Write(props)
		_, _ = w.Write(payload(i))
	}
	_ = w.Flush()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	return measured()
}

// connack reads a CONNACK and returns its Receive Maximum (65535 when it names none; MQTT 5 section 3.2.2.3.3).
func connack(b *testing.B, r *bufio.Reader) int {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil || head[0] != 0x20 {
		b.Fatalf("CONNACK: % x %v", head, err)
	}
	body := make([]byte, head[1])
	if _, err := io.ReadFull(r, body); err != nil || body[1] != 0 {
		b.Fatalf("CONNACK: % x %v", body, err)
	}
	for p := body[3:]; len(p) > 0; {
		switch p[0] {
		case 0x21: // Receive Maximum
			return min(int(binary.BigEndian.Uint16(p[1:])), 60000)
		case 0x22, 0x13: // Topic Alias Maximum, Server Keep Alive
			p = p[3:]
		case 0x11, 0x27: // Session Expiry, Maximum Packet Size
			p = p[5:]
		case 0x24, 0x25, 0x28, 0x29, 0x2A: // one byte each
			p = p[2:]
		case 0x26: // User Property
			k := int(binary.BigEndian.Uint16(p[1:]))
			p = p[3+k:]
			p = p[2+int(binary.BigEndian.Uint16(p)):]
		default: // a string
			p = p[3+int(binary.BigEndian.Uint16(p[1:])):]
		}
	}
	return 60000
}

// started runs a program until the benchmark ends and waits until addr answers.
func started(b *testing.B, addr, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	out, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); out.Close() })
	for range 500 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return cmd
		}
		<-time.After(20 * time.Millisecond)
	}
	text, _ := os.ReadFile(out.Name())
	b.Fatalf("%s does not answer on %s:\n%s", name, addr, text)
	return nil
}

func startMosquitto(b *testing.B, secure bool) endpoint {
	dir, at := b.TempDir(), endpoint{addr: freeport.Addr(b)}
	_, port, _ := net.SplitHostPort(at.addr)
	conf := "listener " + port + " 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\nmax_queued_messages 0\npersistence false\nset_tcp_nodelay true\n"
	if secure {
		at.ca, at.roots = certificate(b, dir)
		conf += "certfile " + at.ca + "\nkeyfile " + filepath.Join(dir, "key.pem") + "\nuser root\n"
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	started(b, at.addr, "mosquitto", "-c", file)
	return at
}

func startBroker(b *testing.B, _ bool) endpoint {
	dir, at := b.TempDir(), endpoint{addr: freeport.Addr(b)}
	bin := built(b, "holdfast-broker", "./broker/cmd/holdfast-broker")
	file := filepath.Join(dir, "broker.toml")
	conf := fmt.Sprintf("[node]\nname = \"n1\"\ndata_dir = %q\n[listen]\nmqtt = %q\nadmin = %q\n[store]\nmax_bytes = \"4GiB\"\n[[verify]]\nfilter = \"#\"\npolicy = \"off\"\n", filepath.Join(dir, "data"), at.addr, freeport.Addr(b))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	started(b, at.addr, bin, "run", "--config", file)
	return at
}

func built(b *testing.B, name, pkg string) string {
	bin := filepath.Join(b.TempDir(), name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return bin
}

// certificate makes a self-signed one for 127.0.0.1 and returns its file and pool.
func certificate(b *testing.B, dir string) (string, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(dir, "cert.pem")
	for f, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, filepath.Join(dir, "key.pem"): {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(f, pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	pool.AddCert(cert)
	return file, pool
}
