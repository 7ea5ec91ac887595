package node

import (
	"bytes"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulation with this seed only")
	simRuns  = flag.Int("sim.runs", 30, "how many seeds the simulation runs")
	simSteps = flag.Int("sim.steps", 4000, "steps of one run before everything heals")
	simTrace = flag.Bool("sim.trace", false, "print what happens")
)

// seededReader makes raft's election timeouts, which it draws from crypto/rand,
// depend on the seed.
type seededReader struct{ rng *rand.Rand }

func (r seededReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	return len(b), nil
}

// sim is a cluster whose members are stepped by one goroutine, in an order that a
// seed decides: each stage of each member on its own, on disks that forget, over a
// network that loses, repeats and reorders.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	members []*simMember
	net     []packet
	cut     map[[2]uint64]bool // from, to
	history history
	acked   map[string]uint64 // proposal → index, as its proposer was told
	maxAck  uint64
	next    int // number of the next proposal
	reads   map[string]uint64
	trace   uint64
	calm    int // of 10 harms that the dice want, this many do not happen
	faults  faults
}

// faults counts what a run has met.
type faults struct{ crashes, torn, snaps, installs, transfers, confs int }

func (f *faults) add(g faults) {
	f.crashes += g.crashes
	f.torn += g.torn
	f.snaps += g.snaps
	f.installs += g.installs
	f.transfers += g.transfers
	f.confs += g.confs
}

type packet struct {
	m  raftpb.Message
	db []byte
}

type simMember struct {
	s      *sim
	id     uint64
	fs     *vfs.Crash
	up     bool
	gone   bool // removed from the cluster
	app    *toy
	core   *Core
	disk   *Disk
	feeder *Feeder
	close  func()

	appends []diskJob
	feeds   []feedJob
	keeps   []keepJob
	flushed bool // of the first of keeps
	onDisk  uint64
	mine    map[string]bool
	done    bool // had a proposal acknowledged after everything healed
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), cut: map[[2]uint64]bool{}, history: history{},
		acked: map[string]uint64{}, reads: map[string]uint64{},
	}
	crand.Reader = seededReader{rand.New(rand.NewPCG(seed, 2))}
	s.calm = s.rng.IntN(10)
	for range 3 {
		s.join()
	}
	return s
}

// join adds a member: one of the first three, or one that begins with nothing.
func (s *sim) join() {
	m := &simMember{s: s, id: uint64(len(s.members) + 1), fs: vfs.NewCrash(s.rng.Uint64()), app: &toy{}}
	s.members = append(s.members, m)
	m.start(image{})
}

// anyID is the id of some member, past ones included.
func (s *sim) anyID() uint64 { return 1 + s.rng.Uint64N(uint64(len(s.members))) }

func (s *sim) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	h := fnv.New64a()
	fmt.Fprintf(h, "%x%s", s.trace, line)
	s.trace = h.Sum64()
	if *simTrace {
		s.t.Log(line)
	}
}

func (m *simMember) start(durable image) {
	o, err := open(m.fs, durable)
	if errors.Is(err, vfs.ErrCrashed) {
		m.fs = m.fs.Crash()
		return
	}
	if err != nil {
		m.s.t.Fatalf("member %d: open: %v", m.id, err)
	}
	m.app = &toy{now: o.durable, durable: o.durable, dir: o.dir, fs: m.fs, history: m.s.history}
	m.mine = map[string]bool{}
	m.app.onApply = m.applied
	opt := o.options(m.id, nil)
	if m.id <= 3 {
		opt.Peers = peersOf(1, 2, 3)
	}
	opt.Applier, opt.SnapshotCount, opt.CatchUpEntries = m.app, 30, 10
	core, log, err := NewCore(opt)
	if err != nil {
		m.s.t.Fatalf("member %d: start: %v", m.id, err)
	}
	m.core, m.disk, m.feeder = core, NewDisk(opt, log), NewFeeder(opt, log)
	m.appends, m.feeds, m.keeps, m.flushed = nil, nil, nil, false
	m.onDisk = m.feeder.taken
	m.close = func() { o.wal.Close() }
	m.up = true
	st := core.Status()
	last, _ := log.LastIndex()
	m.s.note("%d starts: applied %d, snapshot %d, commit %d, term %d, last %d", m.id, durable.Index, m.onDisk, st.Commit, st.Term, last)
	m.work()
}

