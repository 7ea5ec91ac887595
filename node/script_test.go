package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

// script is a cluster whose stages run when a line of a script says so.
type script struct {
	t       *testing.T
	members map[uint64]*scripted
	net     []raftpb.Message
	out     strings.Builder
}

type scripted struct {
	s       *script
	id      uint64
	fs      *vfs.Crash
	app     *toy
	core    *Core
	disk    *Disk
	feeder  *Feeder
	appends []raftpb.Message
	applies []raftpb.Message
	close   func() error
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format, args...) }

func describe(m raftpb.Message) string {
	return raft.DescribeMessage(m, func(b []byte) string {
		if strings.HasPrefix(string(b), "{") || strings.Contains(string(b), "\x10") {
			return "conf change"
		}
		return string(b)
	})
}

func (m *scripted) start(voters int, durable image) {
	o, err := open(m.fs, durable)
	must(m.s.t, err)
	m.app = &toy{now: o.durable, durable: o.durable, dir: o.dir, fs: m.fs}
	ids := make([]uint64, voters)
	for i := range ids {
		ids[i] = uint64(i + 1)
	}
	opt := o.options(m.id, peersOf(ids...))
	opt.Applier, opt.PreVote, opt.CatchUpEntries = m.app, false, 4
	core, log, err := NewCore(opt)
	must(m.s.t, err)
	m.core, m.disk, m.feeder, m.close = core, NewDisk(opt, log), NewFeeder(opt, log), o.wal.Close
	m.appends, m.applies = nil, nil
}

// work shows what raft wants done and queues it.
func (m *scripted) work() {
	var w Work
	m.core.Flush()
	m.core.Work(&w)
	for _, x := range w.Send {
		m.s.printf("%d send %s\n", m.id, describe(x))
	}
	m.s.net = append(m.s.net, w.Send...)
	for _, x := range w.Append {
		m.s.printf("%d to disk: %s", m.id, summary(x))
	}
	for _, x := range w.Apply {
		m.s.printf("%d to apply: %s", m.id, summary(x))
	}
	for _, x := range w.Snaps {
		m.s.printf("%d snapshot for %x\n", m.id, x.To)
	}
	for _, rs := range w.Reads {
		m.s.printf("%d may read %s at %d\n", m.id, rs.RequestCtx, rs.Index)
	}
	m.appends = append(m.appends, w.Append...)
	m.applies = append(m.applies, w.Apply...)
}

// summary is an append or apply in one line.
func summary(m raftpb.Message) string {
	var parts []string
	if hs := hardState(&m); !raft.IsEmptyHardState(hs) {
		parts = append(parts, fmt.Sprintf("term %d vote %d commit %d", hs.Term, hs.Vote, hs.Commit))
	}
	if n := len(m.Entries); n > 0 {
		parts = append(parts, fmt.Sprintf("entries %d-%d", m.Entries[0].Index, m.Entries[n-1].Index))
	}
	if m.Type == raftpb.MsgStorageAppend {
		var then []string
		for _, r := range m.Responses {
			then = append(then, fmt.Sprintf("%s→%s", strings.TrimPrefix(r.Type.String(), "Msg"), target(r.To)))
		}
		parts = append(parts, "then "+strings.Join(then, " "))
	}
	return strings.Join(parts, ", ") + "\n"
}

func target(id uint64) string { return fmt.Sprintf("%x", id) }

func (m *scripted) runDisk(limit int) {
	n := min(limit, len(m.appends))
	var saved Saved
	ops := m.fs.Ops()
	must(m.s.t, m.disk.Append(m.appends[:n], &saved))
	m.s.printf("%d wrote %d appends in %d disk operations\n", m.id, n, m.fs.Ops()-ops)
	m.appends = m.appends[n:]
	for _, x := range saved.Send {
		m.s.printf("%d send %s\n", m.id, describe(x))
	}
	m.s.net = append(m.s.net, saved.Send...)
	for _, x := range saved.Local {
		must(m.s.t, m.core.Answer(x))
	}
}

func (m *scripted) runApply() {
	if len(m.applies) == 0 {
		return
	}
	var fed Fed
	must(m.s.t, m.feeder.Apply(m.applies, m.core.ApplyConfChange, &fed))
	m.s.printf("%d applied up to %d\n", m.id, m.feeder.Applied())
	m.applies = nil
	for _, x := range fed.Local {
		must(m.s.t, m.core.Answer(x))
	}
}

// deliver hands the messages for a member to it, or loses them.
func (s *script) deliver(to uint64, lose bool) {
	var rest []raftpb.Message
	for _, x := range s.net {
		switch {
		case x.To != to:
			rest = append(rest, x)
		case lose:
			s.printf("lost %s\n", describe(x))
		default:
			must(s.t, s.members[to].core.Step(x))
		}
	}
	s.net = rest
}

// stabilize runs everything until nothing is left, without a word.
func (s *script) stabilize() {
	quiet := s.out.String()
	for busy := true; busy; {
		busy = false
		for id := uint64(1); id <= uint64(len(s.members)); id++ {
			m := s.members[id]
			before := len(s.net)
			s.deliver(id, false)
			m.work()
			busy = busy || before != len(s.net) || len(m.appends)+len(m.applies) > 0
			if len(m.appends) > 0 {
				m.runDisk(len(m.appends))
			}
			m.runApply()
		}
	}
	s.out.Reset()
	s.out.WriteString(quiet)
}

func (s *script) run(d *datadriven.TestData) string {
	s.out.Reset()
	var id uint64
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			fmt.Sscan(a.Key, &id)
			break
		}
	}
	m := s.members[id]
	switch d.Cmd {
	case "members":
		for i := uint64(1); i <= id; i++ {
			m := &scripted{s: s, id: i, fs: vfs.NewCrash(i)}
			s.members[i] = m
			m.start(int(id), image{})
		}
		s.stabilize()
	case "campaign":
		must(s.t, m.core.Campaign())
	case "propose":
		for data := range strings.FieldsSeq(d.Input) {
			m.core.Propose(raftpb.Entry{Data: []byte(data)})
		}
	case "read":
		m.core.ReadIndex([]byte(d.Input))
	case "work":
		m.work()
	case "disk":
		m.runDisk(len(m.appends))
	case "apply":
		m.runApply()
	case "deliver":
		s.deliver(id, d.HasArg("lose"))
	case "stabilize":
		s.stabilize()
	case "stabilize-until-leader":
		for m.core.Status().RaftState != raft.StateLeader {
			m.work()
			m.runApply()
			m.runDisk(len(m.appends))
		}
		s.out.Reset()
	case "transfer":
		var to uint64
		d.ScanArgs(s.t, "to", &to)
		m.core.TransferLeader(to)
	case "crash":
		m.fs = m.fs.Crash()
		m.start(len(s.members), m.app.durable)
	case "status":
		st := m.core.Status()
		waiting, _ := m.core.Waiting()
		last, _ := m.core.log.LastIndex()
		s.printf("%s term %d lead %d commit %d applied %d on disk %d waiting %d\n",
			st.RaftState, st.Term, st.Lead, st.Commit, m.feeder.Applied(), last, waiting)
	default:
		s.t.Fatalf("no command %s", d.Cmd)
	}
	return s.out.String()
}

// TestScripts plays testdata/*.txt: what one member says to its disk, its state
// machine and the others. Run with -rewrite to accept a change.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t, members: map[uint64]*scripted{}}
		datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}
