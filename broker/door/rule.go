package door

// The values of VerifyRule.Policy.
const (
	PolicyReject = "reject" // a message that does not verify is refused
	PolicyMark   = "mark"   // every message passes, and says what the check found
	PolicyOff    = "off"    // no check
)

// Rule is one [[verify]].
type Rule struct {
	Filter string `toml:"filter"` // MQTT topic filter
	Policy string `toml:"policy"`
}

// DefaultRules is what no [[verify]] means.
func DefaultRules() []Rule { return []Rule{{Filter: "gw/#", Policy: PolicyReject}} }
