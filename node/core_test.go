package node

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
	"theseus/wal"
)

// TestMessagesThatNoPeerMaySend: raft itself would panic at most of these.
func TestMessagesThatNoPeerMaySend(t *testing.T) {
	c, _, err := NewCore(Options{ID: 1, Peers: peersOf(1, 2, 3)})
	must(t, err)
	conf := raftpb.ConfState{Voters: []uint64{1, 2}}
	snapshot := func(change func(*raftpb.SnapshotMetadata)) *raftpb.Snapshot {
		s := &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 9, Term: 1, ConfState: conf}}
		change(&s.Metadata)
		return s
	}
	for name, m := range map[string]raftpb.Message{
		"nobody":             {Type: raftpb.MsgHeartbeat, To: 1, Term: 1},
		"somebody else":      {Type: raftpb.MsgHeartbeat, From: 2, To: 3, Term: 1},
		"itself":             {Type: raftpb.MsgHeartbeat, From: 1, To: 1, Term: 1},
		"the disk":           {Type: raftpb.MsgStorageAppendResp, From: raft.LocalAppendThread, To: 1, Term: 1},
		"local":              {Type: raftpb.MsgHup, From: 2, To: 1, Term: 1},
		"forget":             {Type: raftpb.MsgForgetLeader, From: 2, To: 1, Term: 1},
		"unknown type":       {Type: 99, From: 2, To: 1, Term: 1},
		"negative type":      {Type: -1, From: 2, To: 1, Term: 1},
		"no term":            {Type: raftpb.MsgApp, From: 2, To: 1},
		"empty proposal":     {Type: raftpb.MsgProp, From: 2, To: 1},
		"bad conf change":    {Type: raftpb.MsgProp, From: 2, To: 1, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChange, Data: []byte{0xff}}}},
		"joint conf change":  {Type: raftpb.MsgProp, From: 2, To: 1, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChangeV2}}},
		"read of nothing":    {Type: raftpb.MsgReadIndex, From: 2, To: 1},
		"answer of nothing":  {Type: raftpb.MsgReadIndexResp, From: 2, To: 1, Term: 1},
		"gap":                {Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 3, LogTerm: 1, Entries: []raftpb.Entry{{Index: 5, Term: 1}}},
		"entry of no term":   {Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 3, Entries: []raftpb.Entry{{Index: 4}}},
		"terms going down":   {Type: raftpb.MsgApp, From: 2, To: 1, Term: 3, Index: 3, LogTerm: 2, Entries: []raftpb.Entry{{Index: 4, Term: 1}}},
		"entry of later":     {Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 3, LogTerm: 1, Entries: []raftpb.Entry{{Index: 4, Term: 2}}},
		"no snapshot":        {Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1},
		"snapshot of 0":      {Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1, Snapshot: snapshot(func(m *raftpb.SnapshotMetadata) { m.Index = 0 })},
		"no voters":          {Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1, Snapshot: snapshot(func(m *raftpb.SnapshotMetadata) { m.ConfState.Voters = nil })},
		"voter and learner":  {Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1, Snapshot: snapshot(func(m *raftpb.SnapshotMetadata) { m.ConfState.Learners = []uint64{2} })},
		"joint snapshot":     {Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1, Snapshot: snapshot(func(m *raftpb.SnapshotMetadata) { m.ConfState.VotersOutgoing = []uint64{2} })},
		"voter without name": {Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1, Snapshot: snapshot(func(m *raftpb.SnapshotMetadata) { m.ConfState.Voters = []uint64{0, 1} })},
	} {
		if err := c.Step(m); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok := raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 3, LogTerm: 1, Entries: []raftpb.Entry{{Index: 4, Term: 1}}}
	if err := c.Step(ok); err != nil {
		t.Errorf("a good message: %v", err)
	}
}

