// Command release makes the signed release files that `holdfast update` takes, from the
// programs of make cross. `make release` runs it.
//
// It promises the same bytes for the same programs and key, files that minisign verifies,
// and that each program is for the platform and of the version that the manifest says.
//
// It will not make keys, keep them, or publish anything. Without a key it leaves the
// manifest to be signed elsewhere, and takes the signature from beside it the next time.
package main

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/term"

	"holdfast/agent/update"
	"holdfast/buffer"
)

func main() {
	var m update.Manifest
	dist := flag.String("dist", "dist", "`folder` with linux_*/holdfast; the release files go there")
	key := flag.String("key", "", "minisign's secret key `file`; its password is $MINISIGN_PASSWORD, or asked for")
	flag.StringVar(&m.Version, "version", "", "the programs' `version`")
	flag.StringVar(&m.Commit, "commit", "", "their commit")
	flag.StringVar(&m.Built, "built", "", "its time, RFC 3339")
	flag.Parse()
	m.Buffer = update.Formats{Oldest: buffer.FormatOldest, Newest: buffer.FormatNewest, Writes: buffer.FormatWrites}
	if err := run(m, *dist, *key); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(3)
	}
}

func run(m update.Manifest, dist, key string) error {
	programs, err := read(dist, m.Version)
	if err != nil {
		return err
	}
	manifest, err := update.Describe(m, programs)
	if err != nil {
		return err
	}
	signature, err := sign(filepath.Join(dist, "release"), manifest, key)
	if err != nil {
		return err
	}
	name := filepath.Join(dist, "holdfast-"+m.Version)
	if err := pack(name+".release", manifest, signature, programs); err != nil {
		return err
	}
	for _, p := range programs {
		if err := pack(name+"-"+p.Platform+".release", manifest, signature, []update.Program{p}); err != nil {
			return err
		}
	}
	return nil
}

// read finds the programs, each for the platform that its folder is called by.
func read(dist, version string) ([]update.Program, error) {
	files, err := filepath.Glob(filepath.Join(dist, "linux_*", "holdfast"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no %s/linux_*/holdfast: make cross builds them", dist)
	}
	var programs []update.Program
	for _, f := range files {
		info, err := buildinfo.ReadFile(f)
		if err != nil {
			return nil, err
		}
		platform := filepath.Base(filepath.Dir(f))
		if got := platformOf(info); got != platform {
			return nil, fmt.Errorf("%s is a program for %s", f, got)
		}
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if !bytes.Contains(data, []byte(version)) {
			return nil, fmt.Errorf("%s is not version %s: make cross builds it anew", f, version)
		}
		programs = append(programs, update.Program{Platform: platform, Data: data})
	}
	return programs, nil
}

func platformOf(info *debug.BuildInfo) string {
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	if arm := set["GOARM"]; arm != "" {
		arm, _, _ = strings.Cut(arm, ",")
		return set["GOOS"] + "_" + set["GOARCH"] + "v" + arm
	}
	return set["GOOS"] + "_" + set["GOARCH"]
}

// sign returns the manifest's signature: by the key, or the one that was made elsewhere
// and lies beside the manifest.
func sign(dir string, manifest []byte, key string) ([]byte, error) {
	if key != "" {
		secret, err := secretKey(key)
		if err != nil {
			return nil, err
		}
		return update.Sign(manifest, secret)
	}
	file := filepath.Join(dir, "manifest.json")
	signature, err := os.ReadFile(file + ".minisig")
	if err == nil {
		if was, err := os.ReadFile(file); err == nil && bytes.Equal(was, manifest) {
			return signature, nil
		}
		err = fs.ErrNotExist // of another build
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, manifest, 0o644); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("nothing is signed yet: give KEY=, or sign %s with minisign, put %s.minisig beside it, and make release again", file, filepath.Base(file))
}

func secretKey(file string) (minisign.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return minisign.PrivateKey{}, err
	}
	if !minisign.IsEncrypted(text) {
		var key minisign.PrivateKey
		err := key.UnmarshalText(text)
		return key, err
	}
	password := os.Getenv("MINISIGN_PASSWORD")
	if password == "" {
		fmt.Fprintf(os.Stderr, "Password of %s: ", file)
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return minisign.PrivateKey{}, fmt.Errorf("read password: %w", err)
		}
		password = string(b)
	}
	return minisign.DecryptKey(password, text)
}

func pack(name string, manifest, signature []byte, programs []update.Program) error {
	var b bytes.Buffer
	if err := update.Pack(&b, gzip.BestCompression, manifest, signature, programs); err != nil {
		return err
	}
	fmt.Printf("%s  %.1f MiB\n", name, float64(b.Len())/(1<<20))
	return os.WriteFile(name, b.Bytes(), 0o644)
}
