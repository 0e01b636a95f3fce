package auth

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"holdfast/systemd/settings"
)

// EMQX's own queries (emqx_auth_mysql.conf, emqx_auth_pgsql.conf of 4.4), with an order, which they lack.
const (
	emqxAuthQuery  = "select password from mqtt_user where username = '%u' limit 1"
	emqxSaltQuery  = "select password, salt from mqtt_user where username = '%u' limit 1"
	emqxSuperQuery = "select is_superuser from mqtt_user where username = '%u' limit 1"
	emqxACLQuery   = "select allow, ipaddr, username, clientid, access, topic from mqtt_acl where ipaddr = '%a' or username = '%u' or username = '$all' or clientid = '%c' order by id"
)

// SQLConfig is [[auth]] of type mysql or postgres.
type SQLConfig struct {
	Server       string `toml:"server"` // host:port, or the path of a socket
	Username     string `toml:"username"`
	PasswordFile string `toml:"password_file"`
	Database     string `toml:"database"`
	TLSFiles
	PoolSize     int           `toml:"pool_size"` // connections
	PasswordHash string        `toml:"password_hash"`
	AuthQuery    string        `toml:"auth_query"`  // password [, salt]
	SuperQuery   string        `toml:"super_query"` // is_superuser; "" asks nothing
	ACLQuery     string        `toml:"acl_query"`   // allow, ipaddr, username, clientid, access, topic; "" asks nothing
	RuleOrder    string        `toml:"rule_order"`
	TTL          time.Duration `toml:"ttl"`
}

// The values of SQLConfig.RuleOrder.
const (
	orderLastFirst  = "last-first" // as EMQX 4 does
	orderFirstFirst = "first-first"
)

// sqlKind is what MySQL and PostgreSQL differ in.
type sqlKind struct {
	name      string
	port      string
	numbered  bool // placeholders
	prepare   bool // by us; else the driver does it, and does it again when a table was changed
	connector func(c SQLConfig, password string, env Env) (driver.Connector, error)
	remedy    func(err error, tlsOn bool) string // "" if the error does not say more than itself
}

// sqlSource reads users and rules from EMQX 4's tables.
type sqlSource struct {
	kind  sqlKind
	cfg   SQLConfig
	env   Env
	hash  hashScheme
	user  *statement
	super *statement // nil: nobody is a superuser
	rules *statement // nil: no rules
	db    *sql.DB    // from Start on
}

// statement is a query; prepared on the server where the driver does not do that.
type statement struct {
	name  string // of the setting
	query sqlQuery
	made  atomic.Pointer[sql.Stmt]
}

func newMySQL(t *settings.Table, env Env) Source    { return newSQL(t, env, mysqlKind) }
func newPostgres(t *settings.Table, env Env) Source { return newSQL(t, env, postgresKind) }

func newSQL(t *settings.Table, env Env, kind sqlKind) Source {
	s := &sqlSource{kind: kind, env: env, cfg: SQLConfig{
		Server: "127.0.0.1:" + kind.port, Database: "mqtt", PoolSize: 8, PasswordHash: "sha256",
		SuperQuery: emqxSuperQuery, ACLQuery: emqxACLQuery, RuleOrder: orderLastFirst,
	}}
	t.Decode(&s.cfg)
	var err error
	if s.hash, err = parseHashScheme(s.cfg.PasswordHash); err != nil {
		t.Problem("password_hash", "%v", err)
	} else if s.hash.weak() {
		t.Warn("password_hash", "%q: whoever reads the table has most of the passwords within hours; bcrypt and pbkdf2 withstand that", s.cfg.PasswordHash)
	}
	if !t.Has("auth_query") {
		s.cfg.AuthQuery = emqxAuthQuery
		if s.hash.salt != saltNone {
			s.cfg.AuthQuery = emqxSaltQuery
		}
	}
	s.user = s.statement(t, "auth_query", s.cfg.AuthQuery)
	if s.cfg.SuperQuery != "" {
		s.super = s.statement(t, "super_query", s.cfg.SuperQuery)
	}
	if s.cfg.ACLQuery != "" {
		s.rules = s.statement(t, "acl_query", s.cfg.ACLQuery)
	}
	s.checkConfig(t)
	return s
}

func (s *sqlSource) statement(t *settings.Table, name, query string) *statement {
	q, err := parseSQLQuery(query, s.kind.numbered)
	if err != nil {
		t.Problem(name, "%v", err)
	}
	return &statement{name: name, query: q}
}

func (s *sqlSource) checkConfig(t *settings.Table) {
	if !strings.HasPrefix(s.cfg.Server, "/") {
		if _, _, err := net.SplitHostPort(s.cfg.Server); err != nil {
			t.Problem("server", `%q is not host:port, such as "127.0.0.1:%s", nor the path of a socket`, s.cfg.Server, s.kind.port)
		}
	}
	if s.cfg.Username == "" {
		t.Problem("username", "is missing: the user of the database that may read the tables, and nothing else")
	}
	if s.cfg.PoolSize < 1 || s.cfg.PoolSize > 1000 {
		t.Problem("pool_size", "%d connections; 1 to 1000", s.cfg.PoolSize)
	}
	if s.cfg.RuleOrder != orderLastFirst && s.cfg.RuleOrder != orderFirstFirst {
		t.Problem("rule_order", `is %q; write "last-first", as EMQX 4 reads the rows, or "first-first"`, s.cfg.RuleOrder)
	}
	if _, err := s.open(); err != nil {
		t.Problem("", "%v", err)
	}
}

