package auth

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// mysqlKind is MySQL and MariaDB.
var mysqlKind = sqlKind{name: "mysql", port: "3306", prepare: true, connector: mysqlConnector, remedy: mysqlRemedy}

// maxMySQLPacket bounds what the server may send at once: a row, with 64 KiB per column.
const maxMySQLPacket = 1 << 20

func mysqlConnector(c SQLConfig, password string, env Env) (driver.Connector, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.DBName = c.Username, password, c.Database
	cfg.Net, cfg.Addr = "tcp", c.Server
	if strings.HasPrefix(c.Server, "/") {
		cfg.Net = "unix"
	}
	var err error
	if cfg.TLS, err = c.TLSFiles.config(env.Path); err != nil {
		return nil, err
	}
	if cfg.TLS != nil && cfg.TLS.ServerName == "" {
		cfg.TLS.ServerName = hostOf(c.Server)
	}
	cfg.Timeout = 10 * time.Second // of a dial; a question has its own time
	cfg.MaxAllowedPacket = maxMySQLPacket
	cfg.InterpolateParams = false // values never become part of a query's text
	cfg.Logger = driverLog{env.Log}
	return mysql.NewConnector(cfg)
}

// driverLog takes what the driver says by itself (a connection that the server closed): the error comes back as well.
type driverLog struct{ log *slog.Logger }

// Print implements mysql.Logger.
func (l driverLog) Print(v ...any) { l.log.Debug("the database driver says", "text", fmt.Sprint(v...)) }

// What the server says when the settings or the tables are not what they should be (MySQL, Server Error Message Reference).
func mysqlRemedy(err error, tlsOn bool) string {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		switch e.Number {
		case 3159: // ER_SECURE_TRANSPORT_REQUIRED
			return "it takes connections over TLS only; write tls = true"
		case 1044, 1045, 1698:
			if !tlsOn { // what MariaDB says in that case, too
				return "username, password_file and database must be those of a user that may read the tables, and if it takes connections over TLS only, write tls = true"
			}
			return "username, password_file and database must be those of a user that may read the tables"
		case 1049:
			return "there is no such database; set database"
		case 1054, 1064, 1146:
			return "the table is not EMQX's; write a query for yours"
		case 1142, 1143:
			return "grant select on mqtt_user and mqtt_acl to the user"
		}
		return ""
	}
	if errors.Is(err, mysql.ErrPktTooLarge) {
		return "a row of more than 1 MiB is no user and no rule"
	}
	if errors.Is(err, mysql.ErrNoTLS) {
		return "the server does not speak TLS; switch it on there, or remove tls"
	}
	return networkRemedy(err)
}
