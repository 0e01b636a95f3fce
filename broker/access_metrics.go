package broker

import "time"

// access is who was let in, and what was refused.
func (c collector) access(m metrics) {
	a := c.b.access
	if a == nil {
		return
	}
	for _, l := range a.chain.Counts() {
		for answer, n := range map[string]uint64{"allow": l.Allowed, "deny": l.Denied, "not_mine": l.NotMine, "error": l.Failed, "reused": l.Reused, "last_known": l.LastKnown} {
			m.counter(figure{"auth_answers", "What sources of users said of clients: deny includes wrong passwords; reused and last_known are answers that were given without asking.", n},
				"source", l.Label, "answer", answer)
		}
		m.counter(figure{"auth_source_milliseconds", "Time that clients waited for a source of users.", uint64(l.Spent / time.Millisecond)}, "source", l.Label)
	}
	p, sets := a.chain.Passwords(), a.chain.Sets()
	n := &a.counts
	for _, f := range []figure{
		{"auth_passwords_known", "Logins whose password was verified lately and needed no hash.", p.Hits},
		{"auth_passwords_hashed", "Passwords whose hash was computed.", p.Hashed},
		{"auth_passwords_wrong", "Passwords that did not match.", p.Wrong},
		{"auth_passwords_busy", "Logins that were refused with \"server busy\", because too many waited for their hash.", p.Busy},
		{"auth_passwords_forgotten", "Verified passwords that had to go because there are too many.", p.Forgotten},
		{"auth_hash_milliseconds", "Time that was spent in password hashes.", uint64(p.Spent / time.Millisecond)},
		{"auth_rule_sets_compiled", "Sets of rules that were compiled.", sets.Compiled},
		{"auth_rule_sets_shared", "Clients that got a set that was compiled before.", sets.Shared},
		{"auth_rule_sets_forgotten", "Sets that had to go because there are too many.", sets.Forgotten},
		{"auth_publishes_refused", "PUBLISHes that no rule allows.", n.Publishes.Load()},
		{"auth_subscriptions_refused", "Subscriptions that no rule allows.", n.Subscriptions.Load()},
		{"auth_wills_refused", "CONNECTs that were refused because of their will.", n.Wills.Load()},
		{"auth_refusals_undelayed", "Refused clients that were answered at once, because too many others waited.", n.Undelayed.Load()},
		{"auth_connections_ended", "Connections that were closed because the right to them ended.", n.Ended.Load()},
		{"auth_subscriptions_suspended", "Subscriptions that lost their right.", n.Suspended.Load()},
		{"auth_subscriptions_resumed", "Of them, those that got it again.", n.Resumed.Load()},
		{"auth_refreshed", "Times that a source was asked again about a connected client.", n.Refreshed.Load()},
		{"auth_refreshed_in_vain", "Of them, those that it did not answer: the client's rights stayed as they were.", n.Unrefreshed.Load()},
	} {
		m.counter(f)
	}
	m.gauge(figure{"auth_passwords_remembered", "Verified passwords that are remembered, as keyed hashes.", uint64(p.Remembered)})
	m.gauge(figure{"auth_passwords_waiting", "Logins that wait for their hash.", uint64(max(0, p.Waiting))})
	m.gauge(figure{"auth_rule_sets", "Different sets of rules that are remembered.", uint64(sets.Remembered)})
	m.gauge(figure{"auth_refusals_waiting", "Refused clients that wait for their answer.", uint64(max(0, a.delayed.Load()))})
}
