package machine

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/member"
	"theseus/version"
)

// mixedLog is a random log with everything in it that any etcd writes, beginning with
// a cluster's birth.
func mixedLog(seed int64, cv string, n int) []raftpb.Entry {
	g := &rawLog{pairing: &pairing{rnd: rand.New(rand.NewSource(seed)), user: "somebody"}, minor: 7, self: testSelf, ids: []uint64{testSelf}}
	if v, err := version.Parse(cv); err == nil {
		g.minor = v.Minor
	}
	g.l.birth(cv)
	for range n {
		switch g.rnd.Intn(20) {
		case 0, 1:
			e := g.l.next()
			e.Type, e.Data = g.confChange()
			g.l.add(e)
		case 2:
			g.l.legacy(&api.LegacyRequest{Method: "QGET"})
		case 3:
			g.l.legacy(&api.LegacyRequest{Method: "PUT", Path: fmt.Sprintf("/1/v2/%d", g.rnd.Intn(5)), Val: fmt.Sprint(g.rnd.Intn(9)), Expiration: int64(g.rnd.Intn(2)) * 2e18})
		case 4:
			g.l.legacy(&api.LegacyRequest{Method: "SYNC", Time: int64(g.rnd.Intn(3)) * 1.5e18})
		case 5:
			g.l.term++
			g.l.data(nil)
		default:
			field, req := g.request()
			g.l.requestAs(field, req, g.user(), []uint64{0, 1, 1000, 1000, 1000, 1000}[g.rnd.Intn(6)])
		}
	}
	return g.l.all
}

// outcome is what a result tells, in words that can be compared.
func outcome(r Result) string {
	var out strings.Builder
	fmt.Fprintf(&out, "id %d err %v fatal %v", r.ID, r.Err, r.Fatal)
	if r.Resp != nil {
		fmt.Fprintf(&out, " %T %x", r.Resp, api.Append(nil, r.Resp))
	}
	for _, e := range r.Events {
		fmt.Fprintf(&out, " event %v %v %q %x", e.Delete, e.Rev, e.Key, e.Raw)
	}
	for _, e := range r.Effects {
		if c, ok := e.(AlarmChanged); ok {
			fmt.Fprintf(&out, " alarm %s %d %v", c.Alarm.Alarm, c.Alarm.MemberID, c.Active)
			continue
		}
		fmt.Fprintf(&out, " %T%+v", e, e)
	}
	return out.String()
}

// TestBatchesAndRestarts feeds one log to machines that divide it differently: one
// entry at a time, in random batches, and with a restart after every entry, beside a
// snapshot of any age. All must answer alike and end alike.
func TestBatchesAndRestarts(t *testing.T) {
	for _, cv := range []string{"3.4.0", "3.5.0", "3.7.0"} {
		t.Run(cv, func(t *testing.T) { batchesAndRestarts(t, cv, false) })
	}
	t.Run("3.7.0 migrated", func(t *testing.T) { batchesAndRestarts(t, "3.7.0", true) })
}

