package broker

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
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
		{"panics", "Bugs that ended a connection.", s.Panics.Load()},
	}
}

func gauges(g Gauges, devices int) []figure {
	return []figure{
		{"connections", "Clients that are connected.", uint64(g.Connections)},
		{"sessions", "Sessions, connected or not.", uint64(g.Sessions)},
		{"sessions_behind", "Connected sessions that read from the log because they are behind.", uint64(g.BehindLogged)},
		{"retained_messages", "Retained messages.", uint64(g.Retained)},
		{"log_first_batch", "The oldest batch of the log.", g.FirstBatch},
		{"log_last_batch", "The newest stored batch of the log.", g.LastBatch},
		{"queued_bytes", "Publishes that wait for the disk, in bytes.", uint64(g.QueuedBytes)},
		{"dropped_qos0", "QoS 0 messages for which present sessions had no room.", g.DroppedQoS0},
		{"registered_gateways", "Gateways in the registry.", uint64(devices)},
	}
}

func (t LedgerSums) figures() []figure {
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

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, f figure, suffix string, labels ...string) {
		var names []string
		if len(labels) > 0 {
			names = []string{"reason"}
		}
		d := prometheus.NewDesc(metricPrefix+f.name+suffix, f.help, names, nil)
		out <- prometheus.MustNewConstMetric(d, kind, float64(f.value), labels...)
	}
	for _, f := range counters(c.b.Stats()) {
		send(prometheus.CounterValue, f, "_total")
	}
	for _, f := range gauges(c.b.Gauges(), c.b.registry.Len()) {
		send(prometheus.GaugeValue, f, "")
	}
	for _, f := range c.b.ledger.Sums().figures() { // gauges: what is missing may arrive, and a rebuilt ledger starts again
		send(prometheus.GaugeValue, f, "")
	}
	verified, refused := c.b.door.Counts()
	send(prometheus.CounterValue, figure{"verified", "Messages whose signature was good.", verified}, "_total")
	for reason, n := range refused {
		send(prometheus.CounterValue, figure{"not_verified", "Messages that did not verify, by reason.", n}, "_total", reason)
	}
	ready := figure{"ready", "1 if the node takes clients and stores messages.", 1}
	if c.b.Ready() != nil {
		ready.value = 0
	}
	send(prometheus.GaugeValue, ready, "")
}

// MetricsHandler serves the broker's metrics in the formats of Prometheus.
func MetricsHandler(b *Broker) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{b}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
