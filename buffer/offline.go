package buffer

// Held is a message as the offline tools show it.
type Held struct {
	Pos      uint64 `json:"pos"`
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	Seq      uint64 `json:"seq"`
	Total    uint64 `json:"total"`
	Readings int    `json:"readings"`
	Control  bool   `json:"control"`
	State    string `json:"state"` // "waiting", "quarantined", "aside"
	Where    string `json:"where"` // "journal", "ring", "segment", or the path of a set-aside store
	Blob     []byte `json:"-"`
}

// Report is what Repair did.
type Report struct {
	Stores    int      `json:"stores"`    // set-aside stores read
	Found     int      `json:"found"`     // intact messages in them
	Restored  int      `json:"restored"`  // put back in line
	Known     int      `json:"known"`     // acknowledged or held already
	Damaged   int      `json:"damaged"`   // damaged blocks
	Remaining []string `json:"remaining"` // stores kept because something in them is unreadable
}

// Inspect returns the state of a data directory that no agent uses at the moment.
// runtimeDir may be "".
func Inspect(dataDir, runtimeDir string) (Stats, error) { return Stats{}, ErrClosed }

// Export yields every message of a data directory that no agent uses, set-aside and
// quarantined ones included, until yield returns false. A blob is valid only during
// its call of yield.
func Export(dataDir, runtimeDir string, yield func(Held) bool) error { return ErrClosed }

// Repair salvages messages from the set-aside stores and puts those not acknowledged
// back in line. No agent may use the directory.
func Repair(cfg Config, env Env) (Report, error) { return Report{}, ErrClosed }
