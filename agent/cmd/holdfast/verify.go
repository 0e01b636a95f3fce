package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// verifyOptions are the flags of verify.
type verifyOptions struct {
	keys   []string
	topic  string
	server uplink.Config
	count  int
}

// verifyCommand checks messages and prints the readings in them.
func (a *app) verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [FILE]...",
		Short: "Verify messages and print their readings; exit 1 if any is bad",
		Long: `Checks the signature of every message and prints the readings in it: of files, of the
standard input (no FILE, or -), or of what is published at a broker from now on (--topic).

A file has one message a line, {"topic", "content_type", "jws", "payload" in base64}, as this
writes it:
  holdfast buffer export | holdfast verify

Keys are those of the --key files: PEM public keys, JWKs, JWK sets, or what this prints:
  holdfast identity --json
The last is good for its gateway only. Without --key they are this gateway's own. A new key
that a known one endorses (holdfast identity rotate) is followed.

Times of a gateway whose clock was not yet synchronised are resolved by the anchors found in
the files, or seen so far; one that cannot be resolved has a ~ before it.

Exit 1 if a message is bad, 3 if there was none.`,
		RunE: func(cmd *cobra.Command, files []string) error { return a.verify(cmd.Context(), o, files) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.keys, "key", nil, "`file` with public keys; may be repeated")
	f.StringVar(&o.topic, "topic", "", "subscribe to this topic `filter` instead of reading files")
	f.StringArrayVar(&o.server.Servers, "server", nil, "with --topic: `URL` of the broker; default: the agent's servers and login")
	f.StringVar(&o.server.Username, "username", "", "with --server: the `name` to log in with")
	f.StringVar(&o.server.PasswordFile, "password-file", "", "with --server: `file` with the password")
	f.StringVar(&o.server.CAFile, "ca-file", "", "with --server: `file` with the authority of its certificate")
	f.StringVar(&o.server.CertFile, "cert-file", "", "with --server: `file` with our certificate, and --cert-key")
	f.StringVar(&o.server.KeyFile, "cert-key", "", "with --server: `file` with the key of our certificate")
	f.IntVarP(&o.count, "count", "n", 0, "end after so `many` messages; 0: at the end, or never")
	return cmd
}

func (a *app) verify(ctx context.Context, o verifyOptions, files []string) error {
	switch {
	case o.topic != "" && len(files) > 0:
		return program.Usage("--topic and files exclude each other")
	case o.topic == "" && len(o.server.Servers) > 0:
		return program.Usage("--server needs --topic")
	case len(o.server.Servers) == 0 && (o.server.Username+o.server.PasswordFile+o.server.CAFile+o.server.CertFile+o.server.KeyFile) != "":
		return program.Usage("a login needs --server")
	case o.count < 0:
		return program.Usage("--count %d: want 0 or more", o.count)
	}
	keys, err := a.keyring(o.keys)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(a.Stdout)
	v := &verifier{keys: keys, out: out, asJSON: a.JSON, left: o.count}
	if o.topic != "" {
		err = a.verifyLive(ctx, o, v)
	} else {
		err = a.verifyFiles(ctx, files, v)
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if v.good+v.bad == 0 { // yes would be said of nothing: the other end of a pipe may have failed
		return errors.New("there was no message to verify")
	}
	fmt.Fprintf(a.Stderr, "%d messages verified, %d bad; %d readings\n", v.good, v.bad, v.readings)
	if v.bad > 0 {
		return program.No
	}
	return nil
}

// verifyLive reads what is published from now on.
func (a *app) verifyLive(ctx context.Context, o verifyOptions, v *verifier) error {
	cfg := o.server
	if len(cfg.Servers) == 0 {
		c, _, err := a.load()
		if err != nil {
			return err
		}
		cfg = c.Uplink
	}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	cfg.ClientID = "holdfast-verify-" + hex.EncodeToString(id)
	return uplink.Subscribe(ctx, cfg, o.topic, func(p uplink.Message) bool {
		m, err := wire.FromMQTT(p.Topic, p.ContentType, pairs(p.UserProperties), p.Payload)
		more := v.take("", m, err)
		return v.out.Flush() == nil && more // someone is looking on
	})
}

// pairs are the user properties as a sequence.
func pairs(list [][2]string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for _, p := range list {
			if !yield(p[0], p[1]) {
				return
			}
		}
	}
}

