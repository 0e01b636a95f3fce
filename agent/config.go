package agent

import (
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/uplink"
	"holdfast/uplink/wire"
)

// Config is what an agent needs to know, composed of each part's own configuration.
type Config struct {
	GatewayID    string         // "": made from the machine id and kept in DataDir
	DataDir      string         // on the card
	Board        string         // a board's name, or "auto"
	Algorithm    string         // wire.Ed25519 or wire.HMACSHA256
	KeyFile      string         // absolute, or under DataDir
	Format       wire.Format    //
	Batch        Batch          // readings of one device signed and sent together
	Buffer       buffer.Config  // New fills in DataDir and MachineID
	Uplink       uplink.Config  // New fills in an empty ClientID
	Topic        string         // template, "gw/{gateway}/{device}"
	StatusListen string         // host:port; "": none
	Devices      []DeviceConfig // names are unique
}

// Batch bounds a message; whichever comes first. Interval is never above
// Buffer.CommitInterval.
type Batch struct {
	Interval time.Duration // from the first reading of a batch until it is sealed
	Count    int           // readings
	Bytes    int           // of the readings, before sealing
}

// DeviceConfig is one [[device]].
type DeviceConfig struct {
	Name     string
	Driver   string
	Settings devices.Settings // what the driver's Settings() made, filled in
}
