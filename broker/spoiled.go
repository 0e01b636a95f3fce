package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// This file is about a node of a cluster whose own copy of the logs is damaged. What it cannot read whole it reads from
// another node, so that nothing damaged is ever delivered. Then it gives its copy up: it begins anew with an empty
// store, as a new peer, and copies everything. It does so only while all others are ready, because a copy that is
// mostly whole is better than none.

// copySubject is where a node's engine gives others what its own copy has.
func copySubject(node string) string { return "hf.copy." + hexName(node) }

// copyRequest asks for one slot of a stream.
type copyRequest struct {
	Stream string `json:"stream"`
	Slot   uint64 `json:"slot"`
}

// giveCopy answers a copyRequest with what this node's own replica has, or with nothing.
func (e *engine) giveCopy(data []byte) []byte {
	var r copyRequest
	if json.Unmarshal(data, &r) != nil {
		return nil
	}
	s := &logStream{e: e, name: r.Stream}
	got, err := s.get(context.Background(), r.Slot) // no longer than a call takes
	if err != nil || !whole(got) {
		return nil
	}
	return got
}

// whole says that a batch's checksum is right. What a newer version has written is not judged.
func whole(data []byte) bool {
	_, err := DecodeHeader(data)
	return !errors.Is(err, ErrBatchDamaged)
}

// elsewhere asks the other nodes for a slot that neither this node's replica nor the leader has whole. That nobody has
// it is certain only when all have said so.
func (s *logStream) elsewhere(ctx context.Context, seq uint64) ([]byte, error) {
	v, err := s.e.view()
	if err != nil {
		return nil, err
	}
	request, err := json.Marshal(copyRequest{s.name, seq})
	if err != nil {
		return nil, err
	}
	asked := 1
	nodes := []string{v.leader}
	for _, p := range v.peers {
		if !p.offline {
			nodes = append(nodes, p.node)
		}
	}
	slices.Sort(nodes)
	for _, node := range slices.Compact(nodes) {
		if node == "" || node == s.e.cfg.node {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, s.e.call())
		data, err := s.e.request(ctx, copySubject(node), request)
		cancel()
		if err == nil && len(data) > 0 && whole(data) {
			return data, nil
		}
		if err == nil {
			asked++
		}
	}
	if size := s.e.size(); asked < size {
		return nil, fmt.Errorf("read slot %d of %s: %w: %d of %d nodes do not have it, and the others do not answer", seq, s.name, errEngine, asked, size)
	}
	return nil, nil
}

// readWhole reads a slot in a cluster: from this node's replica, else from the leader, else from any other.
func (s *logStream) readWhole(ctx context.Context, seq uint64) ([]byte, error) {
	near, err := s.get(ctx, seq)
	if err == nil && whole(near) {
		return near, nil
	}
	bad := err == nil || s.hole(ctx, seq, err)
	data, err := s.getFromLeader(ctx, seq)
	if err == nil && !whole(data) || errors.Is(err, errNoSlot) && s.hole(ctx, seq, err) {
		other, unsure := s.elsewhere(ctx, seq)
		if unsure != nil {
			return nil, unsure
		}
		if other != nil {
			data, err = other, nil
		}
	}
	if bad && err == nil && whole(data) {
		s.e.spoil(fmt.Errorf("slot %d of the %s log of node %s cannot be read here, and another node has it", seq, s.kind, s.node))
	}
	return data, s.absent(ctx, seq, err)
}

// hole says that this node's replica lacks a slot though it has what stands before and behind it.
func (s *logStream) hole(ctx context.Context, seq uint64, err error) bool {
	if !errors.Is(err, errNoSlot) {
		return false
	}
	within := func() bool {
		first, last, _, err := s.near().bounds(ctx)
		return err == nil && first <= seq && seq <= last
	}
	if !within() { // it lags, or has trimmed it
		return false
	}
	_, err = s.get(ctx, seq) // it may have caught up meanwhile
	return errors.Is(err, errNoSlot) && within()
}

// spoil notes that this node's copy of the logs is damaged.
func (e *engine) spoil(err error) {
	if e.spoiled.CompareAndSwap(nil, &err) {
		e.log.Error("this node's copy of the logs is damaged: look for disk errors; the others have what is missing, and the copy is made anew as soon as all of them are ready",
			"err", err)
	}
}

// inspect looks for what the engine left out of its streams because it could not read it.
func (e *engine) inspect() {
	srv := e.server()
	if srv == nil || !e.clustered() || e.spoiled.Load() != nil {
		return
	}
	acc, err := srv.JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	if err != nil {
		return // the store has failed, which is said elsewhere
	}
	for _, d := range acc.Streams {
		if n := d.State.NumDeleted; n > 0 || d.State.Lost != nil && len(d.State.Lost.Msgs) > 0 {
			e.spoil(fmt.Errorf("the engine could not read %d batches of %s", n, d.Name))
			return
		}
	}
}

// mendCopy gives this node's copy up, if it is damaged and everybody else is there to copy from.
func (g *guard) mendCopy() {
	b := g.b
	if b.engine.inspect(); b.engine.spoiled.Load() == nil {
		return
	}
	others := 0
	for _, m := range g.members.list() {
		if m.Node != g.members.self && m.Alive && m.Ready {
			others++
		}
	}
	if others+1 < b.engine.size() || b.engine.room() != nil {
		return
	}
	err := os.Remove(filepath.Join(b.cfg.Node.DataDir, "jetstream", "holdfast.id")) // the store is nobody's now: clusterIdentity
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Error("the damaged copy of the logs cannot be given up", "err", err)
		return
	}
	b.beginAgain(*b.engine.spoiled.Load())
}
