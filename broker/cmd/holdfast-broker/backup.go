package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/program"
)

func (a *app) backupCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy everything that the cluster has into a file, while it goes on",
		Long: `Asks a running node for a backup of all nodes: the messages that are stored, sessions,
retained messages, gateways' keys and the ledger, as of one moment. FILE must not exist; it
appears when the backup is whole and has been read again. --check only reads one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if check {
				return a.checkBackup(list[0])
			}
			return a.ask(func(c *admin.Client) error { return a.backup(cmd.Context(), c, list[0]) })
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only read a backup and say what is in it; exit code 1 if it is not whole")
	return c
}

func (a *app) backup(ctx context.Context, c *admin.Client, name string) error {
	if _, err := os.Stat(name); err == nil {
		return program.Usage("%s is there already; give the backup a name of its own", name)
	}
	file, err := os.OpenFile(name+".part", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("%w; if no other backup writes it, remove it", err)
	}
	defer os.Remove(name + ".part")
	defer file.Close()
	err = c.Body(ctx, "/v1/backup", func(r io.Reader) error {
		_, err := io.Copy(file, a.counted(r, "written"))
		return err
	})
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	in, err := broker.CheckBackup(file)
	if err == nil {
		err = os.Rename(name+".part", name)
	}
	if err != nil {
		return err
	}
	return a.printBackup(in, "written to "+name)
}

func (a *app) checkBackup(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	in, err := broker.CheckBackup(file)
	if err != nil {
		return program.Exit{Code: program.AnswerNo, Msg: err.Error()}
	}
	return a.printBackup(in, "whole")
}

func (a *app) printBackup(in broker.Restored, what string) error {
	if a.JSON {
		return a.PrintJSON(in)
	}
	of := "node " + in.Node
	if in.Cluster != "" {
		of = "cluster " + in.Cluster
	}
	fmt.Fprintf(a.Stdout, "backup of %s at %s: %d batches, %d bytes, %s\n", of, stamp(in.Time), in.Batches, in.Bytes, what)
	for _, l := range in.Logs {
		fmt.Fprintf(a.Stdout, "  %s of %s: %d to %d\n", l.Kind, l.Node, l.First, l.Last)
	}
	return nil
}

// counted shows on the standard error how much has been read, every few seconds.
func (a *app) counted(r io.Reader, what string) io.Reader {
	return &countingReader{r: r, next: time.Now().Add(3 * time.Second), say: func(n int64) {
		if !a.JSON {
			fmt.Fprintf(a.Stderr, "%d MiB %s\n", n>>20, what)
		}
	}}
}

type countingReader struct {
	r    io.Reader
	n    int64
	next time.Time
	say  func(int64)
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if now := time.Now(); now.After(c.next) {
		c.say(c.n)
		c.next = now.Add(3 * time.Second)
	}
	return n, err
}

func (a *app) restoreCommand() *cobra.Command {
	var logging program.LogFlags
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a node's store from a backup, while the node is stopped",
		Long: `Makes the store in the data_dir of --config, which must be empty, from a backup: with what all
nodes of the backup had. The node then runs alone; with [cluster] in its settings it brings
everything into the cluster when it starts, where the other nodes must have empty data_dirs and
the secret must be a new one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			log, err := a.Log(logging)
			if err != nil {
				return err
			}
			cfg, err := a.load(log)
			if err != nil {
				return err
			}
			lock, err := broker.LockDataDir(cfg.Node.DataDir)
			if err != nil {
				return err
			}
			file, err := os.Open(list[0])
			if err != nil {
				return errors.Join(err, lock.Close())
			}
			defer file.Close()
			said := time.Now()
			in, err := broker.Restore(cmd.Context(), cfg, file, func(have, of uint64) {
				if time.Since(said) > 3*time.Second && !a.JSON {
					said = time.Now()
					fmt.Fprintf(a.Stderr, "%d of %d batches\n", have, of)
				}
			}, log)
			if err = errors.Join(err, lock.Close()); err != nil {
				return err
			}
			return a.printBackup(in, "restored into "+cfg.Node.DataDir)
		},
	}
	logging.Add(c)
	return c
}
