package broker

import (
	"context"
	"fmt"
	"strconv"
)

// Nodes of two versions work together while they are replaced one after the other. What may be written is the
// cluster's format, a number that stands in the state:
//
//   - A program knows formats from formatOldest to formatNow, and says so in its beats.
//   - The cluster's format rises when every node has said that it knows a higher one; it never falls. Whatever a version
//     adds (a kind of record, a field that must not be lost, a question whose silence would harm) is written only
//     from its format on. So a node that is taken back to the older version finds nothing that it does not know,
//     for as long as one node has not been replaced.
//   - A program that does not know the cluster's format refuses to start, and two whose formats do not overlap
//     do not take clients beside each other.
//
// Between the nodes unknown fields are ignored, unknown questions are answered with "another version".
// FormatNow is in format_number.go.
const (
	formatOldest = 1

	formatKey = "format"
)

// formats is what a program knows.
type formats struct{ oldest, now int }

// format is the cluster's; every node knows it.
func (b *Broker) format() int {
	data, ok := b.state.get(formatKey)
	if !ok {
		return formatOldest
	}
	n, err := strconv.Atoi(string(data))
	if err != nil {
		return formatOldest
	}
	return n
}

// knowsFormat is why this program cannot read what the cluster writes, or nil.
func (b *Broker) knowsFormat() error {
	if f := b.format(); f > b.formats.now || f < b.formats.oldest {
		return fmt.Errorf("the logs are of format %d, which was raised when all nodes knew it, and this program (version %s) knows %d to %d: install the version that the other nodes have",
			f, b.version, b.formats.oldest, b.formats.now)
	}
	return nil
}

// speaks is what a node's beat says; one of before there were formats knows the first.
func (m member) speaks() formats { return formats{max(m.FormatOldest, 1), max(m.Format, 1)} }

// strange is why this node and another cannot work together, or nil.
func (b *Broker) strange(m member) error {
	if f := m.speaks(); f.now < b.formats.oldest || f.oldest > b.formats.now {
		return fmt.Errorf("node %s runs version %s, which knows formats %d to %d, and this one (version %s) knows %d to %d: they are too far apart, upgrade step by step",
			m.Node, m.Version, f.oldest, f.now, b.version, b.formats.oldest, b.formats.now)
	}
	return nil
}

// raiseFormat raises the cluster's format once every node knows a higher one. The first ready node does it.
func (b *Broker) raiseFormat(ctx context.Context) error {
	now := b.formats.now
	if b.peers != nil {
		table := b.peers.members.list()
		if !b.peers.acts() || len(table) < b.engine.size() {
			return nil
		}
		for _, m := range table {
			if !m.Alive {
				return nil // what it runs when it comes back is not known
			}
			now = min(now, m.speaks().now)
		}
	}
	if now <= b.format() {
		return nil
	}
	if err := b.state.Put(ctx, formatKey, strconv.AppendInt(nil, int64(now), 10)); err != nil {
		return fmt.Errorf("raise the format to %d: %w", now, err)
	}
	b.log.Info("all nodes know a newer format: it is written from now on", "format", now)
	return nil
}
