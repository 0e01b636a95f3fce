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
	"syscall"

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
			return a.run(cmd.Context(), log)
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
	for {
		err := a.life(ctx, cfg, version.Version, log)
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
			log.Warn("this node is one of a cluster now: it begins anew", "cluster", cfg.Cluster.Name)
		case errors.Is(err, broker.ErrFenced):
			log.Warn("the other nodes had given this one up: it begins anew", "err", err)
		case errors.Is(err, broker.ErrAgain):
			log.Warn("the node begins anew", "err", err)
		case cfg.Cluster != nil && errors.Is(err, broker.ErrNoAnswer):
			log.Warn("the cluster does not answer yet: the node begins anew", "err", err)
		default:
			return err
		}
	}
}

// life is one life of the node, until it is told to stop or the other nodes have given it up.
func (a *app) life(ctx context.Context, cfg broker.Config, version string, log *slog.Logger) error {
	b, err := broker.New(cfg, broker.Options{Log: log, Version: version, Starting: ctx})
	if err != nil {
		return err
	}
	server, tcp, unix, err := listenAdmin(cfg, b, version, log)
	if err != nil {
		b.Close()
		return err
	}
	return daemon{log, a.Notifier(log), b}.serve(ctx, func(ctx context.Context) error { return server.Serve(ctx, tcp, unix) })
}

// listenAdmin opens the admin API: the socket always, TCP if the settings say so.
func listenAdmin(cfg broker.Config, b *broker.Broker, version string, log *slog.Logger) (s *admin.Server, tcp, unix net.Listener, err error) {
	token, err := admin.Token(cfg.Node.DataDir, rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	console := broker.NewConsole(b, version)
	s, err = admin.New(admin.Options{Health: console, Devices: console, Ledger: console, Tail: console, Sessions: console, Cluster: console, Backup: console,
		Metrics: broker.MetricsHandler(b), Token: token, Log: log})
	if err != nil {
		return nil, nil, nil, err
	}
	if unix, err = admin.ListenUnix(cfg.Node.DataDir); err != nil {
		return nil, nil, nil, err
	}
	if cfg.Listen.Admin == "" {
		return s, nil, unix, nil
	}
	if tcp, err = net.Listen("tcp", cfg.Listen.Admin); err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("admin API: %w; free the address, or change listen.admin", err), unix.Close())
	}
	log.Info("admin API", "listen", "http://"+tcp.Addr().String(), "socket", unix.Addr().String())
	return s, tcp, unix, nil
}

// daemon is one run of the broker.
type daemon struct {
	log    *slog.Logger
	notify program.Notifier
	broker *broker.Broker
}

// serve runs the broker and its admin API until ctx ends or either fails. The API ends
// last: while the broker stops, /readyz says so.
func (d daemon) serve(ctx context.Context, api func(context.Context) error) error {
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
		brokerEnded <- d.broker.Run(ctx)
	}()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	d.notify.Watch(ctx, d, hup)
	d.log.Info("stopping")
	err := <-brokerEnded
	endAPI()
	if err = errors.Join(err, <-apiEnded); err != nil {
		return err
	}
	d.log.Info("stopped")
	return nil
}

// Ready is for the service manager, as all that follows.
func (d daemon) Ready() bool { return d.broker.Ready() == nil }

// Stuck is never: a store that refuses is no reason to be restarted, it says so itself and tries again.
func (d daemon) Stuck() []string { return nil }

func (d daemon) Reload() {
	if err := d.broker.Reload(); err != nil {
		d.log.Error("the new TLS certificate cannot be used: the old one stays", "err", err)
		return
	}
	d.log.Info("reloaded: the TLS certificate; other settings take effect when the broker starts again")
}

// Summary is the one line of systemctl status.
func (d daemon) Summary() string {
	if err := d.broker.Ready(); err != nil {
		return "not ready: " + err.Error()
	}
	g, s := d.broker.Gauges(), d.broker.Stats()
	return fmt.Sprintf("%d clients, %d sessions, %d messages received, %d refused", g.Connections, g.Sessions, s.Received.Load(), s.Rejected.Load())
}
