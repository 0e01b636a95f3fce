package agent

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/agent/update"
)

// metric is one line of /metrics, read from the status when it is asked for: nothing
// is counted twice.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) float64
}

func countOf[T any](name, help string, labels []string, value func(T) float64) metric[T] {
	return metric[T]{prometheus.NewDesc("holdfast_"+name, help, labels, nil), prometheus.CounterValue, value}
}

func gaugeOf[T any](name, help string, labels []string, value func(T) float64) metric[T] {
	return metric[T]{prometheus.NewDesc("holdfast_"+name, help, labels, nil), prometheus.GaugeValue, value}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collector turns a Status into metrics.
type collector struct {
	src           StatusSource
	info          *prometheus.Desc
	deviceCounter *prometheus.Desc
	agent         []metric[Status]
	device        []metric[DeviceStatus]
}

func newCollector(src StatusSource) *collector {
	return &collector{
		src:           src,
		info:          prometheus.NewDesc("holdfast_info", "Who this is; always 1.", []string{"gateway", "kid", "alg", "epoch", "version"}, nil),
		deviceCounter: prometheus.NewDesc("holdfast_device_events_total", "What the device's driver counts.", []string{"device", "event"}, nil),
		agent:         append(append(agentMetrics(), bufferMetrics()...), uplinkMetrics()...),
		device:        deviceMetrics(),
	}
}

func agentMetrics() []metric[Status] {
	return []metric[Status]{
		gaugeOf("ready", "1 while the agent serves.", nil, func(s Status) float64 { return truth(s.Ready) }),
		gaugeOf("healthy", "1 while every stage makes progress.", nil, func(s Status) float64 { return truth(len(s.Unhealthy) == 0) }),
		gaugeOf("uptime_seconds", "Since the agent started.", nil, func(s Status) float64 { return s.Uptime.Seconds() }),
		gaugeOf("clock_synced", "1 while the wall clock is synchronised.", nil, func(s Status) float64 { return truth(s.Clock.Synced) }),
		gaugeOf("clock_error_seconds", "Bound of the wall clock's error; 0 while not synchronised.", nil, func(s Status) float64 { return s.Clock.ErrorBound.Seconds() }),
		countOf("clock_steps_total", "Times the wall clock jumped by more than a second.", nil, func(s Status) float64 { return float64(s.Clock.Steps) }),
		countOf("control_errors_total", "The gateway's own messages that had to be tried again.", nil, func(s Status) float64 { return float64(s.Control.Errors) }),
		gaugeOf("update_trial", "1 while a new program has to prove itself.", nil, func(s Status) float64 { return truth(s.Update.Trial) }),
		gaugeOf("update_went_back", "1 if the last update did not hold.", nil, func(s Status) float64 {
			return truth(s.Update.Last == update.WentBack || s.Update.Last == update.Unusable)
		}),
		gaugeOf("warnings", "Things that an operator should know of.", nil, func(s Status) float64 { return float64(len(s.Warnings)) }),
	}
}

func bufferMetrics() []metric[Status] {
	return []metric[Status]{
		gaugeOf("buffer_messages", "Messages held and not acknowledged.", nil, func(s Status) float64 { return float64(s.Buffer.Messages) }),
		gaugeOf("buffer_readings", "Readings in them.", nil, func(s Status) float64 { return float64(s.Buffer.Readings) }),
		gaugeOf("buffer_raw_readings", "Readings taken and not sealed yet.", nil, func(s Status) float64 { return float64(s.Buffer.Raws) }),
		gaugeOf("buffer_bytes", "Size on the card.", nil, func(s Status) float64 { return float64(s.Buffer.DiskBytes) }),
		gaugeOf("buffer_max_bytes", "What it may grow to.", nil, func(s Status) float64 { return float64(s.Buffer.MaxBytes) }),
		gaugeOf("buffer_journal_bytes", "Size of the journal.", nil, func(s Status) float64 { return float64(s.Buffer.JournalBytes) }),
		gaugeOf("buffer_journal_tmpfs", "1 while the journal is on tmpfs; 0: on the card.", nil, func(s Status) float64 { return truth(s.Buffer.JournalTmpfs) }),
		gaugeOf("buffer_volatile_messages", "Messages that only the journal holds.", nil, func(s Status) float64 { return float64(s.Buffer.Volatile) }),
		gaugeOf("buffer_oldest_seconds", "Powered-on age of the oldest message.", nil, func(s Status) float64 { return s.Buffer.Oldest.Seconds() }),
		gaugeOf("buffer_aside_bytes", "Damaged stores kept for repair.", nil, func(s Status) float64 { return float64(s.Buffer.AsideBytes) }),
		gaugeOf("buffer_quarantined_messages", "Messages taken out of the line.", nil, func(s Status) float64 { return float64(s.Buffer.Quarantined) }),
		gaugeOf("buffer_drops_pending", "Dropped ranges whose receipt is not delivered yet.", nil, func(s Status) float64 { return float64(s.Buffer.Drops) }),
		countOf("buffer_appended_total", "Messages stored.", nil, func(s Status) float64 { return float64(s.Buffer.Appended) }),
		countOf("buffer_acked_total", "Messages acknowledged and forgotten.", nil, func(s Status) float64 { return float64(s.Buffer.Acked) }),
		countOf("buffer_dropped_total", "Messages dropped, each covered by a receipt.", nil, func(s Status) float64 { return float64(s.Buffer.Dropped) }),
		countOf("buffer_commits_total", "Synced writes to the card.", nil, func(s Status) float64 { return float64(s.Buffer.Commits) }),
		countOf("buffer_commit_bytes_total", "Bytes of them.", nil, func(s Status) float64 { return float64(s.Buffer.CommitBytes) }),
		countOf("buffer_commit_errors_total", "Writes to the card that failed.", nil, func(s Status) float64 { return float64(s.Buffer.CommitErrors) }),
	}
}

func uplinkMetrics() []metric[Status] {
	return []metric[Status]{
		gaugeOf("uplink_connected", "1 while connected to a broker.", nil, func(s Status) float64 { return truth(s.Uplink.Connected) }),
		gaugeOf("uplink_rtt_seconds", "PUBLISH to PUBACK, smoothed.", nil, func(s Status) float64 { return s.Uplink.RTT.Seconds() }),
		gaugeOf("uplink_in_flight", "Messages sent and not acknowledged.", nil, func(s Status) float64 { return float64(s.Uplink.InFlight) }),
		gaugeOf("uplink_backlog", "Messages older than the last connect and not sent yet, at most.", nil, func(s Status) float64 { return float64(s.Uplink.Backlog) }),
		countOf("uplink_connects_total", "Accepted connections.", nil, func(s Status) float64 { return float64(s.Uplink.Connects) }),
		countOf("uplink_connect_errors_total", "Refused or failed attempts.", nil, func(s Status) float64 { return float64(s.Uplink.ConnectErrors) }),
		countOf("uplink_disconnects_total", "Connections that ended without our wish.", nil, func(s Status) float64 { return float64(s.Uplink.Disconnects) }),
		countOf("uplink_sent_total", "PUBLISH packets, resent ones included.", nil, func(s Status) float64 { return float64(s.Uplink.Sent) }),
		countOf("uplink_sent_bytes_total", "Bytes of them.", nil, func(s Status) float64 { return float64(s.Uplink.SentBytes) }),
		countOf("uplink_resent_total", "PUBLISH packets sent again.", nil, func(s Status) float64 { return float64(s.Uplink.Resent) }),
		countOf("uplink_acked_total", "PUBACKs that said success.", nil, func(s Status) float64 { return float64(s.Uplink.Acked) }),
		countOf("uplink_retried_total", "PUBACKs that said try again.", nil, func(s Status) float64 { return float64(s.Uplink.Retried) }),
		countOf("uplink_refused_total", "PUBACKs that said not authorised.", nil, func(s Status) float64 { return float64(s.Uplink.Refused) }),
		countOf("uplink_rejected_total", "PUBACKs that said the message is bad.", nil, func(s Status) float64 { return float64(s.Uplink.Rejected) }),
		countOf("uplink_quarantined_total", "Messages taken out of the line.", nil, func(s Status) float64 { return float64(s.Uplink.Quarantined) }),
	}
}

func deviceMetrics() []metric[DeviceStatus] {
	by := []string{"device"}
	return []metric[DeviceStatus]{
		gaugeOf("device_running", "1 while its driver runs.", by, func(d DeviceStatus) float64 { return truth(d.State == StateRunning) }),
		gaugeOf("device_good", "1 while its last reading was good.", by, func(d DeviceStatus) float64 { return truth(d.Quality == "good") }),
		gaugeOf("device_last_reading_age_seconds", "Since its last reading.", by, func(d DeviceStatus) float64 { return d.LastAge.Seconds() }),
		countOf("readings_taken_total", "Readings that a crash can no longer take.", by, func(d DeviceStatus) float64 { return float64(d.Taken) }),
		countOf("readings_bad_total", "Of these, of bad quality.", by, func(d DeviceStatus) float64 { return float64(d.Bad) }),
		countOf("readings_invalid_total", "Readings refused, by no fault of the wire.", by, func(d DeviceStatus) float64 { return float64(d.Invalid) }),
		countOf("readings_lost_total", "Readings that neither memory nor card could take.", by, func(d DeviceStatus) float64 { return float64(d.Lost) }),
		countOf("messages_sealed_total", "Messages signed.", by, func(d DeviceStatus) float64 { return float64(d.Sealed) }),
		countOf("seal_errors_total", "Attempts to sign that had to be repeated.", by, func(d DeviceStatus) float64 { return float64(d.SealErrors) }),
		countOf("device_restarts_total", "Starts after an error or a panic of the driver.", by, func(d DeviceStatus) float64 { return float64(d.Restarts) }),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.info
	out <- c.deviceCounter
	for _, m := range c.agent {
		out <- m.desc
	}
	for _, m := range c.device {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.src.Status()
	out <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, s.Gateway, s.Kid, s.Alg, s.Epoch, s.Version)
	for _, m := range c.agent {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
	for _, d := range s.Devices {
		for _, m := range c.device {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(d), d.Name)
		}
		for event, n := range d.Counters {
			out <- prometheus.MustNewConstMetric(c.deviceCounter, prometheus.CounterValue, float64(n), d.Name, event)
		}
	}
}

// metricsHandler answers /metrics in the Prometheus and OpenMetrics text formats.
func metricsHandler(src StatusSource) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(src), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
}
