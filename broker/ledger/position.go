package ledger

import "fmt"

// Position says where a record stands: in whose log, in which batch, and where in it. It is
// our own number and never the engine's sequence, which a copy of the log would change.
type Position struct {
	Node  string
	Batch uint64
	Index uint32
}

// String is the form in logs and on the command line: n1/42/7.
func (p Position) String() string { return fmt.Sprintf("%s/%d/%d", p.Node, p.Batch, p.Index) }

// Before orders two positions of one node's log.
func (p Position) Before(q Position) bool {
	return p.Batch < q.Batch || p.Batch == q.Batch && p.Index < q.Index
}
