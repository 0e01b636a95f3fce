package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"holdfast/systemd/settings"
)

// RedisConfig is [[auth]] of type redis.
type RedisConfig struct {
	Servers              []string `toml:"servers"`  // host:port; with sentinel: of the sentinels
	Sentinel             string   `toml:"sentinel"` // the name of the master that the sentinels watch
	Cluster              bool     `toml:"cluster"`
	Database             int      `toml:"database"`
	Username             string   `toml:"username"`
	PasswordFile         string   `toml:"password_file"`
	SentinelUsername     string   `toml:"sentinel_username"`
	SentinelPasswordFile string   `toml:"sentinel_password_file"`
	TLSFiles
	PoolSize   int           `toml:"pool_size"`
	Mountpoint string        `toml:"mountpoint"`
	TTL        time.Duration `toml:"ttl"`
}

// redisSource reads users and rules from the keys that VerneMQ's users have.
type redisSource struct {
	cfg    RedisConfig
	env    Env
	client redis.UniversalClient // from Start on
}

func newRedis(t *settings.Table, env Env) Source {
	s := &redisSource{env: env, cfg: RedisConfig{Servers: []string{"127.0.0.1:6379"}, PoolSize: 8, Mountpoint: env.Mountpoint}}
	t.Decode(&s.cfg)
	s.checkConfig(t)
	return s
}

func (s *redisSource) checkConfig(t *settings.Table) {
	if len(s.cfg.Servers) == 0 {
		t.Problem("servers", `is empty; write servers = ["127.0.0.1:6379"]`)
	}
	for i, server := range s.cfg.Servers {
		if _, _, err := net.SplitHostPort(server); err != nil {
			t.Problem(fmt.Sprintf("servers[%d]", i), `%q is not host:port, such as "127.0.0.1:6379"`, server)
		}
	}
	switch {
	case s.cfg.Sentinel != "" && s.cfg.Cluster:
		t.Problem("cluster", "a server is watched by sentinels or part of a cluster, not both")
	case s.cfg.Sentinel == "" && !s.cfg.Cluster && len(s.cfg.Servers) > 1:
		t.Problem("servers", `several servers are sentinels (then sentinel = "name") or a cluster (then cluster = true)`)
	case s.cfg.Cluster && s.cfg.Database != 0:
		t.Problem("database", "a cluster has only database 0")
	}
	if s.cfg.Sentinel == "" && (s.cfg.SentinelUsername != "" || s.cfg.SentinelPasswordFile != "") {
		t.Problem("sentinel_password_file", `is for sentinels; set sentinel = "name" as well`)
	}
	if s.cfg.Database < 0 {
		t.Problem("database", "is %d; 0 is the first", s.cfg.Database)
	}
	if s.cfg.PoolSize < 1 || s.cfg.PoolSize > 1000 {
		t.Problem("pool_size", "%d connections; 1 to 1000", s.cfg.PoolSize)
	}
	if _, err := s.options(); err != nil {
		t.Problem("", "%v", err)
	}
}

// options reads the files.
func (s *redisSource) options() (*redis.UniversalOptions, error) {
	o := &redis.UniversalOptions{
		Addrs: s.cfg.Servers, MasterName: s.cfg.Sentinel, IsClusterMode: s.cfg.Cluster, DB: s.cfg.Database,
		Username: s.cfg.Username, SentinelUsername: s.cfg.SentinelUsername,
		PoolSize: s.cfg.PoolSize, Protocol: 2, DisableIdentity: true,
		DialTimeout: 5 * time.Second, ContextTimeoutEnabled: true, // a question has its own time
		DialerRetries:  1, // the question is repeated anyway: else a server that is dead, or refuses our TLS, is dialled twenty times for one client
		ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
	}
	for _, f := range []struct {
		key, file string
		to        *string
	}{{"password_file", s.cfg.PasswordFile, &o.Password}, {"sentinel_password_file", s.cfg.SentinelPasswordFile, &o.SentinelPassword}} {
		if f.file == "" {
			continue
		}
		secret, err := readSecret(s.env.Path(f.file))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.key, err)
		}
		*f.to = secret
	}
	var err error
	if o.TLSConfig, err = s.cfg.TLSFiles.config(s.env.Path); err != nil {
		return nil, err
	}
	return o, nil
}

