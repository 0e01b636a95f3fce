package broker

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/broker/ledger"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// figure is one number of the status and the metrics.
type figure struct {
	name  string
	help  string
	value uint64
}

func counters(s *Stats) []figure {
	return []figure{
		{"connects", "CONNECTs that were accepted.", s.Connects.Load()},
		{"connects_refused", "CONNECTs that were refused.", s.Refused.Load()},
		{"publishes_received", "PUBLISHes from clients.", s.Received.Load()},
		{"publishes_rejected", "PUBLISHes that the door refused.", s.Rejected.Load()},
		{"publishes_refused_silently", "Of them, acknowledged to MQTT 3.1.1 clients, which can be told nothing.", s.SilentlyRefused.Load()},
		{"publishes_not_stored", "PUBLISHes that could not be stored.", s.StoreRefused.Load()},
		{"duplicates", "Verified messages that were here already.", s.Duplicates.Load()},
		{"conflicts", "Verified messages whose number was used for other bytes.", s.Conflicts.Load()},
		{"publishes_sent", "PUBLISHes to clients.", s.Sent.Load()},
		{"expired", "Messages not sent because their expiry had passed.", s.Expired.Load()},
		{"too_large", "Messages not sent because they exceed a client's Maximum Packet Size.", s.TooLarge.Load()},
		{"trimmed_batches", "Batches that retention removed.", s.TrimmedBatches.Load()},
		{"trimmed_sessions", "Sessions that had not read what retention removed, once per trim.", s.TrimmedSessions.Load()},
		{"lost_unread", "Unfinished messages that were trimmed or damaged before they were sent again.", s.LostUnread.Load()},
		{"damaged_batches", "Stored batches that could not be read, once per reader.", s.DamagedBatches.Load()},
		{"sessions_expired", "Sessions whose expiry had passed.", s.SessionsExpired.Load()},
		{"sessions_moved", "Sessions that came from another node.", s.Moved.Load()},
		{"shared_dealt_again", "Messages of shared subscriptions that were dealt again because the node that had them in hand was gone: members may get them twice.", s.SharedAgain.Load()},
		{"panics", "Bugs that ended a connection.", s.Panics.Load()},
		{"logins_failed", "CONNECTs whose user name or password was wrong.", s.LoginsFailed.Load()},
		{"accept_errors", "Connections that the system could not hand over, for want of file descriptors for instance.", s.Front.AcceptErrors.Load()},
	}
}

func gauges(g Gauges, devices int) []figure {
	return []figure{
		{"connections", "Clients that are connected.", uint64(g.Connections)},
		{"connections_peak", "Most connections there were at once since the start.", uint64(g.Peak)},
		{"sessions", "Sessions, connected or not.", uint64(g.Sessions)},
		{"sessions_behind", "Connected sessions that read from the log because they are behind.", uint64(g.BehindLogged)},
		{"subscriptions", "Subscriptions of all sessions, shared ones included.", uint64(g.Subscriptions)},
		{"shared_subscriptions", "Groups that share a subscription and that this node owns.", uint64(g.Groups)},
		{"shared_unfinished_messages", "Messages that the shared subscriptions of this node have dealt out, or have back, and that are not acknowledged.", uint64(g.GroupsOpen)},
		{"shared_behind_batches", "Batches of the logs that the slowest shared subscription that this node owns has not read.", g.GroupsBehind},
		{"unfinished_messages", "Messages sent with QoS 1 or 2 that are not acknowledged.", uint64(g.Unfinished)},
		{"retained_messages", "Retained messages.", uint64(g.Retained)},
		{"log_first_batch", "The oldest batch of the log.", g.FirstBatch},
		{"log_last_batch", "The newest stored batch of the log.", g.LastBatch},
		{"queued_bytes", "Publishes that wait for the disk, in bytes.", uint64(g.QueuedBytes)},
		{"registered_gateways", "Gateways in the registry.", uint64(devices)},
	}
}