// applied acknowledges the member's own proposals, and brings members into being and
// out of it.
func (m *simMember) applied(e raftpb.Entry) {
	if e.Type == raftpb.EntryConfChange {
		m.changed()
		return
	}
	if key := string(e.Data); m.mine[key] {
		delete(m.mine, key)
		m.s.acked[key] = e.Index
		m.s.maxAck = max(m.s.maxAck, e.Index)
	}
}

func (m *simMember) changed() {
	s := m.s
	for _, id := range m.app.now.Removed {
		if x := s.members[id-1]; !x.gone {
			s.note("%d is gone", id)
			x.gone, x.up = true, false
		}
	}
	for _, id := range slices.Concat(m.app.now.Conf.Voters, m.app.now.Conf.Learners) {
		if int(id) > len(s.members) {
			s.faults.confs++
			s.join()
		}
	}
}

// confChange proposes the next change: a learner joins, is promoted, and leaves.
func (s *sim) confChange(m *simMember) {
	conf := &m.app.now.Conf
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: uint64(len(s.members) + 1)}
	if len(conf.Learners) > 0 {
		cc = raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: conf.Learners[0]}
	} else if n := len(conf.Voters); n > 3 {
		cc = raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: slices.Max(conf.Voters)}
	}
	data, err := cc.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	m.core.Propose(raftpb.Entry{Type: raftpb.EntryConfChange, Data: data})
	m.work()
}

// crash cuts the power.
func (m *simMember) crash() {
	m.s.faults.crashes++
	m.s.note("%d crashes", m.id)
	m.up = false
	m.fs = m.fs.Crash()
}

// work takes out what raft wants done.
func (m *simMember) work() {
	var w Work
	m.core.Flush()
	m.core.Work(&w)
	m.s.send(w.Send)
	for _, a := range w.Append {
		m.appends = append(m.appends, diskJob{msg: a})
	}
	for _, a := range w.Apply {
		m.feeds = append(m.feeds, feedJob{msg: a})
	}
	for i := range w.Snaps {
		m.feeds = append(m.feeds, feedJob{stream: &w.Snaps[i]})
	}
	for _, rs := range w.Reads {
		least, ok := m.s.reads[string(rs.RequestCtx)]
		if ok && rs.Index < least {
			m.s.t.Fatalf("member %d: read index %d, but %d had been acknowledged", m.id, rs.Index, least)
		}
		delete(m.s.reads, string(rs.RequestCtx))
	}
}

func (s *sim) send(ms []raftpb.Message) {
	for _, m := range ms {
		s.net = append(s.net, packet{m: m})
	}
}

// local steps answers of the other stages.
func (m *simMember) local(ms []raftpb.Message) {
	for _, x := range ms {
		if err := m.core.Answer(x); err != nil {
			m.s.t.Fatalf("member %d: %v", m.id, err)
		}
	}
	m.work()
}

// broken ends the member when its disk has lost power.
func (m *simMember) broken(err error) bool {
	if err == nil {
		return false
	}
	if !errors.Is(err, vfs.ErrCrashed) {
		m.s.t.Fatalf("member %d: %v", m.id, err)
	}
	m.s.faults.torn++
	m.crash()
	return true
}

// diskStep does some of what the disk has to do.
func (m *simMember) diskStep() {
	if len(m.appends) == 0 {
		return
	}
	if at := m.appends[0].record; at != nil {
		m.appends = m.appends[1:]
		if !m.broken(m.disk.Record(*at)) {
			m.onDisk = max(m.onDisk, at.Index)
			m.disk.wal.ReleaseTo(at.Index)
			m.disk.wal.Purge(2)
			m.app.dir.ReleaseDBs(at.Index)
			m.app.dir.Purge(2)
		}
		return
	}
	n := 1 + m.s.rng.IntN(len(m.appends))
	var msgs []raftpb.Message
	for len(m.appends) > 0 && m.appends[0].record == nil && len(msgs) < n {
		msgs = append(msgs, m.appends[0].msg)
		m.appends = m.appends[1:]
	}
	var saved Saved
	if m.broken(m.disk.Append(msgs, &saved)) {
		return
	}
	for i := range saved.Installed {
		m.feeds = append(m.feeds, feedJob{install: &saved.Installed[i]})
		m.onDisk = max(m.onDisk, saved.Installed[i].Metadata.Index)
	}
	m.s.send(saved.Send)
	m.local(saved.Local)
}

