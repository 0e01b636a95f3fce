package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// CheckFilter says what is wrong with an MQTT topic filter (MQTT 5.0 section 4.7).
func CheckFilter(filter string) error {
	switch {
	case filter == "":
		return errors.New(`a filter is empty; "#" matches every topic`)
	case len(filter) > 65535 || !utf8.ValidString(filter) || strings.ContainsRune(filter, 0):
		return errors.New("a filter is UTF-8 without NUL and at most 65,535 bytes long")
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "#" && i < len(levels)-1:
			return fmt.Errorf(`%q: "#" can only be the last level`, filter)
		case level != "#" && level != "+" && strings.ContainsAny(level, "#+"):
			return fmt.Errorf(`%q: "#" and "+" stand for whole levels`, filter)
		}
	}
	return nil
}

// MatchFilter says whether a topic matches a filter. A wildcard at the beginning does
// not match topics that begin with "$" (MQTT-4.7.2-1).
func MatchFilter(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "#") || strings.HasPrefix(filter, "+")) {
		return false
	}
	for {
		f, restF, moreF := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, restT, moreT := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !moreF && !moreT:
			return true
		case !moreT: // "a/#" matches "a" too
			return restF == "#"
		case !moreF:
			return false
		}
		filter, topic = restF, restT
	}
}
