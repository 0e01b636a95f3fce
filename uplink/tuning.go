package uplink

import "time"

// tuning are the durations that nobody has to set. Tests shorten them.
type tuning struct {
	connect      time.Duration // name, TCP, TLS, WebSocket and CONNACK together; TLS over GPRS takes ten
	write        time.Duration // in which a peer must take writeChunk
	silence      time.Duration // without any PUBACK while something is in flight, before a reconnect
	stable       time.Duration // a connection that lasts so long clears the backoff
	backoffBase  time.Duration // of connecting
	backoffBrisk time.Duration // in the first minute of an outage
	backoffMax   time.Duration
	againBase    time.Duration // of a message to be tried again
	againMax     time.Duration
	stopBase     time.Duration // of what somebody has to put right: a field engineer has ten minutes and waits for it
	stopMax      time.Duration
	ackDelay     time.Duration // in which a batch of acknowledgements gathers for the Source
	sourceRetry  time.Duration // after an error of the Source
	finish       time.Duration // waiting for PUBACKs before DISCONNECT
}

func defaultTuning() tuning {
	return tuning{
		connect: 30 * time.Second, write: 30 * time.Second, silence: 60 * time.Second, stable: 30 * time.Second,
		backoffBase: time.Second, backoffBrisk: 5 * time.Second, backoffMax: time.Minute,
		againBase: 500 * time.Millisecond, againMax: time.Minute,
		stopBase: 6 * time.Second, stopMax: time.Minute,
		ackDelay: 5 * time.Millisecond, sourceRetry: time.Second,
		finish: 800 * time.Millisecond,
	}
}
