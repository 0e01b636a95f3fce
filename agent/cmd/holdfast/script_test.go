package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/systemd/freeport"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfast": main})
}

// patience is how long a script waits for what should be a moment.
const patience = 5 * time.Minute

// TestScripts runs testdata/script: the program as its users meet it. Besides
// testscript's own commands there are those of commands().
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup(t),
		Cmds:                commands(),
	})
}

// setup gives each script a tmpfs of its own and two ports that no other script has.
func setup(t *testing.T) func(*testscript.Env) error {
	return func(e *testscript.Env) error {
		ram, err := os.MkdirTemp("/dev/shm", "holdfast-cli-")
		if err != nil {
			return fmt.Errorf("the tests need a tmpfs: %w", err)
		}
		e.Defer(func() { os.RemoveAll(ram) })
		e.Setenv("RAM", ram)
		for _, name := range []string{"PORT", "STATUS"} {
			e.Setenv(name, strconv.Itoa(freeport.Port(t)))
		}
		return nil
	}
}

type script = *testscript.TestScript

func commands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"code":     code,
		"need":     need,
		"await":    await,
		"http":     httpCode,
		"expand":   expand,
		"manager":  manager,
		"signal":   signalTo,
		"settle":   settle,
		"squatter": squatter,
		"certs":    certs,
	}
}

// code N program args...: the program ends with exit code N.
func code(ts script, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// need PROGRAM PACKAGE: a test that cannot run says how to make it run.
func need(ts script, _ bool, args []string) {
	if _, err := exec.LookPath(args[0]); err != nil {
		ts.Fatalf("%s is missing: apt-get install %s", args[0], args[1])
	}
}

func eventually(ts script, what string, is func() bool) {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		if time.Now().After(deadline) {
			ts.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

// await FILE REGEXP: the file will have it.
func await(ts script, _ bool, args []string) {
	re := regexp.MustCompile("(?m)" + args[1])
	eventually(ts, fmt.Sprintf("%s in %s", args[1], args[0]), func() bool {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && re.Match(b)
	})
}

// http CODE URL [REGEXP]: the address will answer so.
func httpCode(ts script, _ bool, args []string) {
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	eventually(ts, strings.Join(args, " "), func() bool {
		resp, err := client.Get(args[1])
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && strconv.Itoa(resp.StatusCode) == args[0] &&
			(len(args) < 3 || regexp.MustCompile(args[2]).Match(body))
	})
}

// expand FILE...: environment variables in the files are replaced.
func expand(ts script, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// manager FILE: a service manager that writes what it is told into the file. Sets
// NOTIFY_SOCKET.
func manager(ts script, _ bool, args []string) {
	socket := filepath.Join(ts.Getenv("RAM"), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(f, "%s\n", buf[:n])
		}
	}()
	ts.Defer(func() { conn.Close(); <-done; f.Close() })
	ts.Setenv("NOTIFY_SOCKET", socket)
}

// signal NAME FILE: sends a signal to the process whose id the file holds.
func signalTo(ts script, _ bool, args []string) {
	sig := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, sig))
}

// settle PROGRAM ARGS... REGEXP: the program's output will match.
func settle(ts script, _ bool, args []string) {
	re := regexp.MustCompile(args[len(args)-1])
	eventually(ts, strings.Join(args, " "), func() bool {
		cmd := exec.Command(args[0], args[1:len(args)-1]...)
		cmd.Dir = ts.MkAbs(".")
		out, _ := cmd.CombinedOutput() // its exit code is not the question
		return re.Match(out)
	})
}

// squatter PORT: somebody else listens there.
func squatter(ts script, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// certs NAME: makes an authority NAME-ca.pem and the certificate NAME.pem with
// NAME-key.pem that it gave to 127.0.0.1.
func certs(ts script, _ bool, args []string) {
	template := func(serial int64, ca bool) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: args[0]}, IsCA: ca, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	ca := template(1, true)
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	ts.Check(err)
	der, err := x509.CreateCertificate(rand.Reader, template(2, false), ca, &key.PublicKey, caKey)
	ts.Check(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{
		"-ca.pem": {Type: "CERTIFICATE", Bytes: caDER}, ".pem": {Type: "CERTIFICATE", Bytes: der}, "-key.pem": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+name), pem.EncodeToMemory(block), 0o600))
	}
}
