// Command holdfast is the gateway agent: it reads devices, signs what they say, keeps
// it until a broker has acknowledged it, and tells how it fares.
//
// It promises what package program promises of a command line, and errors that say what
// went wrong, where, and what to do next. Commands only wire: what they do is in package
// agent and below.
//
// It will not go into the background, rotate logs, or fetch updates unasked; the service
// manager and the operator do that.
package main

import "holdfast/systemd/program"

func main() { program.Main(tree) }
