package auth

import (
	"database/sql/driver"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresKind is PostgreSQL.
var postgresKind = sqlKind{name: "postgres", port: "5432", numbered: true, connector: postgresConnector, remedy: postgresRemedy}

func postgresConnector(c SQLConfig, password string, env Env) (driver.Connector, error) {
	// The library reads PGHOST and the like, and ~/.pgpass; what is set below goes before all of it.
	cfg, err := pgx.ParseConfig("host=127.0.0.1 port=5432 user=u dbname=d password=p sslmode=disable")
	if err != nil {
		return nil, errors.New("the environment has settings for PostgreSQL (PG…) that cannot be read; remove them")
	}
	cfg.User, cfg.Password, cfg.Database = c.Username, password, c.Database
	var host, port string
	if strings.HasPrefix(c.Server, "/") { // …/.s.PGSQL.5432
		host, port = filepath.Dir(c.Server), strings.TrimPrefix(filepath.Base(c.Server), ".s.PGSQL.")
	} else if host, port, err = net.SplitHostPort(c.Server); err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, errors.New(`server has no number of a port: "127.0.0.1:5432", or a socket "/run/postgresql/.s.PGSQL.5432"`)
	}
	cfg.Host, cfg.Port, cfg.Fallbacks = host, uint16(n), nil
	if cfg.TLSConfig, err = c.TLSFiles.config(env.Path); err != nil {
		return nil, err
	}
	if cfg.TLSConfig != nil && cfg.TLSConfig.ServerName == "" {
		cfg.TLSConfig.ServerName = host
	}
	cfg.ConnectTimeout = 10 * time.Second // of a dial; a question has its own time
	cfg.RuntimeParams = map[string]string{"application_name": "holdfast-broker"}
	return stdlib.GetConnector(*cfg), nil
}

// What the server says when the settings or the tables are not what they should be (PostgreSQL, Appendix A).
func postgresRemedy(err error, tlsOn bool) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		switch e.Code {
		case "28000", "28P01":
			if !tlsOn && strings.Contains(e.Message, "no encryption") { // pg_hba.conf has lines of the kind hostssl alone
				return "it takes connections over TLS only; write tls = true"
			}
			return "username, password_file and database must be those of a user that may read the tables (and pg_hba.conf must let it in)"
		case "3D000":
			return "there is no such database; set database"
		case "42P01", "42703", "42601", "42883":
			return "the table is not EMQX's; write a query for yours"
		case "42501":
			return "grant select on mqtt_user and mqtt_acl to the user"
		}
		return ""
	}
	if strings.Contains(err.Error(), "server refused TLS connection") { // the library has no error of its own for it
		return "the server does not speak TLS; switch it on there, or remove tls"
	}
	return networkRemedy(err)
}
