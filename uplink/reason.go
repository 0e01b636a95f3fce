package uplink

import (
	"fmt"
	"strings"
)

// verdict is what a reason code means for us.
type verdict uint8

const (
	ok       verdict = iota // taken
	again                   // try again, backing off
	busy                    // of CONNACK: try again slowly, the server asks for less
	stop                    // refused: nothing gets through until somebody acts; try slowly, say so
	poison                  // this message is bad, if others succeed
	suspect                 // one of the messages in flight may have caused it
	redirect                // Server Reference says where to go
)

// reason is one line of the table of reason codes (MQTT 5 §2.4) as we read it in
// CONNACK (§3.2.2.2), PUBACK (§3.4.2.1) and DISCONNECT (§3.14.2.1). Where a code is
// not defined for a packet the column says what is safest: never lose, never spin.
type reason struct {
	name                        string
	connack, puback, disconnect verdict
	advice                      string // what a person can do
}

// reasonOf returns the table's line for code. Codes from 0x80 on are failures (§2.4);
// an unknown one is tried again.
func reasonOf(code byte) reason {
	switch code {
	case 0x00:
		return reason{"success", ok, ok, again, ""}
	case 0x10: // nobody listens: the server has it nevertheless, §3.4.2.1
		return reason{"no matching subscribers", ok, ok, again, ""}
	case 0x80:
		return reason{"unspecified error", again, again, suspect, ""}
	case 0x81:
		return reason{"malformed packet", stop, again, suspect, ""}
	case 0x82:
		return reason{"protocol error", stop, again, suspect, ""}
	case 0x83:
		return reason{"implementation specific error", again, again, suspect, ""}
	case 0x84:
		return reason{"unsupported protocol version", stop, again, again, "the server must speak MQTT 5"}
	case 0x85:
		return reason{"client identifier not valid", stop, again, again, "check gateway.id against the server's rules"}
	case 0x86:
		return reason{"bad user name or password", stop, stop, stop, "check uplink.username and uplink.password_file"}
	case 0x87: // of a PUBLISH: the right is missing, not the message bad
		return reason{"not authorized", stop, stop, stop, "check uplink.username and uplink.password_file, and the server's access rules for uplink.topic"}
	case 0x88:
		return reason{"server unavailable", again, again, again, ""}
	case 0x89:
		return reason{"server busy", busy, again, again, ""}
	case 0x8A:
		return reason{"banned", stop, stop, stop, "the server's operator has to lift the ban"}
	case 0x8B:
		return reason{"server shutting down", again, again, again, ""}
	case 0x8C:
		return reason{"bad authentication method", stop, again, stop, "the server demands enhanced authentication, which is not supported"}
	case 0x8D:
		return reason{"keep alive timeout", again, again, again, ""}
	case 0x8E: // answering at once would make two clients throw each other out for ever
		return reason{"session taken over", stop, again, stop, "another client uses the same gateway.id"}
	case 0x90:
		return reason{"topic name invalid", stop, poison, suspect, "check uplink.topic against the server's rules"}
	case 0x91: // the server remembers another exchange; another packet id will do
		return reason{"packet identifier in use", again, again, again, ""}
	case 0x93:
		return reason{"receive maximum exceeded", again, again, again, ""}
	case 0x94:
		return reason{"topic alias invalid", again, again, again, ""}
	case 0x95: // of a PUBLISH there is never a PUBACK, the server disconnects
		return reason{"packet too large", stop, poison, suspect, "lower buffer.batch_bytes or raise the server's maximum packet size"}
	case 0x96:
		return reason{"message rate too high", again, again, again, "set uplink.drain_rate"}
	case 0x97:
		return reason{"quota exceeded", busy, again, again, ""}
	case 0x98:
		return reason{"administrative action", again, again, again, ""}
	case 0x99:
		return reason{"payload format invalid", stop, poison, suspect, "the server rejects the payload; see holdfast verify"}
	case 0x9A:
		return reason{"retain not supported", again, again, again, ""}
	case 0x9B:
		return reason{"QoS not supported", stop, again, stop, "the server must accept QoS 1"}
	case 0x9C:
		return reason{"use another server", redirect, again, redirect, ""}
	case 0x9D:
		return reason{"server moved", redirect, again, redirect, "put the new server into uplink.servers"}
	case 0x9F:
		return reason{"connection rate exceeded", busy, again, again, ""}
	case 0xA0:
		return reason{"maximum connect time", again, again, again, ""}
	}
	if code < 0x80 {
		return reason{"success", ok, ok, again, ""}
	}
	return reason{"unknown reason", again, again, again, ""}
}

// refusal words what a server said: packet, code, its own words and what to do.
func refusal(packet string, code byte, words string) string {
	r := reasonOf(code)
	if r.puback == stop && strings.Contains(words, "key") { // Holdfast's broker, of the signature: login and access rules are good
		r.advice = "the broker must know the key that `holdfast identity` shows: holdfast-broker device show GATEWAY there, device add registers it"
	}
	s := fmt.Sprintf("%s 0x%02X %s", packet, code, r.name)
	if words != "" {
		s += fmt.Sprintf(" (%.200q)", words)
	}
	if r.advice != "" {
		s += ": " + r.advice
	}
	return s
}
