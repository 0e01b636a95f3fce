// Package update replaces the agent's program by a newer, signed one, and goes back.
//
// It promises that whatever happens at whatever moment, kill -9 and power cut included,
// either the old program or the new one starts; that nothing runs whose signature by one
// of the operator's keys was not checked at that very start; that a program on trial
// starts a few times at most before the old one does; and that a program which was given
// up is not tried again unless it is installed again.
//
// It will not restart the agent (a service manager does), fetch anything unasked, or
// decide whether a program is well: it is told that (Health). Who it is, where things lie
// and what time it is it is told as well. docs/UPDATE.md has the picture.
package update

import "time"

// Self is the program that asks: the one of the package.
type Self struct {
	Build
	Platform string // "linux_armv6"
	Buffer   Formats
}

// Moment is a time on the powered-on clock; it says nothing about another boot.
type Moment struct {
	Boot string
	At   time.Duration
}

const (
	// Tries is how often a program on trial is started. Two may be power cuts.
	Tries = 3
	// programName is the file of a program in a release.
	programName = "holdfast"
)
