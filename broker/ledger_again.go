package broker

import (
	"context"

	"holdfast/broker/ledger"
)

// streamAgain is how often messages of one stream came again to one node.
type streamAgain struct {
	Gateway    string `json:"gateway"`
	Epoch      string `json:"epoch"`
	Device     string `json:"device"`
	Duplicates uint64 `json:"duplicates"`
	Unverified uint64 `json:"unverified"`
}

// cameAgain is what this node alone knows: the duplicates that came to it.
func cameAgain(l *ledger.Ledger, gateway string) []streamAgain {
	out := []streamAgain{}
	for _, g := range l.Report(gateway) {
		for _, e := range g.Epochs {
			for _, d := range e.Devices {
				if d.Duplicates > 0 {
					out = append(out, streamAgain{g.Gateway, e.Epoch, d.Device, d.Duplicates, d.Unverified})
				}
			}
		}
	}
	return out
}

// reportLedger is the account of a gateway, or of all, with the duplicates of all nodes that answer.
func (b *Broker) reportLedger(ctx context.Context, gateway string) []ledger.Gateway {
	out := b.ledger.Report(gateway)
	at := map[streamAgain]*ledger.Device{}
	for _, g := range out {
		for _, e := range g.Epochs {
			for i := range e.Devices {
				at[streamAgain{Gateway: g.Gateway, Epoch: e.Epoch, Device: e.Devices[i].Device}] = &e.Devices[i]
			}
		}
	}
	for _, other := range askAll[[]streamAgain](ctx, b, question{Do: askAgain, Of: gateway}) {
		if other.err != nil {
			b.log.Warn("the duplicates that came to another node are not in the ledger's report", "node", other.node, "err", other.err)
		}
		for _, a := range other.body {
			if d := at[streamAgain{Gateway: a.Gateway, Epoch: a.Epoch, Device: a.Device}]; d != nil {
				d.Duplicates += a.Duplicates
				d.Unverified += a.Unverified
			}
		}
	}
	return out
}
