package auth

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/broker/auth/servers"
	"holdfast/systemd/freeport"
)

func TestMySQL(t *testing.T)    { testSQL(t, servers.MariaDB(t, nil)) }
func TestPostgres(t *testing.T) { testSQL(t, servers.PostgreSQL(t, nil)) }

func testSQL(t *testing.T, d *servers.Database) {
	env, log := sourceEnv(t)
	s := openSource(t, d.Kind, d.Settings, env)
	// sha256 of "public": what EMQX's documentation has for its first user.
	d.SQL(t, fmt.Sprintf(`INSERT INTO mqtt_user (username, password, salt, is_superuser) VALUES
		('emqx', 'efa1f375d76194fa51a3556a97e641e61685f914d446979da50a551a4333ffd7', NULL, %s),
		('dashboard', 'efa1f375d76194fa51a3556a97e641e61685f914d446979da50a551a4333ffd7', '', NULL),
		('root', 'efa1f375d76194fa51a3556a97e641e61685f914d446979da50a551a4333ffd7', '', %s),
		('nothing', NULL, NULL, NULL), ('broken', 'abc', NULL, NULL)`, d.Bool(false), d.Bool(true)))
	known := who("c1", "emqx", "192.0.2.1")
	known.Password = []byte("public")

	t.Run("users and rules", func(t *testing.T) {
		for _, x := range []struct {
			client *Client
			want   string
		}{
			{who("c1", "emqx", "192.0.2.1"), `deny subscribe eq "#", deny subscribe "$SYS/#", allow publish "#"`},
			{who("c1", "emqx", "127.0.0.1"), `allow publish "#", allow publish "$SYS/#", deny subscribe eq "#", deny subscribe "$SYS/#", allow publish "#"`},
			{who("c1", "dashboard", "192.0.2.1"), `allow subscribe "$SYS/#", deny subscribe eq "#", deny subscribe "$SYS/#", allow publish "#"`},
			{who("c1", "root", "192.0.2.1"), "superuser"},
		} {
			x.client.Password = []byte("public")
			a, proven, err := check(t, s, x.client)
			var rules []string
			for _, r := range a.Rules {
				rules = append(rules, r.String())
			}
			if a.Superuser {
				rules = append(rules, "superuser")
			}
			if got := strings.Join(rules, ", "); err != nil || a.Decision != Allow || !proven || got != x.want {
				t.Errorf("%s: %v %v %s, want %s", x.client.Username, proven, err, got, x.want)
			}
			x.client.Password = []byte("Public")
			if _, proven, _ := check(t, s, x.client); proven {
				t.Error("another password is right as well")
			}
		}
	})
	t.Run("not known", func(t *testing.T) {
		for _, c := range []*Client{{ID: "c"}, {ID: "c", Username: "nobody"}, {ID: "c", Username: "x' or '1'='1"}, {ID: "c", Username: "x\\' or 1=1 -- "}, {ID: "emqx", Username: "%u"}} {
			if a, _, err := check(t, s, c); err != nil || a.Decision != NotMine {
				t.Errorf("%+v: %+v %v", c, a, err)
			}
		}
		if a, _, err := check(t, s, &Client{ID: "c", Username: "nothing", Password: []byte("")}); err != nil || a.Decision != Deny {
			t.Errorf("without a password in the table: %+v %v", a, err)
		}
		if _, _, err := check(t, s, &Client{ID: "c", Username: "broken"}); err == nil || !strings.Contains(err.Error(), "set password_hash") {
			t.Error(err)
		}
	})
	t.Run("every way to store a password", func(t *testing.T) { everyScheme(t, d, env) })
	t.Run("rules by client, address, user", func(t *testing.T) {
		d.SQL(t, `INSERT INTO mqtt_acl (id, allow, ipaddr, username, clientid, access, topic) VALUES
			(10, 1, NULL, NULL, 'gw-7', 3, 'gw/%c/#'), (11, 0, '192.0.2.0/24', NULL, 'gw-7', 2, 'gw/%c/cmd'), (12, 1, '192.0.3.0/24', NULL, 'gw-7', 2, 'gw/x'), (13, 1, NULL, 'emqx', 'other', 1, 'no')`)
		c := who("gw-7", "emqx", "192.0.2.9")
		a, _, err := check(t, s, c)
		if err != nil || len(a.Rules) != 5 || a.Rules[0].String() != `deny publish "gw/%c/cmd"` || a.Rules[1].String() != `allow publish and subscribe "gw/%c/#"` {
			t.Errorf("%v %v", a.Rules, err)
		}
	})
	t.Run("rows that are no rules", func(t *testing.T) {
		for _, x := range [][2]string{
			{"(90, NULL, NULL, 'emqx', NULL, 1, 'a')", "column allow is NULL"},
			{"(90, 1, NULL, 'emqx', NULL, 9, 'a')", `column access is "9"`},
			{"(90, 1, NULL, 'emqx', NULL, 1, 'a/#/b')", "column topic"},
			{"(90, 1, 'all', 'emqx', NULL, 1, 'a')", "not an address"},
		} {
			d.SQL(t, "INSERT INTO mqtt_acl (id, allow, ipaddr, username, clientid, access, topic) VALUES "+x[0])
			if _, _, err := check(t, s, known); err == nil || !strings.Contains(err.Error(), x[1]) {
				t.Errorf("%s: %v", x[0], err)
			}
			d.SQL(t, "DELETE FROM mqtt_acl WHERE id = 90")
		}
	})
	t.Run("own queries", func(t *testing.T) { ownQueries(t, d, env) })
	t.Run("wrong settings", func(t *testing.T) { wrongSQL(t, d, env) })
	t.Run("the table changes", func(t *testing.T) {
		d.SQL(t, "ALTER TABLE mqtt_acl ADD note varchar(10)")
		if a, _, err := check(t, s, known); err != nil || a.Decision != Allow {
			t.Error(a, err)
		}
		d.SQL(t, "ALTER TABLE mqtt_acl RENAME TO mqtt_old")
		if _, _, err := check(t, s, known); err == nil || !strings.Contains(err.Error(), "write a query for yours") {
			t.Error(err)
		}
		d.SQL(t, "ALTER TABLE mqtt_old RENAME TO mqtt_acl")
		answersAgain(t, s, known, "when the table is back")
	})
	t.Run("many connects", func(t *testing.T) { manySQL(t, d) })
	t.Run("hangs, dies, comes back", func(t *testing.T) {
		comesAndGoes(t, s, d.Process, d.Addr, known, func() {})
	})
	if text := log.String(); strings.Contains(text, "pu'blic") || strings.Contains(text, "efa1f375") {
		t.Errorf("a secret stands in the log: %s", text)
	}
}

