package guest

import (
	"context"
	"errors"
	"fmt"
)

// Save writes the machine's memory to a file and ends it. A guest that begins there, with a disk over this
// one's (Over), goes on in a second instead of booting. Not with an adapter of Plug in it: QEMU cannot save that.
func (g *Guest) Save(ctx context.Context, file string) error {
	if err := g.save(ctx, file); err != nil {
		return fmt.Errorf("save the guest: %w", err)
	}
	g.Stop()
	return nil
}

func (g *Guest) save(ctx context.Context, file string) error {
	if _, err := g.Sh("sync"); err != nil {
		return err
	}
	if err := g.QMP("stop", nil, nil); err != nil {
		return err
	}
	if err := g.QMP("migrate-set-parameters", map[string]int64{"max-bandwidth": 4 << 30}, nil); err != nil {
		return err
	}
	if err := g.QMP("migrate", map[string]string{"uri": "exec:cat >'" + file + "'"}, nil); err != nil {
		return err
	}
	for {
		var m struct {
			Status string
			Error  string `json:"error-desc"`
		}
		if err := g.QMP("query-migrate", nil, &m); err != nil {
			return err
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return errors.New(m.Status + ": " + m.Error)
		}
		if err := g.pause(ctx); err != nil {
			return err
		}
	}
}

// resume lets a machine go on whose memory QEMU reads from a file.
func (g *Guest) resume(ctx context.Context) error {
	for {
		var m struct{ Status string }
		if err := g.QMP("query-status", nil, &m); err != nil {
			return err
		}
		switch m.Status {
		case "paused":
			return g.QMP("cont", nil, nil)
		case "running":
			return nil
		}
		if err := g.pause(ctx); err != nil {
			return fmt.Errorf("its memory is not read: %w", err)
		}
	}
}
