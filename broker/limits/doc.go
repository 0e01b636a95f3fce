// Package limits is what the settings under [limits] say, and the account of who comes near it.
//
// It says how many connections an address may have and how fast they may come (addresses.go), how fast a client may send
// (pace.go), how long somebody waits who guesses passwords (logins.go, and share.go between the nodes of a cluster), and which
// settings there are (config.go). Whoever reaches a limit is counted, and said once a minute for each limit and address.
//
// It promises that what it remembers of strangers is bounded, and that nobody can lock a user out from elsewhere.
//
// It ends no connection for what a client does in MQTT and knows none of its packets: what reaching a limit means there is
// decided by who asks. It orders nothing by a wall clock.
package limits