// everyScheme: hashes that the database and Debian's libraries have made.
func everyScheme(t *testing.T, d *servers.Database, env Env) {
	sha := func(what string) string { // the database's own functions
		if d.Kind == "mysql" {
			return "sha2(concat(" + what + "), 256)"
		}
		return "encode(sha256(convert_to(concat(" + what + "), 'UTF8')), 'hex')"
	}
	crypt := cryptOf(t, "pässwort")
	for _, x := range []struct{ scheme, hash, salt string }{
		{"plain", "'pässwort'", "NULL"},
		{"md5", "md5('pässwort')", "NULL"},
		{"salt,md5", "md5(concat('s', 'pässwort'))", "'s'"},
		{"sha256", sha("'pässwort'"), "NULL"},
		{"salt,sha256", sha("'NaCl', 'pässwort'"), "'NaCl'"},
		{"sha256,salt", sha("'pässwort', 'NaCl'"), "'NaCl'"},
		{"bcrypt", "'" + crypt + "'", "NULL"},
		{"salt,bcrypt", "'" + crypt + "'", "'" + crypt[:29] + "'"},
		{"pbkdf2,sha256,1000,20", "'" + pbkdf2Of(t, "pässwort", "NaCl") + "'", "'NaCl'"},
	} {
		d.SQL(t, fmt.Sprintf("DELETE FROM mqtt_user WHERE username = 'h'; INSERT INTO mqtt_user (username, password, salt) VALUES ('h', %s, %s)", x.hash, x.salt))
		s := openSource(t, d.Kind, d.Settings+fmt.Sprintf("password_hash = %q\n", x.scheme), env)
		for password, want := range map[string]bool{"pässwort": true, "passwort": false, "": false} {
			if a, proven, err := check(t, s, &Client{ID: "c", Username: "h", Password: []byte(password)}); err != nil || a.Decision != Allow || proven != want {
				t.Errorf("%s: password %q: %v %v %v", x.scheme, password, a.Decision, proven, err)
			}
		}
	}
}

func pbkdf2Of(t testing.TB, password, salt string) string {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", "-c", "import hashlib, sys; print(hashlib.pbkdf2_hmac('sha256', sys.argv[1].encode(), sys.argv[2].encode(), 1000, 20).hex())", password, salt).Output()
	if err != nil {
		t.Fatalf("python3 (apt install python3): %v", err)
	}
	return strings.TrimSpace(string(out))
}

