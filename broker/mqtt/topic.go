package mqtt

import "strings"

// ValidTopic says whether s is a topic name: not empty, no wildcards (4.7).
func ValidTopic(s string) bool { return s != "" && !strings.ContainsAny(s, "+#") }

// ParseFilter takes a topic filter apart: the name of the shared subscription ("" for an ordinary
// one) and the filter itself. ok is false if it is not a filter (4.7, 4.8.2).
func ParseFilter(s string) (share, filter string, ok bool) {
	filter = s
	if rest, shared := strings.CutPrefix(s, "$share/"); shared {
		share, filter, ok = strings.Cut(rest, "/")
		if !ok || share == "" || strings.ContainsAny(share, "+#") { // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
			return "", "", false
		}
	}
	return share, filter, validFilter(filter)
}

func validFilter(f string) bool {
	if f == "" {
		return false
	}
	for level := range strings.SplitSeq(f, "/") {
		if len(level) > 1 && strings.ContainsAny(level, "+#") {
			return false
		}
	}
	i := strings.IndexByte(f, '#')
	return i < 0 || i == len(f)-1 // [MQTT-4.7.1-1]
}

// Match says whether a topic name matches an ordinary filter.
func Match(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false // [MQTT-4.7.2-1]
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		if !fmore || !tmore {
			return fmore == tmore || fmore && frest == "#" // "a/#" matches "a"
		}
		filter, topic = frest, trest
	}
}
