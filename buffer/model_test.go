package buffer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// model is what a buffer should be, kept in the simplest way.
type model struct {
	*rig
	rnd  *rand.Rand
	card *card
	held map[id]*kept
	seen map[id][32]byte // whatever was handed out under a number
	gone map[id]bool     // acknowledged
	raws map[string][]string
	ops  int

	poison map[string]bool // quarantined

	account      // of the current epoch
	calm    bool // no power cut
}

// account is where every reading that was taken must be: delivered, said to be dropped in
// a delivered receipt, dropped with no delivered receipt, in quarantine, or held.
type account struct {
	readings  map[string]uint64 // by bytes, of what is or was held
	taken     uint64
	delivered uint64
	said      map[string]map[uint64]Drop // by the bytes of a receipt: what it says
	receipted uint64
}

func newAccount() account {
	return account{readings: map[string]uint64{}, said: map[string]map[uint64]Drop{}}
}

type id struct {
	epoch, device string
	seq           uint64
}

type kept struct {
	id
	pos      uint64
	blob     string
	control  bool
	receipts []uint64
	closes   string
	synced   bool
}

func newModel(t testing.TB, seed uint64) *model {
	m := &model{rig: newRig(t), rnd: rand.New(rand.NewPCG(seed, 1)), held: map[id]*kept{},
		seen: map[id][32]byte{}, gone: map[id]bool{}, raws: map[string][]string{}, poison: map[string]bool{}, account: newAccount(), calm: seed%2 == 1}
	m.env.Rand = randomness(byte(seed))
	m.cfg.MaxBytes = []int64{1 << 20, 2 << 20, 6 << 20}[m.rnd.IntN(3)]
	m.cfg.WhenFull = []string{WhenFullDropOldest, WhenFullDropOldest, WhenFullDropNewest, WhenFullBlock}[m.rnd.IntN(4)]
	m.cfg.CommitInterval = []time.Duration{0, time.Second, time.Second, time.Hour}[m.rnd.IntN(4)]
	m.cfg.CommitCount = []int{0, 5, 64}[m.rnd.IntN(3)]
	m.card = newCard(t, m.cfg.DataDir, m.rnd)
	return m
}

func (m *model) reopen() {
	m.t.Helper()
	m.openOn(func(d *disk) { d.synced = m.card.synced })
	if m.cfg.CommitInterval == 0 { // what was found in the journal alone may be read once it is synced
		m.sync()
	}
	if m.buf.Opened().New {
		m.message(Meta{Device: "_holdfast", Readings: 1, Control: true, Opens: true}, "open "+m.buf.Opened().Epoch)
	}
}

func (m *model) message(meta Meta, blob string) {
	m.t.Helper()
	num, err := m.buf.Next(meta.Device, meta.Readings)
	if err != nil {
		m.t.Fatal(err)
	}
	m.checkFloor(meta.Device, num)
	pos, err := m.buf.Append(context.Background(), num, meta, []byte(blob))
	m.taken += uint64(meta.Readings)
	if errors.Is(err, ErrDropped) && !meta.Control {
		m.raws[meta.Device] = m.raws[meta.Device][meta.Raws:]
		return
	}
	if err != nil {
		m.t.Fatalf("append %+v: %v", num, err)
	}
	m.raws[meta.Device] = m.raws[meta.Device][meta.Raws:]
	k := &kept{id: id{num.Epoch, meta.Device, num.Seq}, pos: pos, blob: blob, control: meta.Control,
		receipts: meta.Receipts, closes: meta.Closes, synced: m.cfg.CommitInterval == 0}
	m.readings[blob] = uint64(meta.Readings)
	m.hand(k.id, blob)
	m.held[k.id] = k
}

// hand notes that bytes were handed out under a number: never others.
func (m *model) hand(i id, blob string) {
	m.t.Helper()
	sum := sha256.Sum256([]byte(blob))
	if old, ok := m.seen[i]; ok && old != sum {
		m.t.Fatalf("number %+v used for different bytes", i)
	}
	m.seen[i] = sum
}

func (m *model) checkFloor(device string, num Number) {
	m.t.Helper()
	for i := range m.held {
		if i.device == device && i.epoch == num.Epoch && i.seq < num.Floor {
			m.t.Fatalf("op %d: floor %d of %s above held %d", m.ops, num.Floor, device, i.seq)
		}
	}
	m.buf.mu.Lock()
	defer m.buf.mu.Unlock()
	for _, d := range m.buf.drops.Drops {
		if d.Device == device && d.Epoch == num.Epoch && d.First < num.Floor {
			m.t.Fatalf("floor %d of %s above dropped %+v", num.Floor, device, d)
		}
	}
}