func batchesAndRestarts(t *testing.T, cv string, migrate bool) {
	log := mixedLog(42, cv, 350)
	const birth = 4
	born := func() *rig {
		r := newRig(t, Options{})
		r.apply(true, log[:birth]...)
		if migrate {
			if err := r.m.MigrateStorage(version.V3_7); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	single := born()
	want := make([]string, birth)
	snapshots := make([][]byte, birth, len(log)) // by index
	snapshots = append(snapshots, single.m.SnapshotData())
	for _, e := range log[birth:] {
		want = append(want, outcome(single.apply(true, e)[0]))
		snapshots = append(snapshots, single.m.SnapshotData())
	}
	batches, restarts := born(), born()
	inBatches(t, batches, log[birth:], want)
	for i := range log[birth:] {
		applyAndRestart(t, restarts, log[:birth+i+1], want[birth+i], snapshots, migrate)
	}
	compareMachines(t, "batches", single, batches)
	compareMachines(t, "restarts", single, restarts)
	equalBytes(t, "snapshots in batches", single.m.SnapshotData(), batches.m.SnapshotData())
	if !migrate { // a migrated directory holds no v2 requests, and forgets those of this test
		equalBytes(t, "snapshots with restarts", single.m.SnapshotData(), restarts.m.SnapshotData())
	}
}

func inBatches(t *testing.T, r *rig, rest []raftpb.Entry, want []string) {
	rnd := rand.New(rand.NewSource(1))
	for len(rest) > 0 {
		n := min(1+rnd.Intn(40), len(rest))
		for i, res := range r.apply(true, rest[:n]...) {
			index := rest[i].Index
			if got := outcome(res); got != want[index-1] {
				t.Fatalf("in batches, entry %d:\n%s\nwant\n%s", index, got, want[index-1])
			}
		}
		rest = rest[n:]
	}
}

// applyAndRestart applies the last entry of log, and opens the machine again beside a
// snapshot that is up to 30 entries old.
func applyAndRestart(t *testing.T, r *rig, log []raftpb.Entry, want string, snapshots [][]byte, migrated bool) {
	t.Helper()
	i := len(log)
	if got := outcome(r.apply(true, log[i-1])[0]); got != want {
		t.Fatalf("with restarts, entry %d:\n%s\nwant\n%s", i, got, want)
	}
	at := i - (i*7919)%min(i-3, 30)
	conf := r.conf
	r.reopen(snapshots[at], uint64(at))
	from := r.m.ReplayFrom()
	if wantFrom := map[bool]int{true: i, false: at}[migrated]; from != uint64(wantFrom) {
		t.Fatalf("after entry %d, snapshot %d: replay from %d", i, at, from)
	}
	for _, old := range log[from:] {
		if res := r.apply(false, old)[0]; !res.Skipped || res.Fatal != nil {
			t.Fatalf("entry %d again: %+v", old.Index, res)
		}
	}
	r.conf = conf // raft's snapshot would have led there
	if index, _ := r.m.Applied(); index != uint64(i) {
		t.Fatalf("after entry %d and a restart: applied %d", i, index)
	}
	if got := r.m.SnapshotData(); !migrated && string(got) != string(snapshots[i]) {
		t.Fatalf("after entry %d, snapshot %d and replay:\n%s\nwant\n%s", i, at, got, snapshots[i])
	}
}

func compareMachines(t *testing.T, name string, a, b *rig) {
	t.Helper()
	for _, r := range []*rig{a, b} {
		for r.m.CompactStep(50) {
		}
	}
	if x, y := a.dump(), b.dump(); x != y {
		t.Errorf("%s: buckets differ:\n%s\n---\n%s", name, x, y)
	}
	x, err := a.m.KV().HashKV(0)
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.m.KV().HashKV(0)
	if err != nil {
		t.Fatal(err)
	}
	if x != y {
		t.Errorf("%s: hash %+v, want %+v", name, y, x)
	}
}

// TestCurrentDirectory is a directory of 3.6 or newer: its buckets are the truth, and
// old entries are passed over, conf changes too.
func TestCurrentDirectory(t *testing.T) {
	r := newRig(t, Options{})
	var l entries
	l.birth("3.7.0")
	add := l.confChange(raftpb.ConfChangeAddLearnerNode, member.Member{ID: 7, PeerURLs: []string{"http://p7"}, IsLearner: true}, false)
	r.apply(true, l.all...)
	if err := r.m.MigrateStorage(version.V3_7); err != nil {
		t.Fatal(err)
	}
	if v, ok := r.m.StorageVersion(); !ok || v != version.V3_7 {
		t.Fatalf("storage version %v", v)
	}
	r.reopen([]byte(`{"Root":{"Path":"/","Children":{}}}`), 2) // a snapshot whose content is not believed
	if from := r.m.ReplayFrom(); from != 5 {
		t.Fatalf("replay from %d, want 5", from)
	}
	if cs, ok := r.m.ConfState(); !ok || len(cs.Learners) != 1 {
		t.Fatalf("conf state %v", cs)
	}
	if got := len(r.m.Members().Members()); got != 2 {
		t.Fatalf("%d members, want those of the buckets", got)
	}
	r.m.Begin()
	if res := r.m.Apply(add, false); res.Fatal == nil {
		t.Fatalf("an entry that was applied: %+v", res)
	}
	r.m.End()
}

// TestFatal pins what the machine refuses to guess, and that it stops for good.
func TestFatal(t *testing.T) {
	two := append(api.AppendInternal(nil, api.FieldPut, api.Append(nil, put("a", "1", 0)), &pb.RequestHeader{ID: 1}),
		api.AppendInternal(nil, api.FieldCompaction, nil, &pb.RequestHeader{ID: 1})...)
	unset := api.AppendInternal(nil, api.FieldTxn, api.Append(nil, &pb.TxnRequest{Success: []*pb.RequestOp{{}}}), &pb.RequestHeader{ID: 1})
	cc := func(c raftpb.ConfChange) []byte {
		data, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, c := range map[string]struct {
		e    raftpb.Entry
		want string
	}{
		"unknown request": {raftpb.Entry{Data: api.AppendInternal(nil, 4242, []byte("x"), &pb.RequestHeader{ID: 1})}, "apply entry 5 (term 2, 10 bytes): it holds no request that this version knows, but field 4242"},
		"no request":      {raftpb.Entry{Data: api.AppendInternal(nil, 1, nil, &pb.RequestHeader{ID: 1})[2:]}, "it holds no request that this version knows, but nothing"},
		"two requests":    {raftpb.Entry{Data: two}, "it holds two requests, fields 4 and 7"},
		"unknown op":      {raftpb.Entry{Data: unset}, "holds an operation that this version does not know"},
		"garbage":         {raftpb.Entry{Data: []byte{0xff, 0xff}}, "apply entry 5"},
		"entry type":      {raftpb.Entry{Type: raftpb.EntryConfChangeV2}, "its type is 2"},
		"version too new": {raftpb.Entry{Data: (&api.LegacyRequest{Method: "PUT", Path: "/0/version", Val: "3.9.0"}).Append(nil)}, "set cluster version 3.9.0 on server version 3.7.3"},
		"no version":      {raftpb.Entry{Data: (&api.LegacyRequest{Method: "PUT", Path: "/0/version", Val: "new"}).Append(nil)}, "set cluster version"},
		"stranger":        {raftpb.Entry{Data: (&api.LegacyRequest{Method: "PUT", Path: "/0/members/77/attributes", Val: "{}"}).Append(nil)}, "attributes of member 77"},
		"bad attributes":  {raftpb.Entry{Data: (&api.LegacyRequest{Method: "PUT", Path: "/0/members/77/attributes", Val: "{"}).Append(nil)}, "publish member 77"},
		"conf change":     {raftpb.Entry{Type: raftpb.EntryConfChange, Data: []byte{0xff}}, "decode conf change"},
		"other context":   {raftpb.Entry{Type: raftpb.EntryConfChange, Data: cc(raftpb.ConfChange{NodeID: 5, Context: []byte(`{"id":6}`)})}, "conf change for member 5 has the context of member 6"},
		"no context":      {raftpb.Entry{Type: raftpb.EntryConfChange, Data: cc(raftpb.ConfChange{NodeID: 5})}, "decode context"},
		"hole":            {raftpb.Entry{Index: 7}, "entry 7 (term 2) was handed to the state machine after entry 4"},
		"again":           {raftpb.Entry{Index: 4}, "entry 4 (term 2) was handed to the state machine after entry 4"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{})
			var l entries
			l.birth("3.7.0")
			r.apply(true, l.all...)
			before := r.dump()
			if c.e.Term = 2; c.e.Index == 0 {
				c.e.Index = 5
			}
			res := r.apply(true, c.e)[0]
			if res.Fatal == nil || !strings.Contains(res.Fatal.Error(), c.want) {
				t.Fatalf("%v, want %q", res.Fatal, c.want)
			}
			after := r.apply(true, raftpb.Entry{Index: 5, Term: 2})[0]
			if after.Fatal == nil {
				t.Error("the machine went on")
			}
			if index, _ := r.m.Applied(); index != 4 {
				t.Errorf("applied %d, want 4", index)
			}
			if r.dump() != before {
				t.Errorf("it left something behind:\n%s", r.dump())
			}
		})
	}
}

// TestOpenRefuses pins which directories are not opened.
func TestOpenRefuses(t *testing.T) {
	r := newRig(t, Options{})
	var l entries
	l.birth("3.7.0")
	r.apply(true, l.all...)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.m.MigrateStorage(version.V3_7))
	refuse := func(change func(o *Options), want string) {
		t.Helper()
		r.close()
		was := r.o
		change(&r.o)
		if err := r.tryOpen(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		r.close()
		r.o = was
		r.open()
	}
	refuse(func(o *Options) { o.ServerVersion = version.V(3, 6, 16) }, `version "3.7.0" is not supported`)
	refuse(func(o *Options) { o.V2Index = 99 }, "the database is as of index 4, but the newest snapshot is of index 99")
	refuse(func(o *Options) { o.V2, o.V2Index = []byte("{"), 4 }, "v2 store")
	must(r.m.MigrateStorage(version.V3_5))
	refuse(func(o *Options) {
		o.ServerVersion, o.V2, o.V2Index = version.V(3, 6, 16), r.m.SnapshotData(), 4
	}, "server version is lower than determined cluster version")
}

// TestLowering goes down to 3.4 and up again: what the file holds follows.
func TestLowering(t *testing.T) {
	r := newRig(t, Options{})
	var l entries
	l.birth("3.7.0")
	r.apply(true, l.all...)
	if err := r.m.MigrateStorage(version.V3_7); err != nil {
		t.Fatal(err)
	}
	set := func(v string) Result {
		return r.apply(true, l.legacy(&api.LegacyRequest{Method: "PUT", Path: "/0/version", Val: v}))[0]
	}
	for _, step := range []struct {
		cv                   string
		forced               bool
		term, conf, released bool
	}{{"3.6.0", true, true, true, true}, {"3.5.0", true, true, true, false}, {"3.4.0", true, false, false, false}, {"3.5.0", false, true, true, false}} {
		res := set(step.cv)
		forced := false
		for _, e := range res.Effects {
			_, is := e.(ForceSnapshot)
			forced = forced || is
		}
		if forced != step.forced {
			t.Errorf("%s: forced snapshot %v", step.cv, forced)
		}
		if to, _ := r.m.Members().Version(); to.AtLeast(version.V3_5) && step.forced {
			if err := r.m.MigrateStorage(to); err != nil {
				t.Fatal(err)
			}
		}
		for key, want := range map[string]bool{"term": step.term, "confState": step.conf, "storageVersion": step.released} {
			if has := r.b.Get(BucketMeta, []byte(key)) != nil; has != want {
				t.Errorf("%s: meta/%s is there: %v", step.cv, key, has)
			}
		}
	}
}

// TestQuota: what does not fit is carried out all the same, and refused in words.
func TestQuota(t *testing.T) {
	size := int64(0)
	r := newRig(t, Options{QuotaBytes: 1000, DBSize: func() int64 { return size }})
	var l entries
	l.birth("3.7.0")
	r.apply(true, l.all...)
	fits := put("k", strings.Repeat("x", 742), 0)
	if !r.m.QuotaAvailable(fits) || r.m.QuotaAvailable(put("k", strings.Repeat("x", 743), 0)) {
		t.Fatal("a put of 999 bytes fits below a quota of 1000, one of 1000 does not")
	}
	size = 990
	res := r.apply(true, l.request(api.FieldPut, put("k", "v", 0)))[0]
	if res.Err != api.ErrNoSpace || res.Resp != nil || len(res.Events) != 1 || outcome(Result{Effects: res.Effects}) != outcome(Result{Effects: []Effect{NoSpace{}}}) {
		t.Fatalf("a put that does not fit: %s", outcome(res))
	}
	del := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}}}}}
	if res := r.apply(true, l.request(api.FieldTxn, del))[0]; res.Err != nil || len(res.Events) != 1 {
		t.Fatalf("a delete: %s", outcome(res))
	}
	r.apply(true, l.request(api.FieldAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}))
	for field, req := range map[int]proto.Message{api.FieldPut: put("k", "v", 0), api.FieldLeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 9}} {
		if res := r.apply(true, l.request(field, req))[0]; res.Err != api.ErrNoSpace || len(res.Events)+len(res.Effects) != 0 {
			t.Fatalf("%v under the alarm: %s", req, outcome(res))
		}
	}
	if res := r.apply(true, l.request(api.FieldTxn, del))[0]; res.Err != nil {
		t.Fatalf("a delete under the alarm: %v", res.Err)
	}
}