// open reads the files and makes what opens connections, but opens none.
func (s *sqlSource) open() (driver.Connector, error) {
	password := ""
	if s.cfg.PasswordFile != "" {
		var err error
		if password, err = readSecret(s.env.Path(s.cfg.PasswordFile)); err != nil {
			return nil, fmt.Errorf("password_file: %w", err)
		}
	}
	return s.kind.connector(s.cfg, password, s.env)
}

// Start implements Starter.
func (s *sqlSource) Start(context.Context) error {
	c, err := s.open()
	if err != nil {
		return err
	}
	s.db = sql.OpenDB(c)
	s.db.SetMaxOpenConns(s.cfg.PoolSize)
	s.db.SetMaxIdleConns(s.cfg.PoolSize)
	s.db.SetConnMaxLifetime(10 * time.Minute) // a password or an address that was changed comes into use
	return nil
}

// Close implements Source.
func (s *sqlSource) Close() error {
	if s.db == nil {
		return nil
	}
	for _, st := range []*statement{s.user, s.super, s.rules} {
		if st == nil {
			continue
		}
		if made := st.made.Swap(nil); made != nil {
			_ = made.Close() // the connections are closed next
		}
	}
	return s.db.Close()
}

// Check implements Source.
func (s *sqlSource) Check(ctx context.Context, c *Client) (Answer, error) {
	stored, salt, found, err := s.password(ctx, c)
	if err != nil || !found {
		return Answer{}, err
	}
	if stored.null || stored.text == "" {
		return Answer{Decision: Deny, Reason: "the table has no password for this user"}, nil
	}
	a := Answer{Decision: Allow, TTL: s.cfg.TTL}
	if a.Password, err = s.hash.password(stored.text, salt.text); err != nil {
		return Answer{}, fmt.Errorf("user %q: %w", c.Username, err)
	}
	if a.Superuser, err = s.superuser(ctx, c); err == nil && !a.Superuser {
		a.Rules, err = s.rulesOf(ctx, c)
	}
	if err != nil {
		return Answer{}, err
	}
	return a, nil
}

// Refresh implements Refresher.
func (s *sqlSource) Refresh(ctx context.Context, c *Client) (Answer, error) { return s.Check(ctx, c) }

func (s *sqlSource) password(ctx context.Context, c *Client) (stored, salt column, found bool, err error) {
	if c.Username == "" {
		return stored, salt, false, nil
	}
	err = s.query(ctx, s.user, c, func(rows *sql.Rows, columns int) error {
		if found {
			return errors.New(`gives several rows for one user; add "limit 1"`)
		}
		found = true
		switch {
		case columns == 1 && s.hash.salt != saltNone:
			return fmt.Errorf("gives no salt, and password_hash %q wants one: select password, salt", s.cfg.PasswordHash)
		case columns == 1:
			return rows.Scan(&stored)
		case columns == 2:
			return rows.Scan(&stored, &salt)
		}
		return fmt.Errorf("gives %d columns; the password, and the salt if there is one", columns)
	})
	return stored, salt, found, err
}

func (s *sqlSource) superuser(ctx context.Context, c *Client) (is bool, err error) {
	if s.super == nil {
		return false, nil
	}
	err = s.query(ctx, s.super, c, func(rows *sql.Rows, columns int) error {
		if columns != 1 {
			return fmt.Errorf("gives %d columns; one, is_superuser", columns)
		}
		var v column
		if err := rows.Scan(&v); err != nil {
			return err
		}
		is, _ = v.flag() // NULL and everything else is no
		return nil
	})
	return is, err
}

func (s *sqlSource) rulesOf(ctx context.Context, c *Client) ([]Rule, error) {
	if s.rules == nil {
		return nil, nil
	}
	var found []aclRow
	err := s.query(ctx, s.rules, c, func(rows *sql.Rows, columns int) error {
		if columns != 6 {
			return fmt.Errorf("gives %d columns; six: allow, ipaddr, username, clientid, access, topic", columns)
		}
		if len(found) == maxRuleRows {
			return fmt.Errorf("gives more than %d rules for one client", maxRuleRows)
		}
		var r aclRow
		if err := rows.Scan(&r.allow, &r.ipaddr, &r.username, &r.clientid, &r.access, &r.topic); err != nil {
			return err
		}
		found = append(found, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rulesOfRows(found, c, s.cfg.RuleOrder == orderLastFirst)
}

// query hands every row to read.
func (s *sqlSource) query(ctx context.Context, st *statement, c *Client, read func(rows *sql.Rows, columns int) error) error {
	err := s.run(ctx, st, c, read)
	if err == nil {
		return nil
	}
	if remedy := s.kind.remedy(err, s.cfg.TLS); remedy != "" {
		err = fmt.Errorf("%w: %s", err, remedy)
	}
	return fmt.Errorf("%s %s: %s: %w", s.kind.name, s.cfg.Server, st.name, err)
}

func (s *sqlSource) run(ctx context.Context, st *statement, c *Client, read func(rows *sql.Rows, columns int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := s.rowsOf(ctx, st, st.query.args(c))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err has what matters
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := read(rows, len(columns)); err != nil {
			cancel() // or Close would read what is left, however much that is
			return err
		}
	}
	return rows.Err()
}

func (s *sqlSource) rowsOf(ctx context.Context, st *statement, args []any) (*sql.Rows, error) {
	if !s.kind.prepare {
		return s.db.QueryContext(ctx, st.query.text, args...)
	}
	made := st.made.Load()
	if made == nil {
		fresh, err := s.db.PrepareContext(ctx, st.query.text)
		if err != nil {
			return nil, err
		}
		if made = fresh; !st.made.CompareAndSwap(nil, fresh) {
			_ = fresh.Close() // another was first
			made = st.made.Load()
		}
	}
	return made.QueryContext(ctx, args...)
}
