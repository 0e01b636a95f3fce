package servers

import (
	_ "embed" // the tables
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/systemd/freeport"
)

// The tables of EMQX 4.4 as its own files make them, with the rows of its documentation.
var (
	//go:embed emqx-mysql.sql
	emqxMySQL string
	//go:embed emqx-postgres.sql
	emqxPostgres string
)

// Database is a server with EMQX's tables in a database "mqtt", which the user "emqx" may read.
type Database struct {
	*Process
	Kind     string // of [[auth]]: mysql, postgres
	Addr     string
	Settings string // the lines of [[auth]] that reach it, without the type
	ask      func(t testing.TB, sql string) string
	answers  func() bool // questions, after its start
}

// Ready waits until it answers questions, after Start.
func (d *Database) Ready() {
	d.t.Helper()
	d.Listens(d.Addr)
	d.until("takes questions", d.answers)
}

// SQL runs statements as the administrator, in the database "mqtt", and returns what they print.
func (d *Database) SQL(t testing.TB, sql string) string {
	t.Helper()
	if d.Kind == "mysql" {
		sql = "USE mqtt; " + sql
	}
	return d.ask(t, sql)
}

// Bool is a truth value as the database's own column for it wants it.
func (d *Database) Bool(b bool) string {
	if d.Kind == "mysql" {
		return map[bool]string{true: "1", false: "0"}[b]
	}
	return fmt.Sprint(b)
}

// MariaDB starts one. With pair its users come by TLS only.
func MariaDB(t testing.TB, pair *Pair) *Database {
	t.Helper()
	daemon := Program(t, "mariadb-server", "mariadbd", "/usr/sbin/mariadbd")
	install := Program(t, "mariadb-server", "mariadb-install-db")
	mysql := Program(t, "mariadb-client", "mariadb")
	dir, port := Dir(t), freeport.Port(t)
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "s")
	common := []string{"--no-defaults", "--datadir=" + data, "--tmpdir=" + dir, "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--innodb-data-file-path=ibdata1:4M:autoextend"}
	toEnd(t, dir, append(append([]string{install}, common...), "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")...)
	args := append(append([]string{daemon}, common...), "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", port), "--socket="+socket,
		"--pid-file="+filepath.Join(dir, "pid"), "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M")
	if pair != nil {
		args = append(args, "--ssl-cert="+pair.Cert, "--ssl-key="+pair.Key, "--ssl-ca="+pair.CA, "--require-secure-transport=ON")
	}
	d := &Database{Kind: "mysql", Addr: fmt.Sprintf("127.0.0.1:%d", port), Process: Run(t, args...), answers: func() bool { return true }}
	d.Ready()
	d.ask = func(t testing.TB, sql string) string {
		t.Helper()
		return client(t, sql, mysql, "--no-defaults", "--socket="+socket, "--user=root", "--database=mysql", "--batch", "--skip-column-names", "--max-allowed-packet=64M")
	}
	d.ask(t, "CREATE DATABASE mqtt; CREATE USER 'emqx'@'127.0.0.1' IDENTIFIED BY 'pu''blic'; GRANT SELECT ON mqtt.* TO 'emqx'@'127.0.0.1';")
	d.SQL(t, emqxMySQL)
	d.reached(t)
	return d
}

// PostgreSQL starts one. With pair the user "emqx" comes by TLS only.
func PostgreSQL(t testing.TB, pair *Pair) *Database {
	t.Helper()
	bin := filepath.Dir(Program(t, "postgresql", "/usr/lib/postgresql/*/bin/initdb"))
	dir, port := Dir(t), freeport.Port(t)
	data, secret := filepath.Join(dir, "data"), filepath.Join(dir, "admin")
	File(t, secret, []byte("admin"))
	toEnd(t, dir, filepath.Join(bin, "initdb"), "--pgdata="+data, "--username=postgres", "--auth=scram-sha-256", "--pwfile="+secret, "--no-sync", "--encoding=UTF8", "--locale=C")
	args := []string{filepath.Join(bin, "postgres"), "-D", data, "-p", fmt.Sprint(port), "-h", "127.0.0.1", "-k", dir, "-F", "-c", "shared_buffers=16MB", "-c", "max_connections=60"}
	if pair != nil {
		args = append(args, "-c", "ssl=on", "-c", "ssl_cert_file="+pair.Cert, "-c", "ssl_key_file="+pair.Key)
		File(t, filepath.Join(data, "pg_hba.conf"), []byte("host all postgres 127.0.0.1/32 scram-sha-256\nhostssl mqtt emqx 127.0.0.1/32 scram-sha-256\n"))
	}
	// SIGQUIT ends it at once with all its children, as kill -9 of every one of them would.
	d := &Database{Kind: "postgres", Addr: fmt.Sprintf("127.0.0.1:%d", port), Process: run(t, syscall.SIGQUIT, args...)}
	d.answers = func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "-h", "127.0.0.1", "-p", fmt.Sprint(port)).Run() == nil
	}
	d.Ready()
	d.ask = func(t testing.TB, sql string) string {
		t.Helper()
		db := "mqtt"
		if rest, is := strings.CutPrefix(sql, "USE postgres; "); is {
			db, sql = "postgres", rest
		}
		return client(t, sql, filepath.Join(bin, "psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-Atq", fmt.Sprintf("postgresql://postgres:admin@%s/%s", d.Addr, db))
	}
	d.ask(t, "USE postgres; CREATE ROLE emqx LOGIN PASSWORD 'pu''blic';")
	d.ask(t, "USE postgres; CREATE DATABASE mqtt;")
	d.SQL(t, emqxPostgres+"GRANT SELECT ON ALL TABLES IN SCHEMA public TO emqx; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO emqx;")
	d.reached(t)
	return d
}

// reached writes the settings and the file with the password.
func (d *Database) reached(t testing.TB) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("pu'blic\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Settings = fmt.Sprintf("server = %q\nusername = \"emqx\"\npassword_file = %q\n", d.Addr, file)
}

// client runs a client program with SQL on its input.
func client(t testing.TB, sql string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%.300s", filepath.Base(args[0]), err, out, sql)
	}
	return string(out)
}
