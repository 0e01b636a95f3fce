package broker

// looseSubject is where nodes tell each other of QoS 0 messages that are in no log.
const (
	looseSubject = "hf.loose."
	looseLimit   = 1 << 14 // that may wait here
)

// direct gives an unlogged QoS 0 message to those who are connected now, to whatever node. On the way
// to another node it may be lost, as QoS 0 may.
func (b *Broker) direct(r *Record) {
	b.tail.direct(r)
	if b.peers == nil {
		return
	}
	data := AppendBatch(make([]byte, 0, batchFixed+recordSize(r)), Header{Node: b.cfg.Node.Name, Time: r.Arrival}, []Record{*r})
	if err := b.engine.publish(looseSubject+hexName(b.cfg.Node.Name), data); err != nil {
		b.log.Debug("a QoS 0 message does not reach the other nodes", "err", err)
	}
}

// listenLoose hands on what other nodes got with QoS 0.
func (p *peers) listenLoose() error {
	own := p.b.cfg.Node.Name
	return p.subscribe(looseSubject+"*", looseLimit, func(m busMessage) {
		batch, err := DecodeBatch(m.Data)
		if err != nil {
			p.b.log.Warn("a QoS 0 message of another node cannot be read", "err", err)
			return
		}
		if batch.Node == own {
			return
		}
		for i := range batch.Records {
			p.b.tail.direct(&batch.Records[i])
		}
	})
}