// Start implements Starter.
func (s *redisSource) Start(context.Context) error {
	o, err := s.options()
	if err != nil {
		return err
	}
	redis.SetLogger(quietRedis{}) // it would write to stderr by itself; what matters comes back as an error
	switch {
	case o.IsClusterMode:
		cluster := o.Cluster()
		cluster.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		s.client = redis.NewClusterClient(cluster)
	case o.MasterName != "":
		s.client = redis.NewFailoverClient(o.Failover())
	default:
		simple := o.Simple()
		simple.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		s.client = redis.NewClient(simple)
	}
	return nil
}

// quietRedis is what the library logs to.
type quietRedis struct{}

// Printf implements the library's interface.
func (quietRedis) Printf(context.Context, string, ...any) {}

// Close implements Source.
func (s *redisSource) Close() error {
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// Check implements Source.
func (s *redisSource) Check(ctx context.Context, c *Client) (Answer, error) {
	if c.Username == "" { // VerneMQ's script asks only about clients that give a name and a password
		return Answer{}, nil
	}
	key := vernemqKey(s.cfg.Mountpoint, c.ID, c.Username)
	// Not GET: the server sends no more than can be read.
	value, err := s.client.GetRange(ctx, key, 0, maxVernemqValue).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		if remedy := redisRemedy(err, s.cfg.TLSFiles); remedy != "" {
			err = fmt.Errorf("%w: %s", err, remedy)
		}
		return Answer{}, fmt.Errorf("redis %s: %w", strings.Join(s.cfg.Servers, " "), err)
	}
	if value == "" { // there is no such key
		return Answer{}, nil
	}
	passhash, rules, err := parseVernemq([]byte(value), s.cfg.Mountpoint)
	a := Answer{Decision: Allow, Rules: rules, TTL: s.cfg.TTL}
	if err == nil {
		a.Password, err = bcryptPassword(passhash)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("redis key %s: %w", key, err)
	}
	return a, nil
}

// Refresh implements Refresher.
func (s *redisSource) Refresh(ctx context.Context, c *Client) (Answer, error) { return s.Check(ctx, c) }

func redisRemedy(err error, f TLSFiles) string {
	text := err.Error()
	var record tls.RecordHeaderError
	switch {
	case strings.HasPrefix(text, "NOAUTH"), strings.HasPrefix(text, "WRONGPASS"), strings.Contains(text, "AUTH"):
		return "username and password_file must be those that Redis wants"
	case strings.HasPrefix(text, "NOPERM"):
		return "the user of Redis needs the command GETRANGE for all keys"
	case strings.HasPrefix(text, "WRONGTYPE"):
		return "VerneMQ keeps text under its keys (SET), this one holds something else"
	case strings.HasPrefix(text, "MOVED"), strings.HasPrefix(text, "CROSSSLOT"):
		return "this is a cluster; write cluster = true"
	case strings.HasPrefix(text, "ERR DB index"):
		return "there is no such database; set database"
	case strings.HasPrefix(text, "LOADING"):
		return "it still reads its data; it will be asked again"
	case errors.As(err, &record):
		return "the server does not speak TLS there; remove tls, or name its TLS port"
	case errors.Is(err, redis.ErrPoolTimeout):
		return "all connections are waiting for answers; is Redis slow, or pool_size too small?"
	case f.TLS && errors.Is(err, context.DeadlineExceeded): // a Redis without TLS waits for the end of the line that it takes the handshake for
		return "no answer in time; is it overloaded, is a firewall between, or does it not speak TLS there?"
	case !f.TLS && hungUp(err):
		return "it closes the connection; if it speaks TLS there, write tls = true"
	case f.CertFile == "" && hungUp(err): // with TLS 1.3 it says so behind the handshake, and what is sent to it meanwhile may reset the connection first
		return "it closes the connection; if it wants to see a certificate of the broker, set cert_file and key_file to one that it trusts"
	}
	return networkRemedy(err)
}
