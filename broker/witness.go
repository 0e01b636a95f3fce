package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A node that this one does not reach may be gone, or only the way to it. As long as a third node reaches it,
// it may store and promise what cannot be read here: then nothing may be taken over from it. So the others
// are asked before a node counts as gone.
const witnessSubject = "hf.witness."

// errCutOff: this node does not reach another, and a third does.
var errCutOff = errors.New("this node is cut off from one that others reach")

// witnessRequest asks which of some nodes are reached.
type witnessRequest struct {
	Nodes []string `json:"nodes"`
}

type witnessAnswer struct {
	Reached []string `json:"reached"`
}

// listenWitness answers which nodes this one reaches.
func (p *peers) listenWitness() error {
	return p.subscribe(witnessSubject+hexName(p.b.cfg.Node.Name), 1<<16, func(m busMessage) {
		var r witnessRequest
		if err := json.Unmarshal(m.Data, &r); err != nil {
			p.b.log.Warn("a question of another node cannot be read", "err", err)
			return
		}
		p.b.background(func(ctx context.Context) {
			var a witnessAnswer
			for _, node := range r.Nodes {
				if p.reaches(ctx, node) {
					a.Reached = append(a.Reached, node)
				}
			}
			data, err := json.Marshal(a)
			if err == nil {
				err = m.answer(data)
			}
			if err != nil {
				p.b.log.Warn("another node gets no answer", "err", err)
			}
		})
	})
}

// reaches says whether a node answers, or may still: its connections have not been given up yet. One that has only
// just started its engine serves nobody and has no ear for this yet.
func (p *peers) reaches(ctx context.Context, node string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeEvery)
	defer cancel()
	_, err := p.b.engine.request(ctx, witnessSubject+hexName(node), []byte("{}"))
	return err == nil || !errors.Is(err, errNobody) && p.members.alive(node)
}

// gone is nil when nobody reaches the nodes that are silent here, and those who say so are, with this one, the
// majority. It is asked anew each time until their logs are closed and have been read: that they were read to their ends
// before, for whatever reason, says nothing of whether they live, and one that was cut off may be back and not have been
// heard yet.
func (p *peers) gone(ctx context.Context, silent map[string]bool) error {
	var lost, witnesses []string
	for _, at := range p.all() {
		switch {
		case !silent[at.node] && p.members.alive(at.node):
			witnesses = append(witnesses, at.node)
		case !p.over(at):
			lost = append(lost, at.node)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	if nodes := p.b.engine.size(); 2*(len(witnesses)+1) <= nodes {
		return fmt.Errorf("%w: reaches %d of %d nodes, itself included", errNoQuorum, len(witnesses)+1, nodes)
	}
	data, err := json.Marshal(witnessRequest{lost})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	errs := make([]error, len(witnesses)+len(lost))
	var asked sync.WaitGroup
	for i, node := range lost {
		asked.Go(func() {
			if p.reaches(ctx, node) {
				errs[len(witnesses)+i] = fmt.Errorf("%w: node %s answers again", errUnknown, node)
			}
		})
	}
	for i, w := range witnesses {
		asked.Go(func() { errs[i] = p.askWitness(ctx, w, data) })
	}
	asked.Wait()
	return errors.Join(errs...)
}

// askWitness is an error if a node reaches one of those that are asked for, or does not answer.
func (p *peers) askWitness(ctx context.Context, witness string, request []byte) error {
	data, err := p.b.engine.requestOf(ctx, witness, witnessSubject+hexName(witness), request)
	var a witnessAnswer
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return fmt.Errorf("%w: node %s: %w", errUnknown, witness, err)
	}
	if slices.Sort(a.Reached); len(a.Reached) > 0 {
		return fmt.Errorf("%w: node %s reaches %s", errCutOff, witness, strings.Join(a.Reached, ", "))
	}
	return nil
}
