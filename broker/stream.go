package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// logStream is one of a node's two streams, seen as a row of numbered slots. Only its own node writes
// to it; but a fence is written by another.
type logStream struct {
	e       *engine
	node    string // whose log it is
	kind    string
	name    string
	subject string
	ahead   *ahead
}

// The kinds of log.
const (
	kindMessages = "messages"
	kindState    = "state"
)

func streamName(kind, node string) string { return "HF_" + kind + "_" + hexName(node) }

// logOf is a node's log, be it there or not.
func (e *engine) logOf(kind, node string) *logStream {
	name := streamName(kind, node)
	return &logStream{e: e, node: node, kind: kind, name: name, subject: "hf." + name, ahead: &ahead{}}
}

// sendResult is the engine's answer to one batch.
type sendResult struct {
	seq uint64
	err error
}

func (e *engine) answered(m *nats.Msg) {
	ch, ok := e.replies.LoadAndDelete(m.Subject)
	if !ok {
		return // an answer that nobody waits for any more
	}
	var ack struct {
		Seq uint64 `json:"seq"`
	}
	r := sendResult{}
	switch {
	case m.Header.Get("Status") != "":
		r.err = fmt.Errorf("%w: status %s", errEngine, m.Header.Get("Status"))
	default:
		if r.err = apiError(m.Data); r.err == nil {
			r.err = json.Unmarshal(m.Data, &ack)
			r.seq = ack.Seq
		}
	}
	ch.(chan sendResult) <- r
}

// send stores data in slot seq or not at all. The answer comes into the channel, which has room
// for it; it may never come.
func (s *logStream) send(seq uint64, id string, data []byte) (<-chan sendResult, error) {
	s.e.gate()
	nc, _, err := s.e.conn()
	if err != nil {
		return nil, err
	}
	reply := s.e.inbox + "." + strconv.FormatUint(s.e.token.Add(1), 36)
	ch := make(chan sendResult, 1)
	s.e.replies.Store(reply, ch)
	err = nc.PublishMsg(&nats.Msg{Subject: s.subject, Reply: reply, Data: data, Header: nats.Header{
		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(seq-1, 10)},
		jetstream.MsgIDHeader:           {id},
	}})
	if err != nil {
		s.e.replies.Delete(reply)
		return nil, fmt.Errorf("send to the storage engine: %w", err)
	}
	return ch, nil
}

// streamInfo is what the engine says of a stream.
type streamInfo struct {
	Config struct {
		MaxBytes int64 `json:"max_bytes"`
		Replicas int   `json:"num_replicas"`

		Placement *struct {
			Tags []string `json:"tags"`
		} `json:"placement"`
	} `json:"config"`
	State struct {
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
		Bytes uint64 `json:"bytes"`
	} `json:"state"`
	Cluster *struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Name    string `json:"name"`
			Current bool   `json:"current"`
			Offline bool   `json:"offline"`
			Lag     uint64 `json:"lag"`
		} `json:"replicas"`
	} `json:"cluster"`
}

// info asks the stream's leader.
func (s *logStream) info(ctx context.Context) (*streamInfo, error) {
	m, err := s.e.ask(ctx, "$JS.API.STREAM.INFO."+s.name, nil)
	if err != nil {
		return nil, fmt.Errorf("look at stream %s of %s: %w", s.kind, s.node, err)
	}
	var r struct {
		streamInfo
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return nil, fmt.Errorf("look at stream %s of %s: %w: %w", s.kind, s.node, errEngine, err)
	}
	if r.Error != nil {
		if r.Error.Code == int(jetstream.JSErrCodeStreamNotFound) {
			return nil, fmt.Errorf("stream %s of %s: %w", s.kind, s.node, errNoStream)
		}
		return nil, fmt.Errorf("look at stream %s of %s: %w: %s (%d)", s.kind, s.node, errEngine, r.Error.Description, r.Error.Code)
	}
	return &r.streamInfo, nil
}

// errNoStream: there is no such log.
var errNoStream = errors.New("there is no such stream")

