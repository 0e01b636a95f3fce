package agent

import (
	"crypto/rand"
	"log/slog"

	"holdfast/boards"
	"holdfast/buffer"
)

// RepairBuffer salvages what damaged stores still hold, with the identity and the
// clock that the agent itself would use. No agent may be running.
func RepairBuffer(cfg Config, log *slog.Logger) (buffer.Report, error) {
	clock, err := SystemClock()
	if err != nil {
		return buffer.Report{}, err
	}
	id, err := OpenIdentity(cfg, rand.Reader)
	if err != nil {
		return buffer.Report{}, err
	}
	c := cfg.Buffer
	c.DataDir, c.MachineID = cfg.DataDir, boards.SerialNumber("/")
	return buffer.Repair(c, bufferEnv(log, clock, newTimekeeper(clock, clock.System()).wall, id, rand.Reader))
}
