package ledger

// Earlier sums up epochs of a gateway whose detail was let go, the oldest first.
type Earlier struct {
	Epochs    uint64 `json:"epochs"`
	Received  uint64 `json:"received"` // messages
	Readings  uint64 `json:"readings"` // received
	Missing   uint64 `json:"missing"`  // messages, pending ones included
	Dropped   uint64 `json:"dropped"`  // messages
	Uncertain uint64 `json:"uncertain"`
	Conflicts uint64 `json:"conflicts"`
}

// bound keeps a gateway's account within its bounds after a Commit of stream s in epoch e.
func (l *Ledger) bound(g *ledgerGateway, e *ledgerEpoch, s *stream) {
	if len(s.received) > maxSpans {
		s.foldThrough(s.received[len(s.received)/2].last, &l.tags)
	}
	for g.streams > maxStreams && len(g.epochs) > 1 {
		l.letGo(g, e)
	}
}

// letGo sums up one epoch other than keep: the oldest closed one, else the oldest.
func (l *Ledger) letGo(g *ledgerGateway, keep *ledgerEpoch) {
	var id string
	var old *ledgerEpoch
	for k, e := range g.epochs {
		if e == keep {
			continue
		}
		if old == nil || e.closed && !old.closed || e.closed == old.closed && (e.serial < old.serial || e.serial == old.serial && k < id) {
			id, old = k, e
		}
	}
	g.earlier.Epochs++
	if old.uncertain {
		g.earlier.Uncertain++
	}
	for _, s := range old.devices {
		g.earlier.Received += s.messages
		g.earlier.Readings += s.readings
		g.earlier.Conflicts += s.conflicts
		s.walk(true, func(seg segment) {
			n := seg.last - seg.first + 1
			if seg.kind == segDropped {
				g.earlier.Dropped += n
			} else {
				g.earlier.Missing += n
			}
		})
		g.earlier.Missing += s.fold.unaccounted()
		g.earlier.Dropped += s.fold.dropped
		l.tags.forget(s)
		g.streams--
	}
	delete(g.epochs, id)
}

// foldThrough sums up all detail at and below a number. A message that arrives there
// later is Unseen once more: the ledger can no longer tell, and losing one is worse than
// storing it twice.
func (s *stream) foldThrough(through uint64, tags *tagStore) {
	i := 0
	for ; i < len(s.received) && s.received[i].last <= through; i++ {
		s.fold.received += s.received[i].last - s.received[i].first + 1
		s.fold.total = s.received[i].total
	}
	rest := s.received[i:]
	if len(rest) > 0 && rest[0].first <= through {
		through = max(rest[0].first-1, s.fold.through)
	}
	s.eachGap(s.received[:i], through, func(g gap) {
		s.drops.within(g.first, g.last, func(d dropped) {
			s.fold.dropped += d.last - d.first + 1
			if g.last == through {
				s.fold.total += d.readings // no received message behind it says the total
			}
		})
	})
	var kept drops
	s.drops.within(through+1, 1<<63, func(d dropped) {
		if i, in := rest.find(d.first); !in || rest[i].last < d.last { // received beats dropped
			kept = append(kept, d)
		}
	})
	s.drops = kept
	s.received = append(spans(nil), rest...)
	s.fold.through = through
	for len(s.chunks) > 0 && (s.chunks[0].index+1)*chunkNumbers <= through {
		tags.drop(s.chunks[0])
	}
}

// eachGap calls fn for the gaps in received above the fold and up to through.
func (s *stream) eachGap(received spans, through uint64, fn func(gap)) {
	received.gaps(s.fold.through, s.fold.total, through, 0, false, fn)
}

// unaccounted is how many numbers of the fold were neither received nor dropped.
func (f fold) unaccounted() uint64 { return sub(f.through, f.received+f.dropped) }