// bounds returns the first and last used slot; last < first if it is empty. The stream's leader
// answers: it is where the log really ends.
func (s *logStream) bounds(ctx context.Context) (first, last uint64, bytes int64, err error) {
	st, err := s.info(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	return st.State.First, st.State.Last, int64(st.State.Bytes), nil
}

// leader is the node that leads the stream, "" if none does.
func (s *logStream) leader(ctx context.Context) (string, error) {
	st, err := s.info(ctx)
	if err != nil {
		return "", err
	}
	if st.Cluster == nil {
		return s.e.cfg.node, nil
	}
	node, _ := splitServer(st.Cluster.Leader)
	return node, nil
}

// read returns what slot seq holds: errNoSlot if nothing was ever stored there, errTrimmed if it
// is gone. Any replica may give what it has; that there is nothing is asked of the leader, because
// a replica may lag.
func (s *logStream) read(ctx context.Context, seq uint64) ([]byte, error) {
	data, row, n := s.ahead.take(seq)
	if data != nil {
		return data, nil
	}
	if n > 1 {
		slots, err := s.many(ctx, seq, n)
		if data = slots[seq]; data != nil {
			delete(slots, seq)
			s.ahead.put(row, slots)
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
	data, err := s.get(ctx, seq)
	if !s.e.clustered() || err == nil {
		return data, s.absent(ctx, seq, err)
	}
	data, err = s.getFromLeader(ctx, seq)
	if errors.Is(err, errNoSlot) {
		if doubt := s.doubtful(ctx, seq); doubt != nil {
			return nil, doubt
		}
	}
	return data, s.absent(ctx, seq, err)
}

// absent tells what was trimmed from what was never there.
func (s *logStream) absent(ctx context.Context, seq uint64, err error) error {
	if !errors.Is(err, errNoSlot) {
		return err
	}
	first, _, _, berr := s.bounds(ctx)
	switch {
	case berr != nil && s.e.clustered():
		return berr
	case berr == nil && seq < first:
		return errTrimmed
	}
	return errNoSlot
}

// get asks any replica.
func (s *logStream) get(ctx context.Context, seq uint64) ([]byte, error) {
	m, err := s.e.ask(ctx, "$JS.API.DIRECT.GET."+s.name, []byte(`{"seq":`+strconv.FormatUint(seq, 10)+`}`))
	if err != nil {
		return nil, fmt.Errorf("read slot %d of %s: %w", seq, s.name, err)
	}
	switch m.Header.Get("Status") {
	case "":
		return m.Data, nil
	case "404":
		return nil, errNoSlot
	}
	return nil, fmt.Errorf("read slot %d of %s: %w: %s %s", seq, s.name, errEngine, m.Header.Get("Status"), m.Header.Get("Description"))
}

// getFromLeader asks the stream's leader.
func (s *logStream) getFromLeader(ctx context.Context, seq uint64) ([]byte, error) {
	m, err := s.e.ask(ctx, "$JS.API.STREAM.MSG.GET."+s.name, []byte(`{"seq":`+strconv.FormatUint(seq, 10)+`}`))
	if err != nil {
		return nil, fmt.Errorf("read slot %d of %s: %w", seq, s.name, err)
	}
	var r struct {
		Message *struct {
			Data []byte `json:"data"`
		} `json:"message"`
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &r); {
	case err != nil:
		return nil, fmt.Errorf("read slot %d of %s: %w: %w", seq, s.name, errEngine, err)
	case r.Error != nil && r.Error.Code == 404:
		return nil, errNoSlot
	case r.Error != nil:
		return nil, fmt.Errorf("read slot %d of %s: %w: %s", seq, s.name, errEngine, r.Error.Description)
	case r.Message == nil:
		return nil, fmt.Errorf("read slot %d of %s: %w: an empty answer", seq, s.name, errEngine)
	}
	return r.Message.Data, nil
}

// purge forgets every slot before seq.
func (s *logStream) purge(ctx context.Context, seq uint64) error {
	m, err := s.e.ask(ctx, "$JS.API.STREAM.PURGE."+s.name, []byte(`{"seq":`+strconv.FormatUint(seq, 10)+`}`))
	if err == nil {
		err = apiError(m.Data)
	}
	if err != nil {
		return fmt.Errorf("purge stream %s below %d: %w", s.name, seq, err)
	}
	return nil
}
