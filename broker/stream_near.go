package broker

import (
	"context"

	"github.com/nats-io/nats-server/v2/server"
)

// nearStream is a log as this node's own replica has it. It needs no leader and no other node, so it answers
// at once while an election is on; but it may end before the log does. Whatever was promised to clients
// after all ready nodes had read it is in it.
type nearStream struct{ *logStream }

func (s *logStream) near() nearStream { return nearStream{s} }

// bounds are those of the replica; without one the leader is asked.
func (s nearStream) bounds(ctx context.Context) (first, last uint64, bytes int64, err error) {
	srv := s.e.server()
	if srv == nil {
		return 0, 0, 0, errEngine
	}
	acc, err := srv.JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	if err == nil {
		for _, d := range acc.Streams {
			if d.Name == s.name {
				return d.State.FirstSeq, d.State.LastSeq, int64(d.State.Bytes), nil
			}
		}
	}
	return s.logStream.bounds(ctx)
}
