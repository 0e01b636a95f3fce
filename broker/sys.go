package broker

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/broker/mqtt"
)

// sysRoot is above the broker's own topics. They say how this node is, not the cluster; the names
// are mosquitto's where it has one. A client that subscribes gets all values at once, as if they were
// retained, and then those that change.
const sysRoot = "$SYS"

const (
	sysBroker   = sysRoot + "/broker/"
	sysHoldfast = sysRoot + "/holdfast/"
	sysEvery    = 10 * time.Second // mosquitto's sys_interval
)

// sysTopics publishes the broker's own figures. Only the house goroutine calls publish.
type sysTopics struct {
	b    *Broker
	last map[string]string
	due  time.Duration
}

// publish sends the figures that changed to those who subscribed, if it is time.
func (t *sysTopics) publish() {
	now := t.b.mono()
	if now < t.due {
		return
	}
	t.due = now + t.b.sysEvery
	if !t.b.tail.hasRoot(sysRoot) { // nobody asked; whoever does gets all of them
		t.last = nil
		return
	}
	values := t.b.sysValues()
	for _, topic := range slices.Sorted(maps.Keys(values)) {
		if old, had := t.last[topic]; !had || old != values[topic] {
			t.b.tail.direct(t.b.sysRecord(topic, values[topic])) // to the clients of this node alone
		}
	}
	t.last = values
}

func (b *Broker) sysRecord(topic, value string) *Record {
	return &Record{Kind: KindMessage, Topic: topic, Payload: []byte(value), Arrival: b.steady.now()}
}

// sysStored is what a new subscription gets of the broker's own topics.
func (b *Broker) sysStored(filter string) []item {
	if root, _, _ := strings.Cut(filter, "/"); root != sysRoot {
		return nil
	}
	var its []item
	values := b.sysValues()
	for _, topic := range slices.Sorted(maps.Keys(values)) {
		if mqtt.Match(filter, topic) {
			its = append(its, item{rec: b.sysRecord(topic, values[topic]), stored: true, retain: true})
		}
	}
	return its
}

// sysValues is all topics with their present values.
func (b *Broker) sysValues() map[string]string {
	v := map[string]string{}
	number := func(topic string, n uint64) { v[topic] = strconv.FormatUint(n, 10) }
	g, s := b.Gauges(), b.Stats()
	v[sysBroker+"version"] = "holdfast-broker " + b.version
	v[sysBroker+"uptime"] = fmt.Sprintf("%d seconds", int64((b.mono() - b.began).Seconds()))
	number(sysBroker+"clients/connected", uint64(g.Connections))
	number(sysBroker+"clients/disconnected", uint64(g.Sessions-min(g.Sessions, g.Connections)))
	number(sysBroker+"clients/total", uint64(g.Sessions))
	number(sysBroker+"clients/maximum", uint64(g.Peak))
	number(sysBroker+"clients/expired", s.SessionsExpired.Load())
	number(sysBroker+"messages/received", g.In.Packets) // packets of every type, as mosquitto counts
	number(sysBroker+"messages/sent", g.Out.Packets)
	number(sysBroker+"messages/inflight", uint64(g.Unfinished))
	number(sysBroker+"publish/messages/received", g.In.Publishes)
	number(sysBroker+"publish/messages/sent", g.Out.Publishes)
	number(sysBroker+"bytes/received", g.In.Bytes)
	number(sysBroker+"bytes/sent", g.Out.Bytes)
	number(sysBroker+"subscriptions/count", uint64(g.Subscriptions))
	number(sysBroker+"shared_subscriptions/count", uint64(g.Groups))
	number(sysBroker+"retained messages/count", uint64(g.Retained))
	messages, batches := b.discards.sums()
	dropped := uint64(0)
	for r := range discardReasons {
		number(sysHoldfast+"discards/"+r.String()+"/messages", messages[r])
		number(sysHoldfast+"discards/"+r.String()+"/batches", batches[r])
		dropped += messages[r]
	}
	number(sysBroker+"publish/messages/dropped", dropped)
	v[sysHoldfast+"node"] = b.cfg.Node.Name
	v[sysHoldfast+"ready"] = strconv.FormatBool(b.Ready() == nil)
	number(sysHoldfast+"sessions/behind", uint64(g.BehindLogged))
	number(sysHoldfast+"shares/unfinished", uint64(g.GroupsOpen))
	number(sysHoldfast+"shares/behind_batches", g.GroupsBehind)
	number(sysHoldfast+"log/first_batch", g.FirstBatch)
	number(sysHoldfast+"log/last_batch", g.LastBatch)
	sums := b.ledger.Sums()
	number(sysHoldfast+"ledger/received_messages", sums.Received)
	number(sysHoldfast+"ledger/pending_messages", sums.Pending)
	number(sysHoldfast+"ledger/missing_messages", sums.Missing)
	number(sysHoldfast+"ledger/dropped_messages", sums.Dropped)
	return v
}

// hasRoot says whether anybody subscribed below a first level.
func (t *tail) hasRoot(level string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.root.kids[level] != nil
}
