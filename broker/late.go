package broker

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strconv"

	"holdfast/broker/mqtt"
)

// sameness is what makes two records one message: a verified one's identity and hash, or what a client
// sent with QoS 2 under one packet id. Other messages may come twice.
type sameness struct {
	gateway, device, epoch string
	number                 uint64
	hash                   [32]byte
}

// once is the client's own mark of a QoS 2 message. The content is in it: an id that was let go may be used
// again before everybody knows.
func (r *Record) once() sameness {
	h := sha256.New()
	h.Write(mqtt.AppendText(nil, r.Topic))
	h.Write(r.Payload)
	out := sameness{epoch: strconv.FormatUint(r.Epoch, 16), number: uint64(r.PacketID)}
	h.Sum(out.hash[:0])
	return out
}

func (r *Record) identity() sameness {
	v := r.Identity
	return sameness{v.Gateway, v.Device, v.Header.Epoch, v.Seq, v.Hash}
}

// lateRecords is what a node stored of a client behind the place up to where its log had been read when the
// client came to its next node.
type lateRecords struct {
	verified map[sameness]struct{}
	open     map[inboundKey]sameness // QoS 2, not released
}

func (l *lateRecords) empty() bool { return len(l.verified) == 0 && len(l.open) == 0 }

func (l *lateRecords) add(r *Record, received bool) {
	if r.Kind == KindMessage && r.Identity != nil {
		if l.verified == nil {
			l.verified = map[sameness]struct{}{}
		}
		l.verified[r.identity()] = struct{}{}
	}
	if r.PacketID == 0 {
		return
	}
	key := inboundKey{r.Epoch, r.PacketID}
	if r.Kind == KindRelease || received {
		delete(l.open, key)
		return
	}
	if l.open == nil {
		l.open = map[inboundKey]sameness{}
	}
	l.open[key] = r.once()
}

// takes says whether a message is one of them, sent again; and forgets a packet id that is used.
func (l *lateRecords) takes(r *Record) bool {
	if r.Identity != nil {
		if _, same := l.verified[r.identity()]; same {
			return true
		}
	}
	if r.PacketID == 0 {
		return false
	}
	key := inboundKey{r.Epoch, r.PacketID}
	first, known := l.open[key]
	delete(l.open, key)
	return known && first == r.once()
}

// lateIn collects what a log has of clients between two batches.
type lateIn struct {
	node     string
	from, to uint64
	records  map[string][]placed // by client
}

type placed struct {
	at  cursor
	rec *Record
}

// readLate reads a log from one batch up to, but not including, another.
func (t *tail) readLate(ctx context.Context, node string, from, to uint64) (*lateIn, error) {
	out := &lateIn{node, from, to, map[string][]placed{}}
	for n := from; n < to; n++ {
		b, err := t.batch(ctx, node, n)
		if errors.Is(err, errTrimmed) || errors.Is(err, errDamaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range b.Records {
			if r := &b.Records[i]; r.Client != "" && (r.PacketID != 0 || r.Identity != nil) {
				out.records[r.Client] = append(out.records[r.Client], placed{cursor{node, n, uint32(i)}, r})
			}
		}
	}
	return out, nil
}

// enter adds a client's records of an origin but for those that are later. The QoS 2 packet ids up to o.ids are in its
// session.
func (in *lateIn) enter(l *lateRecords, client string, o origin, later []cursor) {
	for _, p := range in.records[client] {
		if p.at.Batch >= o.from && !slices.Contains(later, p.at) {
			l.add(p.rec, !o.ids.before(p.at))
		}
	}
}
