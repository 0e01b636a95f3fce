package broker

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/door"
	"holdfast/broker/mqtt"
)

// Explanation says what becomes of messages on a topic for one client, and why.
type Explanation struct {
	Client    string           `json:"client"`
	Topic     string           `json:"topic"`
	Node      string           `json:"node"` // that answers
	Publish   Verdicts         `json:"publish"`
	Receive   Verdicts         `json:"receive"`
	Rule      *ExplainedRule   `json:"verify"`        // that applies to the topic; absent: none
	Matches   []SessionSub     `json:"subscriptions"` // of the client, that match
	NearMiss  []string         `json:"near_misses"`   // filters of the client that almost match, and why they do not
	Retained  *ExplainedRetain `json:"retained,omitempty"`
	Session   *SessionInfo     `json:"session,omitempty"` // absent: there is none
	Discarded []Discard        `json:"discarded"`         // of this topic, by this client, newest first
}

// Verdicts is an answer with its reasons.
type Verdicts struct {
	Answer string   `json:"answer"` // one of the Explain constants
	Why    []string `json:"why"`
}

// The values of Verdicts.Answer.
const (
	ExplainYes   = "yes"
	ExplainNo    = "no"
	ExplainLater = "later"  // when the client is back, or has caught up
	ExplainMaybe = "either" // one member of a shared group gets it

	ExplainUnknown = "unknown" // the sources of users say it when the client connects
)

// ExplainedRule is the [[verify]] that applies.
type ExplainedRule struct {
	Filter string `json:"filter"`
	Policy string `json:"policy"`
}

// ExplainedRetain is the retained message of a topic.
type ExplainedRetain struct {
	QoS     byte      `json:"qos"`
	Bytes   int       `json:"bytes"`
	Client  string    `json:"client"` // that published it
	Arrived time.Time `json:"arrived"`
	Expired bool      `json:"expired,omitempty"`
}

// publishRule is asked whether a client may publish to a topic; the answer of the first that has one
// counts.
type publishRule func(client, topic string) (answer, why string)

// explain says what becomes of a topic for a client.
func (b *Broker) explain(ctx context.Context, client, topic string) (Explanation, error) {
	if err := checkTopic(topic); err != nil {
		return Explanation{}, &admin.Error{Status: http.StatusBadRequest, Message: err.Error(), Hint: "give the topic of a message, not a filter"}
	}
	e := Explanation{Client: client, Topic: topic, Node: b.cfg.Node.Name, Matches: []SessionSub{}, NearMiss: []string{}, Discarded: []Discard{}}
	d, known := b.showSession(ctx, client)
	if s, ok := b.savedOf(client); !known && ok {
		d, known = s.detail(ctx, b), true
	}
	if known {
		e.Session = &d.SessionInfo
	}
	e.Publish = b.explainPublish(client, topic, &e)
	e.explainReceive(b, &d)
	if it, ok := b.retained.get(topic); ok {
		_, expired := b.remaining(it.rec)
		e.Retained = &ExplainedRetain{QoS: it.rec.QoS, Bytes: len(it.rec.Payload), Client: it.rec.Client,
			Arrived: time.UnixMicro(it.rec.Arrival).UTC(), Expired: expired}
	}
	lost, _ := b.discards.of(client)
	for _, x := range lost.Newest {
		if x.Topic == topic || x.Topic == "" {
			e.Discarded = append(e.Discarded, x)
		}
	}
	return e, nil
}

// checkTopic wants a topic name (4.7).
func checkTopic(topic string) error {
	if strings.ContainsAny(topic, "#+") {
		return fmt.Errorf("%q has wildcards: it is a filter", topic)
	}
	return mqtt.CheckFilter(topic)
}

func (b *Broker) explainPublish(client, topic string, e *Explanation) Verdicts {
	rules := []publishRule{b.ownTopics}
	for _, ask := range rules {
		if answer, why := ask(client, topic); answer != "" {
			return Verdicts{answer, []string{why}}
		}
	}
	out := b.explainRights(client, topic)
	if out.Answer == ExplainNo {
		return out
	}
	if err := b.takes(); err != nil {
		out.Answer = ExplainNo
		out.Why = append(out.Why, "this node takes no clients: "+err.Error())
	} else if err := b.Ready(); err != nil {
		out.Answer = ExplainNo
		out.Why = append(out.Why, "QoS 1 and 2 are refused (QoS 0 passes): "+err.Error())
	}
	rule := b.door.Policy(topic)
	if rule.Filter != "" {
		e.Rule = &ExplainedRule{rule.Filter, rule.Policy}
	}
	switch {
	case rule.Filter == "":
		out.Why = append(out.Why, "no [[verify]] matches the topic: no signature is asked for")
	case rule.Policy == door.PolicyReject:
		out.Why = append(out.Why, fmt.Sprintf("[[verify]] filter %q demands a signature by a registered gateway key: without one the answer is 0x87", rule.Filter))
	case rule.Policy == door.PolicyMark:
		out.Why = append(out.Why, fmt.Sprintf("[[verify]] filter %q marks every message with what the check found", rule.Filter))
	default:
		out.Why = append(out.Why, fmt.Sprintf("[[verify]] filter %q asks for no signature", rule.Filter))
	}
	if e.Session != nil && e.Session.Protocol == "3.1.1" && rule.Policy == door.PolicyReject {
		out.Why = append(out.Why, "the client speaks MQTT 3.1.1, which cannot carry the signature of the json format: a refused message is acknowledged and not stored")
	}
	return out
}