// traffics are counters of what went over the connections.
func traffics(g Gauges) []figure {
	return []figure{
		{"received_packets", "MQTT packets from clients.", g.In.Packets},
		{"received_bytes", "Bytes of MQTT packets from clients.", g.In.Bytes},
		{"sent_packets", "MQTT packets to clients.", g.Out.Packets},
		{"sent_bytes", "Bytes of MQTT packets to clients.", g.Out.Bytes},
		{"dropped_qos0", "QoS 0 messages for which present sessions had no room.", g.DroppedQoS0},
	}
}

func ledgerFigures(t ledger.Sums) []figure {
	return []figure{
		{"ledger_gateways", "Gateways in the ledger.", uint64(t.Gateways)},
		{"ledger_streams", "Devices times epochs in the ledger.", uint64(t.Streams)},
		{"ledger_received_messages", "Verified messages received.", t.Received},
		{"ledger_received_readings", "Readings in them.", t.Readings},
		{"ledger_duplicate_messages", "Messages received again.", t.Duplicates},
		{"ledger_pending_messages", "Messages that gateways still hold.", t.Pending},
		{"ledger_missing_messages", "Messages that should be here and are not, without a receipt.", t.Missing},
		{"ledger_dropped_messages", "Messages that gateways signed a drop receipt for.", t.Dropped},
		{"ledger_uncertain_epochs", "Epochs that ended in a power cut with an uncertain tail.", uint64(t.Uncertain)},
		{"ledger_conflicts", "Messages that contradict an earlier one of the same identity.", t.Conflicts},
		{"ledger_skipped_readings", "Readings that the totals of received messages leave out.", t.Skipped},
	}
}

const metricPrefix = "holdfast_broker_"

// collector reads everything when it is asked.
type collector struct{ b *Broker }

// Describe implements prometheus.Collector: by sending nothing it is unchecked.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// metrics sends figures; labels are names and values in turn.
type metrics chan<- prometheus.Metric

func (m metrics) send(kind prometheus.ValueType, f figure, suffix string, labels ...string) {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	d := prometheus.NewDesc(metricPrefix+f.name+suffix, f.help, names, nil)
	m <- prometheus.MustNewConstMetric(d, kind, float64(f.value), values...)
}

func (m metrics) counter(f figure, labels ...string) {
	m.send(prometheus.CounterValue, f, "_total", labels...)
}
func (m metrics) gauge(f figure, labels ...string) { m.send(prometheus.GaugeValue, f, "", labels...) }

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	m, b := metrics(out), c.b
	g := b.Gauges()
	for _, f := range counters(b.Stats()) {
		if f.name != "connects_refused" && f.name != "publishes_not_stored" { // those have reasons
			m.counter(f)
		}
	}
	m.refusals(b.Stats())
	for _, f := range traffics(g) {
		m.counter(f)
	}
	for _, f := range gauges(g, b.registry.Len()) {
		m.gauge(f)
	}
	for _, f := range ledgerFigures(b.ledger.Sums()) { // gauges: what is missing may arrive, and a rebuilt ledger starts again
		m.gauge(f)
	}
	verified, refused := b.door.Counts()
	m.counter(figure{"verified", "Messages whose signature was good.", verified})
	for reason, n := range refused {
		m.counter(figure{"not_verified", "Messages that did not verify, by reason.", n}, "reason", reason)
	}
	for i, r := range listen.Refusals {
		m.counter(figure{"connections_turned_away", "Connections that ended before they spoke MQTT, by reason.", b.stats.Front.Refused[i].Load()}, "reason", r.Name)
	}
	c.limits(m)
	messages, batches := b.discards.sums()
	for r := range discardReasons {
		m.counter(figure{"discarded_messages", "Messages that somebody who should have had them did not get, by reason.", messages[r]}, "reason", r.String())
		m.counter(figure{"discarded_batches", "Batches of the log that a session could not read, by reason, where messages cannot be counted.", batches[r]}, "reason", r.String())
	}
	m.counter(figure{"trace_missed_lines", "Lines of client traces that were left out: they were not read in time.", b.tracer.lost.Load()})
	c.access(m)
	c.store(m)
	c.cluster(m)
	c.bus(m)
	m.gauge(figure{"build_info", "1; the program's version is the label.", 1}, "version", b.version)
}

