package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/prometheus/client_golang/prometheus"

	"theseus/api"
)

// checking are options of members that look often.
func checking(_ int, o *Options) {
	o.CorruptCheckTime, o.CompactHashCheckTime = 20*time.Millisecond, 20*time.Millisecond
	o.Registerer = prometheus.NewRegistry()
}

// measured is the sum over one metric of a member.
func (m *testMember) measured(name string) (sum float64) {
	m.t.Helper()
	all, err := m.o.Registerer.(*prometheus.Registry).Gather()
	must(m.t, err)
	for _, f := range all {
		if f.GetName() == name {
			for _, x := range f.GetMetric() {
				sum += x.GetCounter().GetValue() + x.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// damage flips a bit of every value in the stopped member's database that holds what.
func (m *testMember) damage(what string) {
	m.t.Helper()
	path := filepath.Join(m.o.DataDir, "member", "snap", "db")
	b, err := os.ReadFile(path)
	must(m.t, err)
	if !bytes.Contains(b, []byte(what)) {
		m.t.Fatalf("%s does not hold %q", path, what)
	}
	wrong := []byte(what)
	wrong[len(wrong)-1] ^= 1
	must(m.t, os.WriteFile(path, bytes.ReplaceAll(b, []byte(what), wrong), 0o600))
}

// restarted stops the member, damages it, and starts it.
func (m *testMember) restarted(damage func()) {
	m.t.Helper()
	m.stop()
	m.o.Registerer = prometheus.NewRegistry()
	damage()
	m.start()
}

func TestCompactHashCheck(t *testing.T) {
	c := newCluster(t, 3, func(i int, o *Options) { checking(i, o); o.CompactHashCheck = true })
	lead := c.leader()
	for range 20 {
		lead.put("a", "x")
	}
	for rev := int64(5); rev <= 10; rev++ {
		_, err := lead.Compact(lead.context(), &pb.CompactionRequest{Revision: rev, Physical: true})
		must(t, err)
	}
	for _, m := range c.members {
		c.eventually("a check", func() bool { return m.measured("theseus_server_compaction_hashes_agreed_total") > 0 })
	}
	if len(lead.Alarms()) != 0 {
		t.Errorf("alarms without corruption: %v", lead.Alarms())
	}
}

// TestCorruptMemberIsRepaired: a flipped bit in one member's file, be it follower or
// leader, is found, the member is fenced and comes back equal, and nobody else is touched.
func TestCorruptMemberIsRepaired(t *testing.T) {
	c := newCluster(t, 3, checking)
	for i := range 50 {
		c.leader().put(fmt.Sprintf("k%02d", i), fmt.Sprintf("value-of-%02d-is-right", i))
	}
	c.agree()
	bad := c.follower()
	bad.restarted(func() { bad.damage("value-of-07-is-right") })
	c.eventually("the repair", func() bool { return bad.measured("theseus_server_repairs_total") >= 1 && bad.fenced() == nil })
	for i := range 20 { // and it goes on
		c.leader().put(fmt.Sprintf("k%02d", i+40), "later")
	}
	if got := bad.get("k07"); got != "value-of-07-is-right" {
		t.Errorf("after the repair k07 = %q", got)
	}
	c.agree()
	aside, err := filepath.Glob(filepath.Join(bad.o.DataDir, "member", "snap", "db.corrupt-*"))
	must(t, err)
	if len(aside) != 1 {
		t.Errorf("files aside: %q", aside)
	}
	if n := len(c.leader().Alarms()); n != 0 {
		t.Errorf("%d alarms", n)
	}
	for _, m := range c.members {
		if m != bad && (m.fenced() != nil || m.measured("theseus_server_repairs_total") != 0) {
			t.Errorf("%s was fenced", m.o.Name)
		}
	}
	bad.stop() // what it wrote is a directory like any other
	bad.o.Registerer = prometheus.NewRegistry()
	bad.start()
	c.agree()
}

// TestFencedMemberAnswersNothing: as long as there is nobody to repair it from, a wrong
// member refuses reads, writes, images and watches, and says why.
func TestFencedMemberAnswersNothing(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.leader().put("a", "1")
	c.agree()
	m := c.follower()
	h, err := m.hashKV(0)
	must(t, err)
	went, now := m.Fenced()
	if now {
		t.Fatal("fenced from the start")
	}
	m.valve.close() // no repair
	m.fence.why.Store(&conviction{revision: h.HashRevision, mine: 1, quorum: 2})
	defer func() { m.valve.open(); m.unfence(h) }()
	ctx := m.context()
	for name, do := range map[string]func() error{
		"serializable read": func() error {
			_, err := m.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
			return err
		},
		"read transaction": func() error {
			_, err := m.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Serializable: true}}}}}, nil)
			return err
		},
		"put":    func() error { _, err := m.Put(ctx, &pb.PutRequest{Key: []byte("a")}, nil); return err },
		"image":  func() error { _, _, _, err := m.Snapshot(ctx); return err },
		"repair": func() error { _, err := peerService{m.Server}.PeerDatabase(ctx, 0); return err },
	} {
		if err := do(); !errors.Is(err, api.ErrFenced) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m.Check(ctx, CheckDataCorruption) == nil || m.Health(ctx, nil, true) == "" {
		t.Error("it says that it is well")
	}
	st, err := m.Status(ctx, &pb.StatusRequest{})
	if err != nil || len(st.Errors) != 1 {
		t.Errorf("status %v, %v", st.GetErrors(), err)
	}
	select {
	case <-went:
		t.Error("streams were ended by nobody")
	default:
	}
	c.leader().put("a", "2") // the others go on
}