// check reads everything: what is held is there with its bytes; what is not there has
// been dropped, and a Drop or a held receipt says so.
func (m *model) check() {
	m.t.Helper()
	m.buf.card.Lock() // nothing moves between reading and counting
	got := m.all()
	counted := m.buf.Stats().Messages
	m.buf.card.Unlock()
	byBlob := make(map[string]bool, len(got))
	for _, blob := range got {
		byBlob[blob] = true
	}
	m.checkReadings()
	for i, k := range m.held {
		if byBlob[k.blob] {
			continue
		}
		if !m.dropped(i) || k.control && !m.poison[k.blob] {
			m.describe()
			m.t.Fatalf("op %d: %+v at %d (synced %v, control %v) is neither held nor dropped", m.ops, i, k.pos, k.synced, k.control)
		}
		delete(m.held, i)
	}
	if counted != uint64(len(got)) {
		m.describe()
		m.t.Fatalf("op %d: %d messages counted, %d read", m.ops, counted, len(got))
	}
	if n := usage(m.cfg.DataDir); n > m.cfg.MaxBytes {
		m.t.Fatalf("op %d: %d bytes under the data directory, max_bytes %d: %+v", m.ops, n, m.cfg.MaxBytes, m.buf.Stats())
	}
}

// checkReadings: none is lost and none is counted twice.
func (m *model) checkReadings() {
	m.t.Helper()
	m.buf.card.Lock() // nothing moves
	defer m.buf.card.Unlock()
	var held, dropped, quarantined uint64
	for _, blob := range m.all() {
		held += m.readings[blob]
	}
	m.buf.mu.Lock()
	for _, d := range m.buf.drops.Drops {
		if d.Epoch == m.buf.epoch {
			dropped += d.Readings
		}
	}
	for _, q := range m.buf.quarantine {
		if q.epoch == m.buf.epoch {
			quarantined += uint64(q.n)
		}
	}
	drops := slices.Clone(m.buf.drops.Drops)
	m.buf.mu.Unlock()
	if m.taken != m.delivered+m.receipted+dropped+quarantined+held {
		m.describe()
		m.t.Fatalf("op %d: %d readings taken, %d delivered, %d in receipts, %d dropped, %d in quarantine, %d held: %+v",
			m.ops, m.taken, m.delivered, m.receipted, dropped, quarantined, held, drops)
	}
}

func (m *model) dropped(i id) bool {
	m.buf.mu.Lock()
	defer m.buf.mu.Unlock()
	for _, d := range m.buf.drops.Drops {
		if d.Device == i.device && d.Epoch == i.epoch && d.First <= i.seq && i.seq <= d.Last {
			return true
		}
	}
	for _, q := range m.buf.quarantine {
		if q.device == i.device && q.epoch == i.epoch && q.seq == i.seq {
			return true
		}
	}
	return false
}

var devices = []string{"scale", "meter", "door"}

func (m *model) step() {
	m.ops++
	device := devices[m.rnd.IntN(len(devices))]
	switch p := m.rnd.IntN(1000); {
	case p < 450:
		raws := 0
		if n := len(m.raws[device]); n > 0 {
			raws = m.rnd.IntN(n + 1)
		}
		size := m.rnd.IntN(300)
		if m.rnd.IntN(20) == 0 {
			size = m.rnd.IntN(30_000)
		}
		m.message(Meta{Device: device, Readings: 1 + raws, Raws: raws}, m.bytes(size))
	case p < 600:
		raw := m.bytes(20)
		if _, err := m.buf.Take(device, 1, []byte(raw)); err != nil {
			m.t.Fatal(err)
		}
		m.raws[device] = append(m.raws[device], raw)
	case p < 850:
		m.ackSome()
	case p < 880:
		m.advance(time.Duration(m.rnd.IntN(2000)) * time.Millisecond)
	case p < 900:
		m.sync()
		for _, k := range m.held {
			k.synced = true
		}
	case p < 930:
		m.check()
	case p < 950:
		m.report()
	case p < 955:
		m.quarantineOne()
	case p < 975:
		m.buf.kill()
		m.reopen()
		m.checkRaws()
		m.check()
	case p < 985:
		if err := m.buf.Close(context.Background()); err != nil {
			m.t.Fatal(err)
		}
		epoch := m.buf.epoch
		m.reopen()
		if m.buf.epoch != epoch {
			m.t.Fatalf("a clean end, and another epoch: %+v", m.buf.Opened())
		}
		m.checkRaws()
		m.check()
	case p < 995 && !m.calm:
		m.cutPower()
	default:
		for i := m.rnd.IntN(3000); i > 0; i-- {
			m.message(Meta{Device: device, Readings: 1}, m.bytes(200))
		}
	}
}

func (m *model) bytes(n int) string {
	b := fmt.Appendf(nil, "%d.%d.", m.ops, m.rnd.Uint64())
	for len(b) < n {
		b = append(b, byte(m.rnd.Uint32()))
	}
	return string(b)
}

func (m *model) ackSome() {
	m.t.Helper()
	m.buf.card.Lock() // nothing is dropped between reading and acknowledging
	defer m.buf.card.Unlock()
	got := m.all()
	var list []uint64
	for pos := range got {
		list = append(list, pos)
	}
	slices.Sort(list)
	n := m.rnd.IntN(len(list) + 1)
	switch m.rnd.IntN(3) {
	case 0:
		list = list[:n]
	case 1:
		list = list[len(list)-n:]
	case 2:
		m.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:min(n, 50)]
	}
	if err := m.buf.Ack(list); err != nil {
		m.t.Fatal(err)
	}
	byBlob := make(map[string]bool)
	for _, pos := range list {
		byBlob[got[pos]] = true
		m.delivered += m.readings[got[pos]]
		for _, d := range m.said[got[pos]] {
			m.receipted += d.Readings
		}
	}
	for i, k := range m.held {
		if byBlob[k.blob] {
			m.gone[i] = true
			delete(m.held, i)
		}
	}
}