func (m *simMember) feedStep() {
	if len(m.feeds) == 0 {
		return
	}
	j := m.feeds[0]
	m.feeds = m.feeds[1:]
	switch {
	case j.install != nil:
		m.s.faults.installs++
		if m.broken(m.feeder.Install(*j.install)) {
			return
		}
	case j.stream != nil:
		msg, db, _, err := m.feeder.Stream(*j.stream)
		if err != nil {
			m.s.t.Fatalf("member %d: %v", m.id, err)
		}
		b, _ := io.ReadAll(db)
		m.s.net = append(m.s.net, packet{m: msg, db: b})
		m.s.faults.snaps++
	default:
		var fed Fed
		err := m.feeder.Apply([]raftpb.Message{j.msg}, m.core.ApplyConfChange, &fed)
		if m.broken(err) {
			return
		}
		for i := range fed.Snapshots {
			m.keeps = append(m.keeps, keepJob{save: &fed.Snapshots[i]})
		}
		m.local(fed.Local)
	}
	m.work()
}

// keepStep does one part of saving a snapshot.
func (m *simMember) keepStep() {
	if len(m.keeps) == 0 {
		return
	}
	s := m.keeps[0].save
	switch {
	case s.Metadata.Index <= m.onDisk:
		m.keeps = m.keeps[1:]
	case !m.flushed:
		m.app.Flush()
		m.flushed = true
		return
	default:
		if m.broken(m.app.dir.Save(*s)) {
			return
		}
		m.appends = append(m.appends, diskJob{record: &s.Metadata})
		m.keeps = m.keeps[1:]
	}
	m.flushed = false
}

// deliver hands over one packet, or loses it.
func (s *sim) deliver(i int) {
	p := s.net[i]
	s.net[i] = s.net[len(s.net)-1]
	s.net = s.net[:len(s.net)-1]
	to, from := s.members[p.m.To-1], s.members[p.m.From-1]
	lost := !to.up || s.cut[[2]uint64{p.m.From, p.m.To}]
	s.note("%s %d→%d %d/%d lost %v", p.m.Type, p.m.From, p.m.To, p.m.LogTerm, p.m.Index, lost)
	ok := !lost
	if ok && p.db != nil {
		_, err := to.app.dir.SaveDB(bytes.NewReader(p.db), p.m.Snapshot.Metadata.Index)
		ok = !to.broken(err)
	}
	if ok {
		if err := to.core.Step(p.m); err != nil {
			s.t.Fatalf("member %d: %v", to.id, err)
		}
		to.work()
	}
	if p.db != nil && from.up {
		from.core.ReportSnapshot(p.m.To, ok)
		from.work()
	}
}

// step does one random thing.
func (s *sim) step(faults bool) {
	m := s.members[s.rng.IntN(len(s.members))]
	dice := s.rng.IntN(1000)
	switch {
	case dice < 450 && len(s.net) > 0:
		s.deliverSome(faults)
	case m.gone:
	case !m.up:
		if !faults || dice < 600 {
			m.start(m.app.durable)
		}
	case dice < 600:
		m.diskStep()
	case dice < 750:
		m.feedStep()
	case dice < 800:
		m.keepStep()
	case dice < 870:
		m.core.Tick()
		m.work()
	case dice < 940:
		if faults {
			s.propose(m)
		}
	case dice < 960:
		s.readIndex(m)
	case dice < 965:
		s.faults.transfers++
		m.core.TransferLeader(s.anyID())
		m.work()
	case !faults || s.rng.IntN(10) < s.calm:
	case dice < 967:
		s.confChange(m)
	default:
		s.harm(m, dice)
	}
}

func (s *sim) deliverSome(faults bool) {
	i := 0
	if faults && s.rng.IntN(4) == 0 {
		i = s.rng.IntN(len(s.net))
	}
	switch luck := s.rng.IntN(100); {
	case faults && luck < 3 && s.net[i].db == nil:
		s.note("network loses one")
		s.net = append(s.net[:i], s.net[i+1:]...)
	case faults && luck < 6 && s.net[i].db == nil:
		s.net = append(s.net, s.net[i])
	default:
		s.deliver(i)
	}
}