func TestCommitIndexesAreNotSentTwice(t *testing.T) {
	app := func(to, index, commit uint64, ents ...raftpb.Entry) raftpb.Message {
		return raftpb.Message{Type: raftpb.MsgApp, To: to, Term: 2, Index: index, Commit: commit, Entries: ents}
	}
	var got []raftpb.Message
	for _, m := range []raftpb.Message{
		app(2, 7, 7), app(3, 6, 6), app(2, 7, 7, raftpb.Entry{Index: 8}), app(3, 7, 7, raftpb.Entry{Index: 8}),
	} {
		got = appendMessage(got, m)
	}
	want := []raftpb.Message{app(2, 7, 7, raftpb.Entry{Index: 8}), app(3, 6, 6), app(3, 7, 7, raftpb.Entry{Index: 8})}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestHold: proposals stay here while the leader is about to hand over, until there is
// another leader or the time is over.
func TestHold(t *testing.T) {
	c, _, err := NewCore(Options{ID: 1, Peers: peersOf(1, 2, 3)})
	must(t, err)
	follow := func(lead, term uint64) {
		must(t, c.Step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: lead, To: 1, Term: term}))
	}
	proposed := func() int {
		c.Propose(raftpb.Entry{Data: []byte("x")})
		return c.Flush()
	}
	follow(2, 5)
	if n := proposed(); n != 1 {
		t.Errorf("%d forwarded", n)
	}
	c.Hold(3)
	if n := proposed(); n != 0 {
		t.Errorf("%d forwarded to a leader that hands over", n)
	}
	follow(3, 6)
	if n := proposed(); n != 2 {
		t.Errorf("%d forwarded to the new leader, not both", n)
	}
	c.Hold(3)
	for range 3 {
		if n := proposed(); n != 0 {
			t.Errorf("%d forwarded", n)
		}
		c.Tick()
	}
	if n := proposed(); n != 4 {
		t.Errorf("%d forwarded when nothing had come of it, not 4", n)
	}
}