// ownTopics are those of the broker.
func (b *Broker) ownTopics(_, topic string) (answer, why string) {
	if topic == sysRoot || strings.HasPrefix(topic, sysRoot+"/") {
		return ExplainNo, "$SYS is the broker's own: the answer is 0x90"
	}
	return "", ""
}

// explainReceive says whether a message that is published to the topic now would reach the client.
func (e *Explanation) explainReceive(b *Broker, d *SessionDetail) {
	out := &e.Receive
	out.Answer, out.Why = ExplainNo, []string{}
	say := func(format string, args ...any) { out.Why = append(out.Why, fmt.Sprintf(format, args...)) }
	if e.Session == nil {
		say("it has no session here: it never connected, its session ended with its connection, or it has expired")
		return
	}
	shared := true
	for _, s := range d.Subs {
		if !mqtt.Match(plainFilter(s.Filter), e.Topic) {
			if why := nearMiss(plainFilter(s.Filter), e.Topic); why != "" {
				e.NearMiss = append(e.NearMiss, fmt.Sprintf("%s: %s", s.Filter, why))
			}
			continue
		}
		if s.Suspended {
			say("subscription %s has lost its right and gets nothing: %s", s.Filter, b.explainFilter(e.Client, s.Filter))
			continue
		}
		e.Matches = append(e.Matches, s)
		out.Answer = ExplainYes
		if s.Members > 0 {
			say("shared subscription %s (QoS %d): one of its members gets each message", s.Filter, s.QoS)
			e.explainShare(s.Share, say)
			continue
		}
		shared = false
		say("subscription %s, QoS %d", s.Filter, s.QoS)
		if why := b.explainFilter(e.Client, s.Filter); why != "" {
			say("… which it may have: %s", why)
		}
		if s.NoLocal {
			say("… with No Local: its own messages do not come back")
		}
	}
	if len(e.Matches) == 0 {
		say("none of its %d subscriptions matches", len(d.Subs))
		return
	}
	if shared {
		out.Answer = ExplainMaybe
	}
	e.explainState(b, d, shared, say)
}

// explainShare says how the group of a shared subscription is.
func (e *Explanation) explainShare(i *ShareInfo, say func(string, ...any)) {
	if i.Owner == "" {
		say("… nobody owns the group now: it goes on where it was when a member connects")
		return
	}
	say("… %s; it is %d batches of the log behind", i, i.Behind)
}

// explainState says what stands between a subscription that matches and the client.
func (e *Explanation) explainState(b *Broker, d *SessionDetail, shared bool, say func(string, ...any)) {
	later := func() {
		if e.Receive.Answer == ExplainYes {
			e.Receive.Answer = ExplainLater
		}
	}
	highest := slices.MaxFunc(e.Matches, func(a, b SessionSub) int { return cmp.Compare(a.QoS, b.QoS) }).QoS
	switch {
	case !d.Connected && !d.Kept, !d.Connected && highest == 0:
		e.Receive.Answer = ExplainNo
		say("it is away since %s and subscribed with QoS 0: such messages do not wait", d.Since.Format(time.RFC3339))
	case !d.Connected && shared:
		e.Receive.Answer = ExplainNo
		say("it is away since %s: other members of the group get them", d.Since.Format(time.RFC3339))
	case !d.Connected:
		later()
		say("it is away since %s: QoS 1 and 2 wait in the log, QoS 0 does not", d.Since.Format(time.RFC3339))
	}
	if d.NodeDown != nil {
		say("its node %s is down since %s: the session goes on at any other node that the client comes to", d.Node, d.NodeDown.Format(time.RFC3339))
	}
	if d.Ends != nil && !d.Connected {
		say("its session expires at %s, and what waits for it with it", d.Ends.Format(time.RFC3339))
	}
	if d.Behind > 0 {
		later()
		say("it has %d batches of the log to read first (%s)", d.Behind, counted(d.Backlog))
	}
	if d.Lost > 0 {
		say("retention has trimmed %d of them before it read them: they are counted under discards", d.Lost)
	}
	if d.Connected && d.Unfinished >= d.Window {
		later()
		say("its window is full: %d messages of at most %d are not acknowledged, and no QoS 1 or 2 is sent before it acknowledges one", d.Unfinished, d.Window)
	}
	if d.MaxPacket > 0 {
		say("packets of more than %d bytes are not sent: it asked for that (Maximum Packet Size)", d.MaxPacket)
	}
	if d.Connected {
		say("connected to %s from %s since %s, MQTT %s", d.ListenedOn, d.Addr, d.Since.Format(time.RFC3339), d.Protocol)
	}
	if err := b.Ready(); err != nil {
		say("this node stores nothing at present: %v", err)
	}
}

func counted(l SessionBacklog) string {
	if !l.Complete {
		return fmt.Sprintf("at least %d messages for it", l.Messages)
	}
	return fmt.Sprintf("%d messages for it", l.Messages)
}

// nearMiss says why a filter that looks as if it matched does not.
func nearMiss(filter, topic string) string {
	switch {
	case strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "#") || strings.HasPrefix(filter, "+")):
		return "a wildcard at the first level does not match topics that begin with $"
	case strings.EqualFold(filter, topic) || mqtt.Match(strings.ToLower(filter), strings.ToLower(topic)):
		return "it differs in upper and lower case"
	case mqtt.Match(strings.Trim(filter, "/"), strings.Trim(topic, "/")):
		return "a slash at the beginning or end makes a level of its own"
	case mqtt.Match(filter+"/#", topic):
		return "it stops above the topic: a filter without # matches as many levels as it has"
	}
	return ""
}
