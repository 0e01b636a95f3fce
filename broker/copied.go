package broker

import "fmt"

// copied is how much of the logs that it is to hold a node has.
type copied struct {
	Have uint64 `json:"have"` // batches
	Of   uint64 `json:"of"`
}

func (c copied) add(d copied) copied { return copied{c.Have + d.Have, c.Of + d.Of} }

// percent is rounded down: 100 only when nothing is missing.
func (c copied) percent() int {
	if c.Of == 0 || c.Have >= c.Of {
		return 100
	}
	return int(c.Have * 100 / c.Of)
}

func (c copied) String() string { return fmt.Sprintf("copies %d %%", c.percent()) }