// ownQueries: a table of one's own, rows in the order of the query, no superusers, values that are huge.
func ownQueries(t *testing.T, d *servers.Database, env Env) {
	d.SQL(t, "CREATE TABLE devices (name varchar(100), secret varchar(100), net varchar(60)); INSERT INTO devices VALUES ('d1', 'plain', NULL)")
	huge := "repeat('x', 200000)"
	queries := func(acl string) string {
		return d.Settings + fmt.Sprintf("password_hash = \"plain\"\nrule_order = \"first-first\"\nsuper_query = \"\"\nauth_query = \"select secret from devices where name = '%%u' and '%%c' <> ''\"\nacl_query = %q\n", acl)
	}
	one := "select 1 as allow, null as ipaddr, '%u' as username, null as clientid, 2 as access, "
	if d.Kind == "postgres" {
		one = "select 1 as allow, null as ipaddr, '%u'::text as username, null as clientid, 2 as access, "
	}
	c := &Client{ID: "c", Username: "d1", Password: []byte("plain")}
	s := openSource(t, d.Kind, queries(one+"'a/%c' as topic union all select 0, '10.0.0.0/8', 'd1', null, 3, 'b'"), env)
	a, proven, err := check(t, s, c)
	if err != nil || !proven || a.Superuser || len(a.Rules) != 1 || a.Rules[0].String() != `allow publish "a/%c"` {
		t.Errorf("%+v %v %v", a, proven, err)
	}
	for acl, want := range map[string]string{
		one + huge: "a value of 200000 bytes",
		one + "'a' as topic from mqtt_acl a, mqtt_acl b, mqtt_acl c, mqtt_acl d, mqtt_acl e, mqtt_acl f": "more than 10000 rules",
		"select 1, 2": "gives 2 columns; six",
	} {
		s := openSource(t, d.Kind, queries(acl), env)
		if _, _, err := check(t, s, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v", acl, err)
		}
	}
	d.SQL(t, "INSERT INTO devices VALUES ('d1', 'other', NULL)")
	if _, _, err := check(t, s, c); err == nil || !strings.Contains(err.Error(), "several rows") {
		t.Errorf("two users of one name: %v", err)
	}
}

func wrongSQL(t *testing.T, d *servers.Database, env Env) {
	c := &Client{ID: "c", Username: "emqx"}
	wrong := filepath.Join(t.TempDir(), "wrong")
	write(t, wrong, "guess-what")
	for text, want := range map[string]string{
		strings.Replace(d.Settings, "password_file = ", fmt.Sprintf("password_file = %q # ", wrong), 1):                         "username, password_file and database must be",
		strings.Replace(d.Settings, `"emqx"`, `"nobody-here"`, 1):                                                               "username, password_file and database must be",
		d.Settings + "database = \"elsewhere\"\n":                                                                               "database",
		d.Settings + "auth_query = \"select pass from mqtt_user where username = '%u'\"\n":                                      "write a query for yours",
		d.Settings + "auth_query = \"select password from users where username = '%u'\"\n":                                      "write a query for yours",
		d.Settings + "password_hash = \"salt,sha256\"\nauth_query = \"select password from mqtt_user where username = '%u'\"\n": "gives no salt",
		strings.Replace(d.Settings, d.Addr, freeport.Addr(t), 1):                                                                "is it running",
		d.Settings + "tls = true\n": "the server does not speak TLS",
	} {
		s := openSource(t, d.Kind, text, env)
		a, _, err := check(t, s, c)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "guess-what") || a.Decision == Allow {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestSQLSettings(t *testing.T) {
	env, _ := sourceEnv(t)
	for text, want := range map[string]string{
		``:                                  "username: is missing",
		"username = \"u\"\nserver = \"db\"": `server: "db" is not host:port`,
		"username = \"u\"\npassword_hash = \"sha3\"":                             `password_hash: "sha3" is not a way`,
		"username = \"u\"\npassword_hash = \"md5\"":                              `warning: auth #1: password_hash`,
		"username = \"u\"\nauth_query = \"select password from t where u = %u\"": "auth_query: has %u without quotes",
		"username = \"u\"\nrule_order = \"random\"":                              "rule_order: is",
		"username = \"u\"\npassword_file = \"/does/not/exist\"":                  "password_file: ",
		"username = \"u\"\ncolour = \"red\"":                                     "colour: unknown key",
	} {
		for _, kind := range []string{"mysql", "postgres"} {
			if got := problems(kind, text, env); !strings.Contains(got, want) {
				t.Errorf("%s: %s: %s", kind, text, got)
			}
		}
	}
}