// TestOverwrittenTails: appends that wait together may take back one another.
func TestOverwrittenTails(t *testing.T) {
	ents := func(term uint64, from, to uint64) (out []raftpb.Entry) {
		for i := from; i <= to; i++ {
			out = append(out, raftpb.Entry{Term: term, Index: i})
		}
		return out
	}
	for name, tc := range map[string]struct{ first, second, want []raftpb.Entry }{
		"follows":     {ents(1, 1, 3), ents(1, 4, 5), ents(1, 1, 5)},
		"replaces":    {ents(1, 1, 3), ents(2, 2, 2), append(ents(1, 1, 1), ents(2, 2, 2)...)},
		"replaces it": {ents(1, 4, 6), ents(2, 4, 5), ents(2, 4, 5)},
		"goes before": {ents(1, 4, 6), ents(2, 2, 3), ents(2, 2, 3)},
	} {
		d := &Disk{}
		d.gather(&raftpb.Message{Entries: tc.first})
		d.gather(&raftpb.Message{Entries: tc.second})
		if diff := cmp.Diff(tc.want, d.ents); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestWhatDoesNotBelongTogether is refused before anything runs.
func TestWhatDoesNotBelongTogether(t *testing.T) {
	snapshot := &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 10, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1}}}}
	contents := func(from, to uint64) *wal.Contents {
		c := &wal.Contents{State: raftpb.HardState{Term: 2, Commit: 10}}
		for i := from; i <= to; i++ {
			c.Entries = append(c.Entries, raftpb.Entry{Term: 2, Index: i})
		}
		return c
	}
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"database ahead of the log":      {Options{Snapshot: snapshot, Contents: contents(11, 12), Applied: 13}, "ends at index 12, but the database has applied 13"},
		"database behind the snapshot":   {Options{Snapshot: snapshot, Contents: contents(11, 12), Applied: 9}, "the database has applied index 9, but the log begins after 10"},
		"gap between snapshot and log":   {Options{Snapshot: snapshot, Contents: contents(12, 13), Applied: 10}, "begins at index 12, but the snapshot ends at 10"},
		"database ahead of an empty log": {Options{Applied: 1}, "ends at index 0"},
	} {
		tc.o.ID = 1
		if _, _, err := NewCore(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What was applied was committed, whatever the log says.
	c, _, err := NewCore(Options{ID: 1, Snapshot: snapshot, Contents: contents(11, 14), Applied: 13, ConfState: &snapshot.Metadata.ConfState})
	must(t, err)
	if s := c.Status(); s.Commit != 13 || s.Applied != 13 {
		t.Errorf("%+v", s)
	}
	// Without a configuration as of the applied index, entries come again.
	c, _, err = NewCore(Options{ID: 1, Snapshot: snapshot, Contents: contents(11, 14), Applied: 13})
	must(t, err)
	if s := c.Status(); s.Commit != 13 || s.Applied != 10 {
		t.Errorf("%+v", s)
	}
}

func TestForceNewClusterChanges(t *testing.T) {
	entry := func(index uint64, typ raftpb.ConfChangeType, id uint64) raftpb.Entry {
		data, err := (&raftpb.ConfChange{Type: typ, NodeID: id}).Marshal()
		must(t, err)
		return raftpb.Entry{Type: raftpb.EntryConfChange, Term: 3, Index: index, Data: data}
	}
	fs := vfs.NewCrash(1)
	must(t, fs.MkdirAll("/m", 0o700))
	w, err := wal.Create("/m/wal", nil, wal.Options{FS: fs})
	must(t, err)
	defer w.Close()
	s := &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 10, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{9}}}}
	c := &wal.Contents{State: raftpb.HardState{Term: 5, Vote: 2, Commit: 12}, Entries: []raftpb.Entry{
		entry(11, raftpb.ConfChangeAddNode, 7), entry(12, raftpb.ConfChangeRemoveNode, 1),
		entry(13, raftpb.ConfChangeRemoveNode, 2), entry(14, raftpb.ConfChangeAddNode, 8), // 14 is not committed
	}}
	must(t, ForceNewCluster(w, c, s, Force{Self: 1, Applied: 13, Context: []byte("me")}))
	if c.State != (raftpb.HardState{Term: 5, Vote: 2, Commit: 17}) {
		t.Errorf("state %+v", c.State)
	}
	var got []raftpb.ConfChange
	for i, e := range c.Entries {
		if e.Index != 11+uint64(i) {
			t.Errorf("entry %d at %d", e.Index, i)
		}
		if e.Index > 13 {
			var cc raftpb.ConfChange
			must(t, cc.Unmarshal(e.Data))
			got = append(got, cc)
			if e.Term != 5 {
				t.Errorf("entry %d of term %d", e.Index, e.Term)
			}
		}
	}
	want := []raftpb.ConfChange{
		{Type: raftpb.ConfChangeAddNode, NodeID: 1, Context: []byte("me")}, {Type: raftpb.ConfChangeRemoveNode, NodeID: 3},
		{Type: raftpb.ConfChangeRemoveNode, NodeID: 7}, {Type: raftpb.ConfChangeRemoveNode, NodeID: 9},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := ForceNewCluster(w, &wal.Contents{}, s, Force{Self: 1, Applied: 11}); err == nil {
		t.Error("a log that ends before what was applied was taken")
	}
}

// TestRestartForgetsTailsThatWereReplaced: what an earlier leader had appended and
// another has replaced must not come back, even when nothing was written at the same
// indexes again. The simulation found both.
func TestRestartForgetsTailsThatWereReplaced(t *testing.T) {
	ents := func(term, from, to uint64) (out []raftpb.Entry) {
		for i := from; i <= to; i++ {
			out = append(out, raftpb.Entry{Term: term, Index: i})
		}
		return out
	}
	conf := raftpb.ConfState{Voters: []uint64{1}}
	for name, replace := range map[string]func(w *wal.WAL){
		"by a shorter tail": func(w *wal.WAL) {
			must(t, w.Save(raftpb.HardState{Term: 9, Commit: 13}, ents(9, 12, 13)))
			must(t, w.SaveSnapshot(wal.Snapshot{Index: 13, Term: 9, ConfState: &conf}))
		},
		"by a received snapshot": func(w *wal.WAL) {
			must(t, w.SaveSnapshot(wal.Snapshot{Index: 13, Term: 9, ConfState: &conf}))
			must(t, w.Save(raftpb.HardState{Term: 9, Commit: 13}, nil))
		},
	} {
		fs := vfs.NewCrash(1)
		must(t, fs.MkdirAll("/m", 0o700))
		w, err := wal.Create("/m/wal", nil, wal.Options{FS: fs})
		must(t, err)
		must(t, w.Save(raftpb.HardState{Term: 8, Commit: 11}, ents(8, 1, 20)))
		replace(w)
		must(t, w.Close())
		w, c, err := wal.Open("/m/wal", wal.Snapshot{Index: 13, Term: 9}, wal.Options{FS: fs})
		must(t, err)
		if len(c.Entries) != 0 {
			t.Errorf("%s: entries %d to %d of term %d are back", name, c.Entries[0].Index, c.Entries[len(c.Entries)-1].Index, c.Entries[0].Term)
		}
		must(t, w.Close())
	}
}