// TestNoQuorumNoFence: of two members that differ nobody knows which is right: etcd's
// alarm for member 0 is raised, and nobody is fenced.
func TestNoQuorumNoFence(t *testing.T) {
	c := newCluster(t, 2, checking)
	c.leader().put("a", "value-that-is-right")
	c.agree()
	bad := c.follower()
	bad.restarted(func() { bad.damage("value-that-is-right") })
	c.eventually("the alarm", func() bool { return len(c.leader().Alarms()) == 1 })
	if a := c.leader().Alarms()[0]; a.MemberID != 0 || a.Alarm != pb.AlarmType_CORRUPT {
		t.Errorf("alarm %v", a)
	}
	for _, m := range c.members {
		if m.fenced() != nil {
			t.Errorf("%s is fenced", m.o.Name)
		}
	}
}

// TestUnknownIsNotClean: a member that cannot be compared counts for nobody.
func TestUnknownIsNotClean(t *testing.T) {
	c := newCluster(t, 3, nil)
	lead := c.leader()
	lead.put("a", "1")
	c.agree()
	for _, m := range c.members {
		if m != lead {
			m.valve.close()
			defer m.valve.open()
		}
	}
	lead.put("a", "2")
	c.eventually("the leader ahead", func() bool { return lead.Revision() == 3 })
	p, err := lead.compare(context.Background())
	must(t, err)
	if _, _, ok := p.right(); ok || !p.same() || p.answered() != 1 {
		t.Errorf("members that lag were counted: %+v", p.groups)
	}
}

func TestValve(t *testing.T) {
	ents := make([]raftpb.Entry, 5)
	for i := range ents {
		ents[i].Index = uint64(10 + i)
	}
	v := newValve()
	if got := v.pass(ents); len(got) != 5 {
		t.Errorf("%d pass when it is open", len(got))
	}
	v.leave()
	v.close()
	v.openTo(12)
	if got := v.pass(ents); len(got) != 3 || got[2].Index != 12 {
		t.Errorf("up to 12 pass %v", got)
	}
	v.leave()
	passed := make(chan int)
	go func() { passed <- len(v.pass(ents[3:])); v.leave() }()
	select {
	case <-passed:
		t.Error("13 passed")
	default:
	}
	v.open()
	if n := <-passed; n != 2 {
		t.Errorf("%d passed when it was opened", n)
	}
}
