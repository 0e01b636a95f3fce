package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// The rank of a session's claim has to beat what is read of the session, and what is not: a node that stands still, stops or
// lacks its quorum in the middle of a CONNECT has a claim on its way, which may be stored seconds later, when the client has
// long gone on elsewhere. It must not bring back how far the session had come then. So a claim that is made while a node does
// not answer is told to those that do before it is made: who is asked for the session later says which rank it has heard of.
// Whoever asks needs a majority, so one of them is asked in both cases.
const rankSubject = "hf.rank."

// rankRequest says which rank a node is about to claim a session with.
type rankRequest struct {
	Client string `json:"client"`
	From   string `json:"from"`
	Rank   uint64 `json:"rank"`
}

type rankAnswer struct {
	Rank uint64 `json:"rank"` // the highest that was known before
}

// ranks is what nodes were about to claim with and nobody has read yet. A node that begins anew has forgotten it, so its floor is
// above all that its former life can have been told.
type ranks struct {
	mu    sync.Mutex
	m     map[string]uint64 // by client
	floor uint64            // of all clients
}

// rankStep is how far ranks can go up in the time of one Lamport clock: a claim goes up by one and one more for each silent node,
// and several that come to nothing may follow each other. Nobody claims beyond rankStep times the clocks that are read, and so it
// stays: each life of a node begins with records that have a higher clock than its floor was made of.
const rankStep = 64

// begin is called before the node answers anybody, with the highest Lamport clock in all logs.
func (r *ranks) begin(clock uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor = rankStep * (clock + 1)
}

const maxRanks = 1 << 16 // clients; of more the highest rank counts for all

// note enters a rank and returns the highest before it.
func (r *ranks) note(client string, rank uint64) (before uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before = max(r.m[client], r.floor); rank <= before {
		return before
	}
	if r.m == nil || len(r.m) >= maxRanks {
		for _, n := range r.m {
			r.floor = max(r.floor, n)
		}
		r.m = map[string]uint64{}
	}
	r.m[client] = rank
	return before
}

// told says whether a client's session was about to be claimed, and nobody has read it yet.
func (r *ranks) told(client string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[client] > 0
}

func (r *ranks) of(client string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.m[client], r.floor)
}

// settled forgets what everybody can read.
func (r *ranks) settled(client string, rank uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m[client] <= rank {
		delete(r.m, client)
	}
}

// rankOf is the highest rank that this node knows of a client's session.
func (b *Broker) rankOf(client string) uint64 {
	return max(b.ranks.of(client), b.storedRank(client))
}

func (b *Broker) storedRank(client string) uint64 {
	s, _ := b.state.version(sessionKey + client)
	c, _ := b.state.version(cursorKey + client)
	return max(s.rank, c.rank)
}

// listenRanks hears what other nodes are about to claim.
func (p *peers) listenRanks() error {
	return p.subscribe(rankSubject+hexName(p.b.cfg.Node.Name), 1<<16, func(m busMessage) {
		var r rankRequest
		if err := json.Unmarshal(m.Data, &r); err != nil {
			p.b.log.Warn("a question of another node cannot be read", "err", err)
			return
		}
		before := p.b.ranks.note(r.Client, r.Rank)
		data, err := json.Marshal(rankAnswer{max(before, p.b.storedRank(r.Client))})
		if err == nil {
			err = m.answer(data)
		}
		if err != nil {
			p.b.log.Warn("another node gets no answer", "node", r.From, "client", r.Client, "err", err)
		}
	})
}

// claim is the rank of a session that this node makes its own. Had is the claim that it has now. Each node that has not
// answered may have made one of its own that nobody has heard of, as long as all answered it: that ranks one higher than
// what is known. It fails if another node has claimed the session since it was fetched.
func (b *Broker) claim(ctx context.Context, id string, had uint64, f *fetched) (uint64, error) {
	if b.alone() {
		return b.storedRank(id), nil
	}
	known := max(f.rank, had)
	rank := known + 1 + uint64(len(f.silent))
	if now := max(b.ranks.note(id, rank), b.storedRank(id)); now > known {
		return 0, claimedSince(b.cfg.Node.Name, now, known)
	}
	f.rank = rank
	if len(f.silent) == 0 {
		return rank, nil
	}
	return rank, b.peers.tellRank(ctx, rankRequest{id, b.cfg.Node.Name, rank}, known, f.silent)
}

func claimedSince(node string, now, known uint64) error {
	return fmt.Errorf("%w: node %s has heard of claim %d, and this one was to follow %d", errElsewhere, node, now, known)
}

// tellRank tells the nodes that answer which rank this one claims a session with. Known is what it goes on from.
func (p *peers) tellRank(ctx context.Context, r rankRequest, known uint64, silent map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	others := p.all()
	errs := make([]error, len(others))
	var telling sync.WaitGroup
	for i, at := range others {
		if !silent[at.node] {
			telling.Go(func() { errs[i] = p.tellRankTo(ctx, at.node, data, known) })
		}
	}
	telling.Wait()
	return errors.Join(errs...)
}

func (p *peers) tellRankTo(ctx context.Context, node string, data []byte, known uint64) error {
	data, err := p.b.engine.requestOf(ctx, node, rankSubject+hexName(node), data)
	if errors.Is(err, errNobody) { // an older version, or it has just ended
		return nil
	}
	var a rankAnswer
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: node %s: %w", errUnknown, node, err)
	case a.Rank > known:
		return claimedSince(node, a.Rank, known)
	}
	return nil
}
