// Command holdfast-broker is the broker node and the tool to look after it.
//
// It promises what package program promises of a command line, and errors that say what
// went wrong, where, and what to do next. Commands only wire: what they do is in package
// broker and below. Those that act on a running broker talk to its admin API, on the node
// itself over the unix socket.
//
// It will not go into the background, rotate logs or update itself; the service
// manager does that.
package main

import "holdfast/systemd/program"

func main() { program.Main(tree) }