// refusals are those with a reason.
func (m metrics) refusals(s *Stats) {
	for code := range s.ByCode {
		if n := s.ByCode[code].Load(); n > 0 || code == mqtt.ServerUnavailable || code == mqtt.UseAnotherServer {
			m.counter(figure{"connects_refused", "CONNECTs that were refused, by the reason code of the CONNACK.", n}, "code", codeName(byte(code)))
		}
	}
	for why, name := range notStoredNames {
		m.counter(figure{"publishes_not_stored", "PUBLISHes that could not be stored, by reason.", s.NotStored[why].Load()}, "reason", name)
	}
}

// bus is what the nodes say to each other and may be lost: what has to arrive is read from the logs instead.
func (c collector) bus(m metrics) {
	if c.b.peers == nil {
		return
	}
	for queue, n := range c.b.engine.busDrops() {
		m.counter(figure{"bus_dropped_messages", "Messages of other nodes that had no room in their queue here, by queue: loose are QoS 0 messages, what else is missed is asked for or read again.", n}, "queue", queue)
	}
	m.counter(figure{"bus_unsent_messages", "Messages for other nodes that the engine did not take.", c.b.engine.unsent.Load()})
	m.counter(figure{"departed_forgotten", "Clients that left without a session and are not remembered any more: their next node does not wait for what they published here.", c.b.departed.forgotten.Load()})
}

// store is what the disk holds.
func (c collector) store(m metrics) {
	ctx, cancel := context.WithTimeout(c.b.ctx, storeScrape)
	defer cancel()
	for name, s := range map[string]*logStream{"messages": c.b.stream, "state": c.b.state.stream} {
		if _, _, bytes, err := s.bounds(ctx); err == nil {
			m.gauge(figure{"store_bytes", "What a log takes on disk.", uint64(bytes)}, "log", name)
		}
	}
	m.gauge(figure{"store_limit_bytes", "What [store] max_bytes allows the messages log.", uint64(c.b.cfg.Store.MaxBytes)})
	m.counter(figure{"store_replaced", "Times that this node's copy of the logs was damaged and made anew from the others, in all its lives.", uint64(c.b.id.Replaced)})
	m.gauge(figure{"store_healing", "1 while this node's copy of the logs is made anew.", one(c.b.peers != nil && !c.b.disk.healed.Load())})
	if free, err := freeBytes(c.b.cfg.Node.DataDir); err == nil {
		m.gauge(figure{"disk_free_bytes", "Free on the disk of data_dir.", uint64(max(0, free))})
	}
}

// cluster is the nodes as this one sees them.
func (c collector) cluster(m metrics) {
	m.gauge(figure{"ready", "1 if the node takes clients and stores messages.", one(len(c.b.whyNotReady()) == 0)})
	m.gauge(figure{"draining", "1 if the node is being emptied, or is empty because of that.", one(c.b.drainer.refusal() != nil)})
	_, quorum := c.b.cluster.name()
	m.gauge(figure{"cluster_quorum", "1 if enough nodes are there to store messages.", one(quorum)})
	for _, n := range c.b.cluster.members() {
		m.gauge(figure{"cluster_member_ready", "1 if a node says that it is ready.", one(n.Ready)}, "member", n.Name)
		for _, l := range n.Logs {
			for reader, lag := range l.Lag {
				m.gauge(figure{"cluster_log_lag_batches", "Batches of a node's log that another node has not read yet.", lag},
					"member", n.Name, "log", l.Name, "reader", reader)
			}
		}
	}
}

func one(is bool) uint64 {
	if is {
		return 1
	}
	return 0
}

// storeScrape bounds how long a scrape waits for the engine.
const storeScrape = 2 * time.Second

// MetricsHandler serves the broker's metrics in the formats of Prometheus.
func MetricsHandler(b *Broker) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{b}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
