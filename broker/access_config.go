package broker

import (
	"time"

	"holdfast/broker/auth"
	"holdfast/systemd/settings"
)

// AccessConfig is [access]: what becomes of those who may not.
type AccessConfig struct {
	OnRefusedPublish string        `toml:"on_refused_publish"`
	RefusedDelay     time.Duration `toml:"refused_delay"` // that a refused client waits for its CONNACK
}

// The values of AccessConfig.OnRefusedPublish.
const (
	refusedDrop       = "drop"       // the message alone is refused
	refusedDisconnect = "disconnect" // and the connection ends
)

// maxRefusedDelay is less than clients wait for a CONNACK.
const maxRefusedDelay = 10 * time.Second

func defaultAccess() AccessConfig {
	return AccessConfig{OnRefusedPublish: refusedDrop, RefusedDelay: 2 * time.Second}
}

// readAuth reads the sources of users.
func (c *Config) readAuth(doc *settings.Doc) {
	c.Auth = auth.Read(doc)
	switch c.Access.OnRefusedPublish {
	case refusedDrop, refusedDisconnect:
	default:
		doc.Problem("access.on_refused_publish", `is %q; write "drop" or "disconnect"`, c.Access.OnRefusedPublish)
	}
	if c.Access.RefusedDelay > maxRefusedDelay {
		doc.Problem("access.refused_delay", "%s is longer than clients wait; at most %s", settings.FormatDuration(c.Access.RefusedDelay), settings.FormatDuration(maxRefusedDelay))
	}
	if doc.Has("access") && !doc.Has("auth") {
		doc.Warn("access", "has no effect: there is no [[auth]]")
	}
}