func (s *sim) propose(m *simMember) {
	s.next++
	key := fmt.Sprintf("p%d-%d", s.next, m.id)
	m.mine[key] = true
	m.core.Propose(raftpb.Entry{Data: []byte(key)})
	m.work()
}

func (s *sim) readIndex(m *simMember) {
	s.next++
	ctx := binary.BigEndian.AppendUint64(nil, uint64(s.next))
	s.reads[string(ctx)] = s.maxAck
	m.core.ReadIndex(ctx)
	m.work()
}

func (s *sim) harm(m *simMember, dice int) {
	switch {
	case dice < 970:
		m.crash()
	case dice < 975:
		m.fs.FailAfter(s.rng.IntN(6)) // in the middle of one of the next operations
	case dice < 985:
		from, to := s.anyID(), s.anyID()
		s.note("cut %d→%d", from, to)
		s.cut[[2]uint64{from, to}] = true
	default:
		s.note("heal")
		clear(s.cut)
	}
}

// settle heals everything and waits until each member has a proposal of its own
// acknowledged and all have applied the same.
func (s *sim) settle() {
	clear(s.cut)
	for i := range 400_000 {
		if i%4000 == 0 { // what was proposed before may have been lost on its way to a leader
			for _, m := range s.members {
				m.fs.FailAfter(1 << 40)
				if m.up && !m.done && s.votes(m) {
					clear(m.mine)
					s.propose(m)
				}
			}
		}
		s.step(false)
		if s.settled() {
			return
		}
	}
	for _, m := range s.members {
		s.t.Logf("member %d: up %v, %+v, applied %d, waiting %d", m.id, m.up, m.core.Status(), m.app.now.Index, len(m.core.waiting))
	}
	s.t.Fatal("the members do not agree after everything has healed")
}

// votes tells whether m is a voter in the newest configuration that anybody knows.
func (s *sim) votes(m *simMember) bool {
	newest := s.members[0].app.now
	for _, x := range s.members {
		if x.app.now.Index > newest.Index {
			newest = x.app.now
		}
	}
	return slices.Contains(newest.Conf.Voters, m.id)
}

func (s *sim) settled() bool {
	first := s.members[0].app.now
	for _, m := range s.members {
		if !s.votes(m) {
			continue
		}
		m.done = m.done || m.up && len(m.mine) == 0
		if !m.done || !m.up || m.app.now.Index != first.Index || m.app.now.Chain != first.Chain {
			return false
		}
	}
	return first.Index >= s.maxAck
}

func runSim(t *testing.T, seed uint64) *sim {
	defer func(r io.Reader) { crand.Reader = r }(crand.Reader)
	s := newSim(t, seed)
	for range *simSteps {
		s.step(true)
	}
	s.settle()
	for key, index := range s.acked {
		if s.history[index] == 0 {
			t.Fatalf("acknowledged proposal %s at %d is in nobody's log", key, index)
		}
	}
	for _, m := range s.members {
		if m.up {
			m.close()
		}
	}
	return s
}

// TestSimulation runs random histories. A failure names its seed: run it again with
// -sim.seed.
func TestSimulation(t *testing.T) {
	seeds := []uint64{*simSeed}
	if *simSeed == 0 {
		seeds = nil
		for i := range *simRuns {
			seeds = append(seeds, uint64(i+1))
		}
	}
	var total sim
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := runSim(t, seed)
			if len(s.acked) == 0 {
				t.Fatal("nothing was acknowledged: the simulation tests nothing")
			}
			total.faults.add(s.faults)
			total.next += len(s.acked)
		})
	}
	t.Logf("%d acknowledged, %+v", total.next, total.faults)
	if f := total.faults; *simSeed == 0 && (f.crashes == 0 || f.torn == 0 || f.installs == 0 || f.confs == 0) {
		t.Errorf("the simulation did not meet what it is for: %+v", f)
	}
}

// TestSimulationIsDeterministic: a seed replays a run, or it would be of no use.
func TestSimulationIsDeterministic(t *testing.T) {
	if a, b := runSim(t, 7), runSim(t, 7); a.trace != b.trace {
		t.Fatalf("two runs of one seed differ: %x and %x", a.trace, b.trace)
	}
}
