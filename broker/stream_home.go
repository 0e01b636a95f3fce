package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// This file is about the lead of a log, which belongs to the node that writes it.

// isHome says whether this node leads the stream, its own or another's, as its own engine sees it.
func (s *logStream) isHome() bool {
	if !s.e.clustered() {
		return true
	}
	srv := s.e.server()
	return srv != nil && srv.JetStreamIsStreamLeader("$G", s.name)
}

// bringHome makes this node the leader of its own stream: a batch then needs one round trip, and no
// other node's death stops it. It asks again and again until ctx ends.
func (s *logStream) bringHome(ctx context.Context) error {
	var whole time.Time // since when this node's replica has everything and is not taken for one that has
	wait := firstLook
	for asked := 0; !s.isHome(); asked-- {
		look, cancel := context.WithTimeout(ctx, wait)
		err := s.mayLead(look, 0)
		cancel()
		if errors.Is(err, errEngine) { // the question may have met a change of the lead, and nobody answers it
			wait = min(2*wait, clusterCall)
		}
		if !errors.Is(err, errLagging) {
			whole = time.Time{}
		} else if whole.IsZero() {
			whole = time.Now()
		} else if time.Since(whole) > lagAnyway {
			err, whole = nil, time.Time{}
		}
		if err == nil && asked <= 0 {
			asked = 8 // looks: the old leader hands over within 0.1 to 0.3 s
			err = s.moveTo(ctx, s.e.serverName())
		}
		if errors.Is(err, errNotReplica) {
			_, perr := s.place(ctx)
			err = errors.Join(err, s.e.dropOld(ctx, true), perr)
		}
		if err != nil {
			s.e.log.Debug("a log does not come home yet", "log", s.kind, "err", err)
			s.e.waits(err)
		}
		if !s.isHome() && !pause(ctx, retryPause) {
			return fmt.Errorf("the %s log is led by another node: %w", s.kind, errors.Join(err, ctx.Err()))
		}
	}
	return nil
}

var (
	errBehind  = errors.New("this node's copy of it is not complete yet")
	errLagging = errors.New("its leader has not heard yet that this node's copy is complete")
)

// lagAnyway is how long a complete copy waits until it counts as one.
const lagAnyway = 15 * time.Second

// mayLead says why this node cannot lead the log now, or nil. The engine hands over to whoever is named if only it is
// there: one that still copies does not stand for election, for 4 to 9 s nobody leads, the copy is broken off, and the next
// attempt does the same again. Slack is how many batches may be on their way.
func (s *logStream) mayLead(ctx context.Context, slack uint64) error {
	st, err := s.info(ctx)
	if err != nil {
		return err
	}
	if st.Cluster == nil {
		return errNoQuorum
	}
	for _, r := range st.Cluster.Replicas {
		if r.Name != s.e.serverName() {
			continue
		}
		_, last, _, err := s.near().bounds(ctx)
		srv := s.e.server()
		switch {
		case err != nil:
			return err
		case slack == 0 && (srv == nil || !srv.JetStreamIsStreamCurrent("$G", s.name)):
			return fmt.Errorf("%w: the %s log is still being copied", errBehind, s.kind)
		case last+slack < st.State.Last:
			return fmt.Errorf("%w: %d slots of the %s log are missing", errBehind, st.State.Last-last, s.kind)
		case slack == 0 && !r.Current || r.Lag > slack:
			return fmt.Errorf("%w: the %s log", errLagging, s.kind)
		}
		return nil
	}
	if s.isHome() {
		return nil
	}
	return fmt.Errorf("%w: the %s log", errNotReplica, s.kind)
}

// errNotReplica: the server has no replica of the log yet.
var errNotReplica = errors.New("it is no replica yet")

// moveTo asks the leader to hand over to a server.
func (s *logStream) moveTo(ctx context.Context, server string) error {
	m, err := s.e.ask(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+s.name, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, server))
	if err == nil {
		err = apiError(m.Data)
	}
	if err != nil && strings.Contains(err.Error(), "not known") {
		err = fmt.Errorf("%w: %w", errNotReplica, err)
	}
	if err != nil {
		return fmt.Errorf("move the leader of %s: %w", s.name, err)
	}
	return nil
}

// handOverTime bounds what a node that stops waits for.
const handOverTime = time.Second

// handOver gives away what this engine leads, before it ends in order: otherwise each log would have no leader for the 4 to
// 9 s of an election, and this node, if it is only started again, would wait for that as well. It is a courtesy:
// what fails is left to the elections.
func (e *engine) handOver() {
	srv := e.server()
	if srv == nil || !e.clustered() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	given := e.led(srv)
	for _, s := range given {
		if to, err := s.heir(ctx); err != nil || to == "" {
			e.log.Debug("a log is not handed over", "log", s.kind, "of", s.node, "err", err)
		} else if err := s.moveTo(ctx, to); err != nil {
			e.log.Debug("a log is not handed over", "log", s.kind, "of", s.node, "err", err)
		}
	}
	if srv.JetStreamIsLeader() {
		e.mu.RLock()
		sys := e.sys
		e.mu.RUnlock()
		if _, err := sys.RequestWithContext(ctx, server.JSApiLeaderStepDown, nil); err != nil {
			e.log.Debug("the lead of the engines is not handed over", "err", err)
		}
	}
	for slices.ContainsFunc(given, func(s *logStream) bool { return s.leaderNear(srv) == "" }) || srv.JetStreamIsLeader() {
		if !pause(ctx, handOverTime/50) {
			return
		}
	}
}

// led is the logs that this engine leads.
func (e *engine) led(srv *server.Server) (out []*logStream) {
	acc, err := srv.JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	if err != nil {
		return nil
	}
	for _, d := range acc.Streams {
		for _, kind := range []string{kindMessages, kindState} {
			s := logStream{e: e, kind: kind, name: d.Name, ahead: &ahead{}}
			if strings.HasPrefix(d.Name, streamName(kind, "")) && s.isHome() {
				out = append(out, &s)
			}
		}
	}
	return out
}

// heir is another server that has all of the log, "" if none has.
func (s *logStream) heir(ctx context.Context) (string, error) {
	st, err := s.info(ctx)
	if err != nil || st.Cluster == nil {
		return "", err
	}
	for _, r := range st.Cluster.Replicas {
		if r.Current && !r.Offline && r.Lag == 0 {
			return r.Name, nil
		}
	}
	return "", nil
}

// leaderNear is the server that leads the log, as far as this engine has heard.
func (s *logStream) leaderNear(srv *server.Server) string {
	acc, err := srv.JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	if err != nil {
		return ""
	}
	for _, d := range acc.Streams {
		if d.Name == s.name && d.Cluster != nil {
			return d.Cluster.Leader
		}
	}
	return ""
}
