package agent

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"holdfast/devices"
)

// CheckTopic tells what is wrong with a topic template. {gateway} and {device} are
// replaced, everything else stands for itself.
func CheckTopic(template string) error {
	rest := strings.NewReplacer("{gateway}", "", "{device}", "").Replace(template)
	switch {
	case template == "":
		return errors.New("is empty; the default is \"gw/{gateway}/{device}\"")
	case strings.ContainsAny(rest, "{}"):
		return fmt.Errorf("%q has an unknown placeholder; there are {gateway} and {device}", template)
	case strings.ContainsAny(rest, "+#"): // MQTT 5 §4.7.1: wildcards are for filters
		return fmt.Errorf("%q has a wildcard (+ or #), which cannot be published to", template)
	case strings.ContainsRune(rest, 0) || !utf8.ValidString(rest): // MQTT 5 §4.7.3, §1.5.4
		return fmt.Errorf("%q must be UTF-8 without NUL", template)
	case strings.HasPrefix(template, "$"): // MQTT 5 §4.7.2
		return fmt.Errorf("%q begins with $, which belongs to the server", template)
	case !strings.Contains(template, "{device}"):
		return fmt.Errorf("%q has no {device}: the devices could not be told apart", template)
	}
	name := strings.Repeat("x", devices.MaxName)
	if n := len(expandTopic(template, name, name)); n > 65535 { // MQTT 5 §1.5.4
		return fmt.Errorf("can become %d bytes long; 65535 is the longest topic", n)
	}
	return nil
}

func expandTopic(template, gateway, device string) string {
	return strings.NewReplacer("{gateway}", gateway, "{device}", device).Replace(template)
}
