package agent

import (
	"holdfast/boards"
	"holdfast/devices"
)

// findLine is how devices find their GPIO lines on this board.
func findLine(name string) (devices.Line, error) {
	l, err := boards.FindLine("/", name)
	return devices.Line{Path: l.Path, Chip: l.Chip, Offset: l.Offset}, err
}
