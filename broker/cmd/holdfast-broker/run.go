package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/program"
)

func (a *app) runCommand() *cobra.Command {
	var logging program.LogFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the broker",
		Long: `Runs the broker in the foreground until SIGTERM or SIGINT; it then takes no more
clients, stores what it has received and ends. A second signal aborts, and loses
nothing that was acknowledged. Settings take effect at the next start; the TLS
certificate is read again when its files change, and at SIGHUP.

It logs "ready" when it serves, and then answers /readyz with 200.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.Log(logging)
			if err != nil {
				return err
			}
			pace := a.Pace(a.Notifier(log))
			if err := pace.Begin(cmd.Context()); err != nil {
				return nil //nolint:nilerr // asked to end before it began
			}
			return pace.End(a.run(cmd.Context(), log))
		},
	}
	logging.Add(c)
	return c
}

// load reads the settings for a command that needs sound ones.
func (a *app) load(log *slog.Logger) (broker.Config, error) {
	cfg, problems := broker.LoadConfig(a.config)
	program.Warn(log, problems)
	return cfg, program.Usable(problems)
}

func (a *app) run(ctx context.Context, log *slog.Logger) (err error) {
	cfg, err := a.load(log)
	if err != nil {
		return err
	}
	lock, err := broker.LockDataDir(cfg.Node.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	version := program.ThisBuild()
	log.Info("starting", "version", version.Version, "commit", version.Commit, "config", a.config, "data_dir", cfg.Node.DataDir)
	d := &daemon{cfg: cfg, version: version.Version, log: log}
	d.waits("the program starts")
	serve, err := d.listenAdmin()
	if d.audit != nil {
		defer func() { err = errors.Join(err, d.audit.Close()) }()
	}
	if err != nil {
		return err
	}
	return d.serve(ctx, a.Notifier(log), serve)
}

// daemon is the program while it runs: lives of one node, and what answers for them.
type daemon struct {
	cfg     broker.Config
	version string
	log     *slog.Logger
	host    *admin.Host
	audit   *admin.AuditLog

	broker atomic.Pointer[broker.Broker] // nil: it does not serve yet
	doing  atomic.Pointer[string]        // what it waits for then
}

// waits says why no node answers.
func (d *daemon) waits(why string) {
	why = fmt.Sprintf("node %s is not ready: %s", d.cfg.Node.Name, why)
	d.doing.Store(&why)
}

// listenAdmin opens the admin API: the socket always, TCP if the settings say so. It returns what serves it.
func (d *daemon) listenAdmin() (serve func(context.Context) error, err error) {
	token, err := admin.Token(d.cfg.Node.DataDir, rand.Reader)
	if err != nil {
		return nil, err
	}
	if d.audit, err = admin.OpenAudit(d.cfg.Node.DataDir, d.cfg.Node.Name, time.Now, d.log); err != nil {
		return nil, err
	}
	if d.host, err = admin.NewHost(token, func() string { return *d.doing.Load() }, d.log); err != nil {
		return nil, err
	}
	unix, err := admin.ListenUnix(d.cfg.Node.DataDir)
	if err != nil {
		return nil, err
	}
	var tcp net.Listener
	if d.cfg.Listen.Admin != "" {
		if tcp, err = net.Listen("tcp", d.cfg.Listen.Admin); err != nil {
			return nil, errors.Join(fmt.Errorf("admin API: %w; free the address, or change listen.admin", err), unix.Close())
		}
		d.log.Info("admin API", "listen", "http://"+tcp.Addr().String(), "socket", unix.Addr().String())
	}
	return func(ctx context.Context) error { return d.host.Serve(ctx, tcp, unix) }, nil
}

// serve runs the broker and its admin API until ctx ends or either fails. The API ends
// last: while the broker stops, /readyz says so.
func (d *daemon) serve(ctx context.Context, notify program.Notifier, api func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	apiCtx, endAPI := context.WithCancel(context.WithoutCancel(ctx))
	defer endAPI()
	apiEnded, brokerEnded := make(chan error, 1), make(chan error, 1)
	go func() {
		defer cancel()
		apiEnded <- api(apiCtx)
	}()
	go func() {
		defer cancel()
		brokerEnded <- d.lives(ctx)
	}()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	notify.Watch(ctx, d, hup)
	d.log.Info("stopping")
	err := <-brokerEnded
	endAPI()
	if err = errors.Join(err, <-apiEnded); err != nil {
		return err
	}
	d.log.Info("stopped")
	return nil
}

// lives runs one life of the node after the other, until it is told to stop or cannot go on.
func (d *daemon) lives(ctx context.Context) error {
	for {
		err := d.life(ctx)
		log := d.log
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && errors.Is(err, context.Canceled):
			log.Info("stopped before it was ready", "err", err)
			return nil
		case ctx.Err() != nil:
			return err
		case errors.Is(err, broker.ErrLeft):
			log.Warn("this node has left the cluster for good and ends; its data_dir is of no use to the others", "err", err)
			return nil
		case errors.Is(err, broker.ErrGrown):
			log.Warn("this node is one of a cluster now: it begins anew", "cluster", d.cfg.Cluster.Name)
		case errors.Is(err, broker.ErrFenced):
			log.Warn("the other nodes had given this one up: it begins anew", "err", err)
		case errors.Is(err, broker.ErrAgain):
			log.Warn("the node begins anew", "err", err)
		case d.cfg.Cluster != nil && errors.Is(err, broker.ErrNoAnswer):
			log.Warn("the cluster does not answer yet: the node begins anew", "err", err)
		default:
			return err
		}
		d.waits("it begins anew")
	}
}

// life is one life of the node.
func (d *daemon) life(ctx context.Context) error {
	b, err := broker.New(d.cfg, broker.Options{Log: d.log, Version: d.version, Starting: ctx, Starts: d.waits})
	if err != nil {
		return err
	}
	console := broker.NewConsole(b, d.version)
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	d.host.Show(alive, admin.New(admin.Options{Health: console, Devices: console, Ledger: console, Tail: console, Sessions: console, Cluster: console,
		Tokens: console, Enrol: console, Backup: console, Audit: d.audit, Metrics: broker.MetricsHandler(b), Log: d.log}))
	d.broker.Store(b)
	defer d.broker.Store(nil)
	return b.Run(ctx)
}

// Ready is for the service manager, as all that follows.
func (d *daemon) Ready() bool {
	b := d.broker.Load()
	return b != nil && b.Ready() == nil
}

// Stuck is not for a store that refuses: that says so itself and tries again.
func (d *daemon) Stuck() []string {
	if b := d.broker.Load(); b != nil {
		return b.Stuck()
	}
	return nil
}

func (d *daemon) Reload() {
	b := d.broker.Load()
	if b == nil {
		return // the next life reads it
	}
	if err := b.Reload(); err != nil {
		d.log.Error("the new TLS certificate cannot be used: the old one stays", "err", err)
		return
	}
	d.log.Info("reloaded: the TLS certificate; other settings take effect when the broker starts again")
}

// Summary is the one line of systemctl status.
func (d *daemon) Summary() string {
	b := d.broker.Load()
	if b == nil {
		return *d.doing.Load()
	}
	if err := b.Ready(); err != nil {
		return "not ready: " + err.Error()
	}
	g, s := b.Gauges(), b.Stats()
	return fmt.Sprintf("%d clients, %d sessions, %d messages received, %d refused", g.Connections, g.Sessions, s.Received.Load(), s.Rejected.Load())
}