// report does what the agent does with drops and drained epochs.
func (m *model) report() {
	if drops := m.buf.Drops(); len(drops) > 0 {
		meta := Meta{Device: "_holdfast", Readings: 1, Control: true}
		for _, d := range drops {
			meta.Receipts = append(meta.Receipts, d.ID)
			for i := range m.held { // a receipt is as good as the drop itself
				if i.device == d.Device && i.epoch == d.Epoch && i.seq >= d.First && i.seq <= d.Last {
					m.held[i].synced = false
				}
			}
		}
		m.check()
		for range m.rnd.IntN(3) { // it is being signed, and more is dropped
			m.message(Meta{Device: devices[0], Readings: 3}, m.bytes(100<<10))
		}
		m.buf.card.Lock()
		_ = m.buf.shed(errFull)
		m.buf.card.Unlock()
		blob := fmt.Sprint("receipt ", m.ops, drops)
		said := make(map[uint64]Drop)
		for _, d := range drops {
			if d.Epoch == m.buf.epoch {
				said[d.ID] = d
			}
		}
		m.said[blob] = said
		m.message(meta, blob)
	}
	for _, e := range m.buf.Drained() {
		for i := range m.held {
			if i.epoch == e.Epoch {
				m.t.Fatalf("epoch %s is drained but %+v is held", e.Epoch, i)
			}
		}
		m.message(Meta{Device: "_holdfast", Readings: 1, Control: true, Closes: e.Epoch}, fmt.Sprint("close ", m.ops, e.Epoch))
	}
}

func (m *model) quarantineOne() {
	first, next := m.buf.Bounds()
	if first == next {
		return
	}
	m.poison[m.all()[first]] = true
	if err := m.buf.Quarantine(first, "poison"); err != nil {
		m.t.Fatal(err)
	}
	m.check()
}

func (m *model) checkRaws() {
	m.t.Helper()
	got := make(map[string][]string)
	for _, r := range m.buf.Unsealed() {
		got[r.Device] = append(got[r.Device], string(r.Data))
	}
	for _, d := range devices {
		if !slices.Equal(got[d], m.raws[d]) {
			m.t.Fatalf("op %d: raws of %s: %q, want %q", m.ops, d, got[d], m.raws[d])
		}
	}
}

// cutPower loses the tmpfs and what was not synced. What was acknowledged may come back.
func (m *model) cutPower() {
	m.powerCut()
	m.card.cut()
	for i, k := range m.held {
		if !k.synced {
			delete(m.held, i)
		}
	}
	clear(m.raws)
	m.account = newAccount()
	old := m.buf.epoch
	m.reopen()
	o := m.buf.Opened()
	if m.buf.epoch == old || o.PrevEpoch != old || !o.Uncertain {
		m.t.Fatalf("after a power cut in epoch %s: %+v", old, o)
	}
	m.check()
}

func TestAgainstModel(t *testing.T) {
	runs := 6
	if testing.Short() {
		runs = 2
	}
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		runs = 300
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(t, uint64(seed))
			m.reopen()
			for range 400 {
				m.step()
			}
			m.check()
		})
	}
}

// The simulation of a power cut must see it when nothing is synced.
func TestPowerCutNegativeControl(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		r := newRig(t)
		c := newCard(t, r.cfg.DataDir, rand.New(rand.NewPCG(1, 1)))
		r.openOn(func(d *disk) { d.synced = c.synced })
		r.buf.disk.nosync = lazy
		for i := range 50 {
			r.append("a", fmt.Sprint("message ", i))
			r.sync()
		}
		r.powerCut()
		c.cut()
		r.open()
		if n := len(r.all()); (n == 50) == lazy {
			t.Fatalf("%d of 50 messages after a power cut, without syncs: %v", n, lazy)
		}
	}
}

// describe logs where everything is.
func (m *model) describe() {
	m.buf.mu.Lock()
	defer m.buf.mu.Unlock()
	m.t.Logf("%+v", m.buf.opening)
	m.t.Log("visible", m.buf.visible, "unsynced", len(m.buf.unsynced()), "unsafe", m.buf.unsafe, "want", m.buf.want, "card", m.buf.lastCardErr, "next", m.buf.next, "base", m.buf.base, "tail", len(m.buf.tail), "acked", m.buf.acked, m.cfg)
	for _, s := range m.buf.segments {
		m.t.Log("segment", s.First, s.Last, len(s.Blocks), s.held, s.Raw, s.damaged, s.lost)
	}
	_ = filepath.WalkDir(m.cfg.DataDir, func(path string, e fs.DirEntry, err error) error {
		if info, err := e.Info(); err == nil {
			m.t.Log(path, info.Size())
		}
		return nil
	})
}
