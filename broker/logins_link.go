package broker

// loginSubject is where the nodes of a cluster tell each other what logins failed (broker/limits).
const loginSubject = "hf.logins"

// listenLogins hears what the other nodes tell, and lets this one tell them.
func (p *peers) listenLogins() error {
	p.b.logins.Share(p.b.cfg.Node.Name, func(data []byte) error { return p.b.engine.publish(loginSubject, data) })
	return p.subscribe(loginSubject, 1024, func(m busMessage) {
		if err := p.b.logins.Listen(m.Data); err != nil {
			p.b.log.Warn("what another node tells of logins cannot be read", "err", err)
		}
	})
}