// TestMessagesOfAnyContent: whatever a peer sends, raft does not panic; the worst is
// word that the log has been lost.
func TestMessagesOfAnyContent(t *testing.T) {
	for seed := range uint64(5000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c, _, err := NewCore(Options{ID: 1, Peers: peersOf(1, 2, 3)})
		must(t, err)
		turn(c)
		if rng.IntN(2) == 0 {
			must(t, c.Campaign())
			turn(c)
			must(t, c.Step(raftpb.Message{Type: raftpb.MsgVoteResp, From: 2, To: 1, Term: 2}))
			turn(c)
		}
		for range 12 {
			if err := c.Step(anyMessage(rng)); errors.Is(err, ErrLogLost) {
				break
			}
			if rng.IntN(3) == 0 {
				for range rng.IntN(20) {
					c.Tick()
				}
			}
			turn(c)
		}
	}
}

// turn is a member whose disk and state machine are done at once.
func turn(c *Core) {
	var w Work
	for range 5 {
		c.Flush()
		c.Work(&w)
		for _, m := range append(slices.Clone(w.Append), w.Apply...) {
			if m.Type == raftpb.MsgStorageAppend {
				if m.Snapshot != nil {
					c.log.Install(m.Snapshot.Metadata)
				}
				_ = c.log.Append(m.Entries)
			}
			for _, e := range m.Entries {
				var cc raftpb.ConfChange
				if m.Type == raftpb.MsgStorageApply && e.Type == raftpb.EntryConfChange && cc.Unmarshal(e.Data) == nil {
					if cc.Type == raftpb.ConfChangeRemoveNode {
						cc.NodeID = 0 // a configuration without voters is none; the state machine refuses
					}
					c.ApplyConfChange(cc)
				}
			}
			for _, r := range m.Responses {
				if r.To == c.id {
					_ = c.Answer(r)
				}
			}
		}
	}
}

func anyMessage(rng *rand.Rand) raftpb.Message {
	m := raftpb.Message{
		Type: raftpb.MessageType(rng.IntN(26) - 1), From: 1 + rng.Uint64N(4), To: 1, Term: rng.Uint64N(5), LogTerm: rng.Uint64N(4),
		Index: rng.Uint64N(9), Commit: rng.Uint64N(9), Reject: rng.IntN(3) == 0, RejectHint: rng.Uint64N(9),
	}
	for i := range rng.Uint64N(3) {
		e := raftpb.Entry{Index: m.Index + 1 + i, Term: max(1, rng.Uint64N(4)), Type: raftpb.EntryType(rng.IntN(5) / 4)}
		if e.Type == raftpb.EntryConfChange {
			e.Data, _ = (&raftpb.ConfChange{Type: raftpb.ConfChangeType(rng.IntN(6)), NodeID: rng.Uint64N(5)}).Marshal()
		}
		m.Entries = append(m.Entries, e)
	}
	if m.Type == raftpb.MsgSnap {
		m.Snapshot = &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{
			Index: rng.Uint64N(12), Term: rng.Uint64N(4), ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}},
		}}
	}
	return m
}