// verifyFiles reads files twice: anchors come after the messages that they are for.
func (a *app) verifyFiles(ctx context.Context, files []string, v *verifier) error {
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, file := range files {
		if file == "-" {
			continue // what is piped passes once
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if err := a.lines(ctx, file, func(_ int, m wire.Message, err error) bool { v.learn(m, err); return true }); err != nil {
			return err
		}
	}
	for _, file := range files {
		more := true
		err := a.lines(ctx, file, func(n int, m wire.Message, err error) bool {
			more = v.take(fmt.Sprintf("%s:%d", file, n), m, err)
			return more
		})
		if err != nil || !more {
			return err
		}
	}
	return ctx.Err()
}

// maxLine is more than any message: MQTT has packets of up to 256 MiB, but no broker
// takes them by default.
const maxLine = 32 << 20

// lines calls each for every line of a file that is not empty, with the message or
// with why it is none.
func (a *app) lines(ctx context.Context, file string, each func(n int, m wire.Message, err error) bool) error {
	r := a.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(s.Bytes()) == 0 {
			continue
		}
		var m wire.Message
		err := json.Unmarshal(s.Bytes(), &m)
		if err != nil {
			err = fmt.Errorf("not a line of holdfast buffer export: %w", err)
		}
		if !each(n, m, err) {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", file, n+1, err)
	}
	return nil
}

// keyring is the keys to verify with. A key that was given with its gateway is good
// for that one only. It implements wire.Keys.
type keyring struct {
	keys wire.KeySet
	of   map[string]string // gateway by kid
}

func (k keyring) Key(gateway, kid string) (wire.PublicKey, error) {
	key, err := k.keys.Key(gateway, kid)
	if owner, bound := k.of[kid]; err == nil && bound && owner != gateway {
		return wire.PublicKey{}, fmt.Errorf("%w for this gateway: it is that of %s", wire.ErrUnknownKey, owner)
	}
	return key, err
}

func (k keyring) add(key wire.PublicKey, gateway string) {
	k.keys[key.Kid()] = key
	if gateway != "" {
		k.of[key.Kid()] = gateway
	}
}

// keyring reads the key files, or this gateway's own keys.
func (a *app) keyring(files []string) (keyring, error) {
	ring := keyring{wire.KeySet{}, map[string]string{}}
	if len(files) == 0 {
		cfg, _, err := a.load()
		if err != nil {
			return ring, program.Usage("no --key, and this gateway's own keys cannot be had: %v", err)
		}
		keys, err := agent.VerifyingKeys(cfg)
		if err != nil {
			return ring, program.Usage("no --key, and this gateway's own keys cannot be had: %v", err)
		}
		for _, key := range keys {
			ring.add(key, cfg.GatewayID)
		}
		return ring, nil
	}
	for _, file := range files {
		data, err := readSmall(file)
		if err != nil {
			return ring, err
		}
		keys, err := wire.ParsePublicKeys(data)
		if err != nil {
			return ring, fmt.Errorf("%s: %w", file, err)
		}
		var id agent.PublicIdentity
		_ = json.Unmarshal(data, &id) // of identity --json; nothing of it in other files
		for _, key := range keys {
			ring.add(key, id.Gateway)
		}
	}
	return ring, nil
}

// readSmall reads a file of keys, which is not a gigabyte.
func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// verifier judges messages and prints them.
type verifier struct {
	keys     keyring
	resolver wire.Resolver
	out      *bufio.Writer
	asJSON   bool
	left     int // messages until the end; 0: no end

	good, bad, readings int
}

// judged is a message that is good.
type judged struct {
	wire.Verified
	pack     wire.Pack
	time     wire.Resolution
	endorsed string // kid of the key that introduced this one's
}

// judge verifies and decodes a message, following a rotation.
func (v *verifier) judge(m wire.Message) (judged, error) {
	var j judged
	var err error
	if j.Verified, err = wire.Verify(m, v.keys); errors.Is(err, wire.ErrUnknownKey) {
		rotated, key, old, err2 := wire.VerifyRotation(m, v.keys)
		if err2 != nil {
			return j, err
		}
		v.keys.add(key, rotated.Gateway)
		j.Verified, j.endorsed, err = rotated, old, nil
	}
	if err != nil {
		return j, err
	}
	if j.pack, err = wire.Decode(m); err != nil {
		return j, err
	}
	if j.Type == wire.TypeAnchor {
		var anchor wire.Anchor
		if err := wire.ParseControl(j.pack, &anchor); err != nil {
			return j, err
		}
		if err := v.resolver.Anchor(j.Header, anchor); err != nil {
			return j, err
		}
	}
	j.pack, j.time = v.resolver.Resolve(j.Header, j.pack)
	return j, nil
}

// learn takes what a message says about keys and clocks, and leaves the rest.
func (v *verifier) learn(m wire.Message, err error) {
	if err != nil {
		return
	}
	if h, err := wire.Inspect(m); err == nil && slices.Contains([]string{wire.TypeOpen, wire.TypeAnchor}, h.Type) {
		_, _ = v.judge(m) // take says what is wrong with it
	}
}

// take judges and prints one message, or says why it could not even be read. It
// returns false when there were enough.
func (v *verifier) take(where string, m wire.Message, err error) (more bool) {
	var j judged
	if err == nil {
		j, err = v.judge(m)
	}
	if err != nil {
		v.bad++
		v.printBad(where, m, err)
	} else {
		v.good++
		v.readings += len(j.pack.Records)
		v.print(j, m)
	}
	return v.left == 0 || v.good+v.bad < v.left
}
