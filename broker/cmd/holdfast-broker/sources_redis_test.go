package main

import (
	"fmt"
	"testing"

	"holdfast/broker/auth/servers"
)

// Hashes of "ann-secret" and of something else.
const (
	annHash   = "$2a$04$RSPYsR8FzbaSvC0os5DX3e0MNwnlqYN8BMo00JnpgyKuHlB0QfyrO"
	otherHash = "$2a$04$8GeH.ujUSYd5gNnO0c1dmulZ9no5XAxJLFhoqPjf44WM6KjVK0YI."
)

// TestDoorRedis: VerneMQ's keys, with a mountpoint, put in with redis-cli.
func TestDoorRedis(t *testing.T) {
	t.Parallel()
	r := servers.Redis(t, nil, "--appendonly", "yes") // one that comes back without its keys knows nobody any more, and connections end
	set := func(hash, down string) {
		for _, id := range []string{"c-1", "c-2"} {
			r.CLI(t, "SET", `["plant","`+id+`","ann"]`, `{"passhash":"`+hash+`","publish_acl":[{"pattern":"up/%c","max_qos":1,"max_payload_size":100,"allowed_retain":false},{"pattern":"%m/%u/%c"}],"subscribe_acl":[{"pattern":"`+down+`","max_qos":1},{"pattern":"keep/#","max_qos":1}]}`)
		}
	}
	whole := func() { set(annHash, "down/#") }
	whole()
	k := &kept{
		tables:  fmt.Sprintf("[[auth]]\ntype = \"redis\"\nservers = [%q]\nmountpoint = \"plant\"\ntimeout = \"1s\"\nrefresh = \"1s\"\n", r.Addr),
		granted: 1,
		more: func(t *testing.T, d *authDoor) {
			ann := d.enter("c-2", "ann", "ann-secret", nil)
			ann.may(false, "up/c-2", 2, false, 10, "not authorized: QoS too high")
			ann.may(false, "up/c-2", 1, true, 10, "not authorized: retain")
			ann.may(true, "up/c-2", 1, false, 100, "")
			ann.may(false, "up/c-2", 1, false, 101, "not authorized: payload too large")
			ann.may(true, "plant/ann/c-2", 2, true, 1000, "")
			ann.may(false, "plant/ann/c-1", 1, false, 1, "not authorized")
		},
		take: func() { set(annHash, "elsewhere/#") }, give: whole, another: func() { set(otherHash, "down/#") },
		hang: r.Hang, goOn: r.GoOn, die: r.Die, back: func() { r.Start(); r.Listens(r.Addr) },
	}
	k.throughTheDoor(t)
	whole()
	k.lastKnown(t)
}
