package agent

import (
	"encoding/json"
	"time"

	"holdfast/buffer"
	"holdfast/uplink"
)

// Status is a snapshot of everything an operator may want to see. Durations are
// nanoseconds; those called "at" or "since" are on the boot-monotonic clock (Now).
type Status struct {
	Gateway   string          `json:"gateway"`
	Kid       string          `json:"kid"`
	Alg       string          `json:"alg"`
	JWK       json.RawMessage `json:"jwk,omitempty"` // the public key
	Epoch     string          `json:"epoch"`
	Board     string          `json:"board,omitempty"` // serial number of the board, "" if it has none
	Version   string          `json:"version"`
	Now       time.Duration   `json:"now"`    // boot-monotonic clock at this snapshot
	Uptime    time.Duration   `json:"uptime"` // of the agent
	Ready     bool            `json:"ready"`
	NotReady  []string        `json:"not_ready,omitempty"` // why /readyz says no
	Unhealthy []string        `json:"unhealthy,omitempty"` // why the watchdog is not fed
	Clock     ClockStatus     `json:"clock"`
	Devices   []DeviceStatus  `json:"devices"` // sorted by name
	Buffer    buffer.Stats    `json:"buffer"`
	Uplink    uplink.Status   `json:"uplink"`
	Control   ControlStatus   `json:"control"`
	Update    UpdateStatus    `json:"update"`
	Enrol     EnrolStatus     `json:"enrol"`
	Warnings  []string        `json:"warnings,omitempty"` // in plain words
}

// ClockStatus says what the agent thinks of the time.
type ClockStatus struct {
	Synced     bool          `json:"synced"`
	Source     string        `json:"source,omitempty"` // who synchronised it: "system", or the device that tells the time
	Wall       time.Time     `json:"wall"`             // what packs carry now; a lower bound unless synced
	ErrorBound time.Duration `json:"error_bound"`      // either way; 0 if not synced
	Boot       string        `json:"boot"`
	Anchored   bool          `json:"anchored"` // this boot has its signed anchor
	Steps      uint64        `json:"steps"`    // times the wall clock was seen to jump by more than a second
}

// DeviceStatus is one device.
type DeviceStatus struct {
	Name       string            `json:"name"`
	Driver     string            `json:"driver"`
	State      string            `json:"state"`              // StateRunning, StateFailed, StateStopped
	Error      string            `json:"error,omitempty"`    // why it failed last
	Quality    string            `json:"quality"`            // of the last reading; "" before the first
	Reason     string            `json:"reason,omitempty"`   // why that was not good
	LastAt     time.Duration     `json:"last_at"`            // when the last reading was taken; 0: none yet
	LastAge    time.Duration     `json:"last_age"`           // since then
	Taken      uint64            `json:"taken"`              // readings that a crash can no longer take
	Bad        uint64            `json:"bad"`                // of these, of bad quality
	Invalid    uint64            `json:"invalid"`            // readings refused, by no fault of the wire
	Lost       uint64            `json:"lost"`               // readings that neither memory nor card could take
	Restarts   uint64            `json:"restarts"`           // after an error or a panic of the driver
	Panics     uint64            `json:"panics"`             //
	Waiting    int               `json:"waiting"`            // taken and not yet sealed
	Sealed     uint64            `json:"sealed"`             // messages
	SealErrors uint64            `json:"seal_errors"`        // each was tried again
	Counters   map[string]uint64 `json:"counters,omitempty"` // the driver's own
	Tags       map[string]string `json:"tags,omitempty"`     // of what it takes now
	Values     []ValueStatus     `json:"values,omitempty"`   // the last of each metric, by name
}

// ValueStatus is the last reading of a metric, for people.
type ValueStatus struct {
	Metric  string        `json:"metric"`
	Value   string        `json:"value"` // cut if it is long; "" if there is none
	Unit    string        `json:"unit,omitempty"`
	Quality string        `json:"quality"`
	Reason  string        `json:"reason,omitempty"`
	Age     time.Duration `json:"age"`
}

// The states of a device.
const (
	StateRunning = "running"
	StateFailed  = "failed"  // its driver gave up; it is started again after a while
	StateStopped = "stopped" // the agent is stopping it
)

// UpdateStatus says where the program came from, and how the last update went.
type UpdateStatus struct {
	Release string `json:"release"`           // installed release that runs; "": the package's program
	Trial   bool   `json:"trial,omitempty"`   // it has to prove itself
	Last    string `json:"last,omitempty"`    // "confirmed", "went back", "let go", "unusable"; "": there was none
	Version string `json:"version,omitempty"` // what that happened to
	Reason  string `json:"reason,omitempty"`  // and why
}

// ControlStatus counts the gateway's own messages.
type ControlStatus struct {
	Opens   uint64 `json:"opens"`
	Anchors uint64 `json:"anchors"`
	Drops   uint64 `json:"drops"`
	Closes  uint64 `json:"closes"`
	Errors  uint64 `json:"errors"` // each is tried again
}
