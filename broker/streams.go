package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// This file is about which streams there are and where they are.

// has says whether the node's own stream of that kind is there.
func (e *engine) has(ctx context.Context, kind string) (bool, error) {
	_, err := e.logOf(kind, e.cfg.node).info(ctx)
	if errors.Is(err, errNoStream) {
		return false, nil
	}
	return err == nil, err
}

// answers says whether there is somebody who knows of the stream, or that there is none.
func (s *logStream) answers(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if _, err := s.info(ctx); !errors.Is(err, errNoStream) {
		return err
	}
	return nil
}

// firstLook is how long a start waits for its first answer.
const firstLook = 250 * time.Millisecond

// retryPause is between two attempts at what needs the other nodes.
const retryPause = 250 * time.Millisecond

// open returns the node's own stream, and creates it if it is not there. In a cluster it tries until
// there are enough nodes, or ctx ends.
func (e *engine) open(ctx context.Context, kind string, maxBytes int64) (*logStream, error) {
	s := e.logOf(kind, e.cfg.node)
	said := time.Time{}
	for wait := firstLook; ; wait = min(2*wait, clusterCall) {
		err := e.dropOld(ctx, false)
		if err == nil && e.clustered() { // one that has just started is not heard by all others at once
			err = s.answers(ctx, wait)
		}
		if err == nil {
			err = s.ensure(ctx, maxBytes)
		}
		if err == nil {
			return s, nil
		}
		err = fmt.Errorf("open stream %s in %s: %w", kind, e.cfg.dir, err)
		if !e.clustered() {
			return nil, err
		}
		e.waits(err)
		if time.Since(said) > 10*time.Second { // for people, not for order
			e.log.Info("waiting for the cluster: the node's log cannot be opened yet", "log", kind, "err", err)
			said = time.Now()
		}
		if !pause(ctx, retryPause) {
			return nil, err
		}
	}
}

// replicas is how many nodes hold each stream.
func (e *engine) replicas() int {
	if !e.clustered() {
		return 1
	}
	n := len(e.cfg.cluster.Peers) + 1
	if names, err := e.memberNames(); err == nil {
		n = max(n, len(names))
	}
	return min(e.cfg.cluster.Replicas, n)
}

func (s *logStream) ensure(ctx context.Context, maxBytes int64) error {
	st, err := s.info(ctx)
	if err == nil && (st.Config.MaxBytes == maxBytes || s.e.clustered() && st.Cluster == nil) {
		return nil
	}
	if err != nil && !errors.Is(err, errNoStream) {
		return err
	}
	cfg := s.config(maxBytes, s.e.replicas())
	if st != nil {
		cfg.Replicas = st.Config.Replicas
		if tags := st.tags(); len(tags) > 0 {
			cfg.Placement = &jetstream.Placement{Tags: tags}
		}
	} else if s.e.clustered() {
		if cfg.Placement, err = s.placement(); err != nil {
			return err
		}
	}
	_, js, err := s.e.conn()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*s.e.call())
	defer cancel()
	_, err = js.CreateOrUpdateStream(ctx, cfg)
	return err
}

func (s *logStream) config(maxBytes int64, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: s.name, Subjects: []string{s.subject}, Storage: jetstream.FileStorage, Replicas: replicas,
		// Retention is ours: max_age would run on the wall clock, and max_bytes is a backstop.
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, MaxBytes: maxBytes, MaxAge: 0,
		Duplicates: 30 * time.Second, AllowDirect: true,
	}
}

// nodes are the names of all nodes that have a messages log, sorted.
func (e *engine) nodes(ctx context.Context) ([]string, error) {
	prefix := streamName(kindMessages, "")
	var out []string
	for offset := 0; ; {
		m, err := e.ask(ctx, "$JS.API.STREAM.NAMES", fmt.Appendf(nil, `{"offset":%d}`, offset))
		if err == nil {
			err = apiError(m.Data)
		}
		if err != nil {
			return nil, fmt.Errorf("list the logs: %w", err)
		}
		var r struct {
			Total   int      `json:"total"`
			Streams []string `json:"streams"`
		}
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return nil, fmt.Errorf("list the logs: %w: %w", errEngine, err)
		}
		for _, name := range r.Streams {
			h, ours := strings.CutPrefix(name, prefix)
			if node, err := hex.DecodeString(h); ours && err == nil {
				out = append(out, string(node))
			}
		}
		if offset += len(r.Streams); len(r.Streams) == 0 || offset >= r.Total {
			slices.Sort(out)
			return out, nil
		}
	}
}
