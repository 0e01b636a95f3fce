package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/buffer"
	"holdfast/systemd/program"
	"holdfast/uplink/wire"
)

func (a *app) bufferCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "buffer",
		Short: "Look into the buffer, take messages out, repair it",
	}
	cmd.AddCommand(a.bufferStat(), a.bufferPeek(), a.bufferExport(), a.bufferRepair())
	return cmd
}

func (a *app) bufferStat() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "What the buffer holds; of a running agent too",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.load()
			if err != nil {
				return err
			}
			stats, err := buffer.Inspect(cfg.DataDir, cfg.Buffer.RuntimeDir)
			if err == nil {
				err = handOver(cfg)
			}
			if errors.Is(err, buffer.ErrLocked) {
				var st agent.Status
				st, err = agent.AskStatus(cmd.Context(), cfg.SocketPaths())
				stats = st.Buffer
			}
			if err != nil {
				return buffering(cfg, err)
			}
			if stats.MaxBytes == 0 {
				stats.MaxBytes = cfg.Buffer.MaxBytes
			}
			if a.JSON {
				return a.PrintJSON(stats)
			}
			return printStats(a.Stdout, stats)
		},
	}
	return cmd
}

// buffering says where, and what to do when an agent is in the way.
func buffering(cfg agent.Config, err error) error {
	if errors.Is(err, buffer.ErrLocked) {
		return fmt.Errorf("%s: %w; stop the agent first: systemctl stop holdfast", cfg.DataDir, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: there is no buffer; the agent has not run with this gateway.data_dir yet, or it is another one", cfg.DataDir)
	}
	return fmt.Errorf("%s: %w", cfg.DataDir, err)
}

func printStats(w io.Writer, s buffer.Stats) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("epoch", "%s", s.Epoch)
	row("waiting", "%d messages, %d readings, and %d readings not sealed", s.Messages, s.Readings, s.Raws)
	row("on the card", "%s of %s; ring %d messages, %d segments", mib(s.DiskBytes), mib(s.MaxBytes), s.RingMessages, s.Segments)
	row("journal", "%s, tmpfs %t; %d messages only there", mib(s.JournalBytes), s.JournalTmpfs, s.Volatile)
	row("oldest", "%s of powered-on time", span(s.Oldest))
	row("drops", "%d ranges without a delivered receipt", s.Drops)
	row("quarantine", "%d messages", s.Quarantined)
	row("set aside", "%s of damaged stores", mib(s.AsideBytes))
	row("epochs", "%d old ones not closed", s.OldEpochs)
	for _, trouble := range []string{s.LastError, s.StoreDisabled} {
		if trouble != "" {
			row("trouble", "%s", trouble)
		}
	}
	return t.Flush()
}

func (a *app) bufferPeek() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "peek",
		Short: "Print the oldest messages (agent stopped)",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if count < 1 {
				return program.Usage("--count %d: want at least 1", count)
			}
			var list []peeked
			err := a.export(func(h buffer.Held, m wire.Message) error {
				p := peeked{Held: h, Topic: m.Topic}
				if pack, err := wire.Decode(m); err != nil {
					p.Error = err.Error()
				} else {
					p.Records, p.Tags = pack.Records, pack.Tags
				}
				list = append(list, p)
				if len(list) == count {
					return errEnough
				}
				return nil
			})
			if err != nil {
				return err
			}
			if a.JSON {
				return a.PrintJSON(list)
			}
			return printPeeked(a.Stdout, list)
		},
	}
	cmd.Flags().IntVarP(&count, "count", "n", 10, "how `many` messages")
	return cmd
}

// peeked is a message and what is in it.
type peeked struct {
	buffer.Held
	Topic   string            `json:"topic"`
	Tags    map[string]string `json:"tags,omitempty"`
	Records []wire.Record     `json:"records"`
	Error   string            `json:"error,omitempty"`
}

func printPeeked(w io.Writer, list []peeked) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "POS\tDEVICE\tEPOCH\tSEQ\tREADINGS\tSTATE\tWHERE\tFIRST")
	for _, p := range list {
		first := p.Error
		if len(p.Records) > 0 {
			first = describe(p.Records[0])
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Pos, p.Device, p.Epoch, p.Seq, p.Readings, p.State, p.Where, first)
	}
	return t.Flush()
}

func describe(r wire.Record) string {
	switch {
	case r.V != nil:
		return fmt.Sprintf("%s = %v %s", r.Name, *r.V, r.Unit)
	case r.VS != nil:
		return fmt.Sprintf("%s = %.40q", r.Name, *r.VS)
	case r.VB != nil:
		return fmt.Sprintf("%s = %t", r.Name, *r.VB)
	case r.VD != nil:
		return fmt.Sprintf("%s = %d bytes", r.Name, len(r.VD))
	}
	return fmt.Sprintf("%s: %s (%s)", r.Name, r.Quality, r.Reason)
}

var errEnough = errors.New("enough")

// export calls each with every message that the stopped agent's buffer holds.
func (a *app) export(each func(buffer.Held, wire.Message) error) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	var failed error
	err = buffer.Export(cfg.DataDir, cfg.Buffer.RuntimeDir, func(h buffer.Held) bool {
		m, err := wire.ParseEnvelope(h.Blob)
		if err != nil {
			fmt.Fprintf(a.Stderr, "position %d (%s): %v; left out\n", h.Pos, h.Where, err)
			return true
		}
		failed = each(h, m)
		return failed == nil
	})
	if err == nil {
		err = handOver(cfg)
	}
	if err != nil {
		return buffering(cfg, err)
	}
	if failed != nil && !errors.Is(failed, errEnough) {
		return failed
	}
	return nil
}

func (a *app) bufferExport() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write every message as a line of JSON, for holdfast verify (agent stopped)",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) (err error) {
			w := a.Stdout
			if output != "-" {
				f, err2 := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err2 != nil {
					return err2
				}
				defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
				w = f
			}
			n := 0
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			err = a.export(func(_ buffer.Held, m wire.Message) error {
				n++
				return e.Encode(m) // as `holdfast verify` reads it
			})
			if err == nil {
				fmt.Fprintf(a.Stderr, "%d messages\n", n)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "-", "new `file` to write to; -: standard output")
	return cmd
}

func (a *app) bufferRepair() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Put messages of damaged stores back in line (agent stopped)",
		Long: `Reads the stores that were set aside as damaged and puts every intact message that was
not acknowledged back in line. Exit 1 if something in them stays unreadable; it is kept.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, _, err := a.load()
			if err != nil {
				return err
			}
			if _, err := os.Stat(cfg.DataDir); err != nil {
				return buffering(cfg, err) // repair would make one
			}
			report, err := agent.RepairBuffer(cfg, slog.New(slog.NewTextHandler(a.Stderr, nil)))
			if err = errors.Join(err, handOver(cfg)); err != nil {
				return buffering(cfg, err)
			}
			if a.JSON {
				err = a.PrintJSON(report)
			} else {
				fmt.Fprintf(a.Stdout, "%d stores read: %d intact messages, %d put back in line, %d known already; %d damaged blocks\n",
					report.Stores, report.Found, report.Restored, report.Known, report.Damaged)
				for _, name := range report.Remaining {
					fmt.Fprintf(a.Stdout, "kept, something in it is unreadable: %s\n", name)
				}
			}
			if err == nil && len(report.Remaining) > 0 {
				return program.No
			}
			return err
		},
	}
	return cmd
}
