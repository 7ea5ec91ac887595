package server

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

func TestThreePutGet(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.leader()
	for i, m := range c.members {
		m.put(fmt.Sprint("k", i), "v")
	}
	for _, m := range c.members {
		for i := range c.members {
			if got := m.get(fmt.Sprint("k", i)); got != "v" {
				t.Errorf("%s: k%d = %q", m.o.Name, i, got)
			}
		}
	}
	c.agree()
	for _, m := range c.members {
		<-m.Ready()
	}
	c.eventually("the cluster version", func() bool {
		_, cv, storage := c.members[0].Versions()
		return cv == "3.7.0" && storage == "3.7.0"
	})
}

func TestLeaderStops(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.leader().put("a", "1")
	c.eventually("connections", func() bool {
		for _, m := range c.members {
			if m.transport.ActivePeers() < 2 {
				t.Logf("%s %d", m.o.Name, m.transport.ActivePeers())
				return false
			}
		}
		return true
	})
	lead, follower := c.leader(), c.follower()
	errs := make(chan error, 1)
	quit := make(chan struct{})
	go func() { // nothing that a follower is asked may fail meanwhile
		for {
			select {
			case <-quit:
				errs <- nil
				return
			default:
			}
			if _, err := follower.Put(follower.context(), &pb.PutRequest{Key: []byte("b")}, nil); err != nil {
				errs <- fmt.Errorf("put: %w", err)
				return
			}
			if _, err := follower.Range(follower.context(), &pb.RangeRequest{Key: []byte("b")}); err != nil {
				errs <- fmt.Errorf("get: %w", err)
				return
			}
		}
	}()
	start := time.Now()
	lead.stop()
	if took := time.Since(start); took > time.Second && !raceEnabled {
		t.Errorf("the leader took %v to stop", took)
	}
	next := c.leader()
	next.put("a", "2")
	close(quit)
	if err := <-errs; err != nil {
		t.Error(err)
	}
	lead.start()
	if got := lead.get("a"); got != "2" {
		t.Errorf("a = %q", got)
	}
	c.agree()
}

func TestMoveLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	lead, follower := c.leader(), c.follower()
	if _, err := follower.MoveLeader(follower.context(), &pb.MoveLeaderRequest{TargetID: follower.ID()}); err != api.ErrNotLeader {
		t.Errorf("at a follower: %v", err)
	}
	if _, err := lead.MoveLeader(lead.context(), &pb.MoveLeaderRequest{TargetID: 42}); err != api.ErrBadLeaderTransferee {
		t.Errorf("to nobody: %v", err)
	}
	if _, err := lead.MoveLeader(lead.context(), &pb.MoveLeaderRequest{TargetID: follower.ID()}); err != nil {
		t.Fatal(err)
	}
	if now := c.leader(); now != follower {
		t.Errorf("%s leads", now.o.Name)
	}
}

func TestLeaseThroughFollower(t *testing.T) {
	c := newCluster(t, 3, nil)
	follower := c.follower()
	grant, err := follower.LeaseGrant(follower.context(), &pb.LeaseGrantRequest{TTL: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := follower.Put(follower.context(), &pb.PutRequest{Key: []byte("a"), Lease: grant.ID}, nil); err != nil {
		t.Fatal(err)
	}
	if ttl, err := follower.LeaseRenew(follower.context(), grant.ID); err != nil || ttl != 100 {
		t.Errorf("renew: %d, %v", ttl, err)
	}
	left, err := follower.LeaseTimeToLive(follower.context(), &pb.LeaseTimeToLiveRequest{ID: grant.ID, Keys: true})
	if err != nil || left.GrantedTTL != 100 || left.TTL < 98 || len(left.Keys) != 1 || left.Header.MemberId != follower.ID() {
		t.Errorf("time to live: %v, %v", left, err)
	}
	if _, err := follower.LeaseRenew(follower.context(), 12345); err != api.ErrLeaseNotFound {
		t.Errorf("renew of no lease: %v", err)
	}
	// A new leader goes on with the whole TTL.
	lead := c.leader()
	if _, err := lead.MoveLeader(lead.context(), &pb.MoveLeaderRequest{TargetID: follower.ID()}); err != nil {
		t.Fatal(err)
	}
	if ttl, err := lead.LeaseRenew(lead.context(), grant.ID); err != nil || ttl != 100 {
		t.Errorf("renew after a change of leader: %d, %v", ttl, err)
	}
}

// join adds a member to a running cluster and starts it.
func (c *testCluster) join(name string, learner bool) (*testMember, *pb.MemberAddResponse) {
	c.t.Helper()
	lead := c.leader()
	m := c.member(name)
	var add *pb.MemberAddResponse
	c.eventually("the addition of "+name, func() bool {
		var err error
		add, err = lead.MemberAdd(lead.context(), &pb.MemberAddRequest{PeerURLs: m.o.PeerURLs, IsLearner: learner})
		if err != nil && err != api.ErrUnhealthy && err != api.ErrMemberNotEnoughStarted {
			c.t.Fatal(err)
		}
		return err == nil
	})
	m.o.InitialCluster = map[string][]string{}
	for _, x := range add.Members {
		label := x.Name
		if x.ID == add.Member.ID {
			label = name
		}
		m.o.InitialCluster[label] = x.PeerURLs
	}
	m.o.JoinExisting = true
	m.start()
	return m, add
}

func TestMembers(t *testing.T) {
	c := newCluster(t, 1, func(_ int, o *Options) { o.NoStrictReconfigCheck = true })
	first := c.members[0]
	first.put("a", "1")
	<-first.Ready()
	learner, add := c.join("learner", true)
	if learner.ID() != add.Member.ID || learner.ClusterID() != first.ClusterID() {
		t.Fatalf("the learner is %x of %x", learner.ID(), learner.ClusterID())
	}
	c.eventually("the learner's copy", func() bool { return learner.read("a", true) == "1" })
	if err := learner.Check(learner.context(), CheckNonLearner); err == nil {
		t.Error("a learner is ready")
	}
	if _, err := first.MemberAdd(first.context(), &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:9"}, IsLearner: true}); err != api.ErrTooManyLearners {
		t.Errorf("a second learner: %v", err)
	}
	if _, err := first.MemberPromote(first.context(), &pb.MemberPromoteRequest{ID: first.ID()}); err != api.ErrMemberNotLearner {
		t.Errorf("promotion of a voter: %v", err)
	}
	// Asked at the learner itself, it goes to the leader.
	c.eventually("the promotion to be allowed", func() bool {
		_, err := learner.MemberPromote(learner.context(), &pb.MemberPromoteRequest{ID: learner.ID()})
		if err != nil && err != api.ErrLearnerNotReady {
			t.Fatalf("promote: %v", err)
		}
		return err == nil
	})
	c.eventually("the promotion", func() bool { return !learner.IsLearner() })
	third, _ := c.join("third", false)
	third.put("b", "2")
	c.agree()

	if _, err := first.MemberRemove(first.context(), &pb.MemberRemoveRequest{ID: third.ID()}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-third.Done():
		if third.Err() != ErrRemoved {
			t.Errorf("the removed member ended with %v", third.Err())
		}
	case <-time.After(10 * time.Second):
		t.Error("the removed member goes on")
	}
	third.stop()
	list, err := first.MemberList(first.context(), &pb.MemberListRequest{Linearizable: true})
	if err != nil || len(list.Members) != 2 || list.Header.Revision != 0 {
		t.Errorf("members: %v, %v", list, err)
	}
	if _, err := first.MemberUpdate(first.context(), &pb.MemberUpdateRequest{ID: 77, PeerURLs: []string{"http://127.0.0.1:9"}}); err != api.ErrMemberNotFound {
		t.Errorf("update of nobody: %v", err)
	}
}

func TestStrictReconfig(t *testing.T) {
	c := newCluster(t, 1, nil)
	m := c.members[0]
	<-m.Ready()
	if _, err := m.MemberRemove(m.context(), &pb.MemberRemoveRequest{ID: m.ID()}); err != api.ErrMemberNotEnoughStarted {
		t.Errorf("removal of the only member: %v", err)
	}
	if _, err := m.MemberAdd(m.context(), &pb.MemberAddRequest{PeerURLs: m.o.PeerURLs}); err != api.ErrPeerURLExist {
		t.Errorf("addition of itself: %v", err)
	}
	if _, err := m.MemberAdd(m.context(), &pb.MemberAddRequest{PeerURLs: []string{"no url"}}); err != api.ErrMemberBadURLs {
		t.Errorf("addition of nonsense: %v", err)
	}
}

// TestSnapshotToSlowFollower has a follower miss more than the log keeps.
func TestSnapshotToSlowFollower(t *testing.T) {
	c := newCluster(t, 3, func(_ int, o *Options) { o.SnapshotCount, o.CatchUpEntries = 20, 5 })
	c.leader().put("a", "1")
	slow := c.follower()
	slow.stop()
	lead := c.leader()
	for i := range 200 {
		lead.put("a", fmt.Sprint(i))
	}
	if _, err := lead.Compact(lead.context(), &pb.CompactionRequest{Revision: 100, Physical: true}); err != nil {
		t.Fatal(err)
	}
	slow.start()
	stream := slow.WatchHub().NewStream()
	defer stream.Close()
	c.eventually("the snapshot", func() bool { return slow.read("a", true) == "199" })
	if got := slow.get("a"); got != "199" {
		t.Errorf("a = %q", got)
	}
	slow.put("b", "after")
	c.agree()
	slow.stop()
	slow.start()
	if got := slow.get("b"); got != "after" {
		t.Errorf("after a restart b = %q", got)
	}
	c.agree()
}

func TestSnapshotImage(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.put("a", "1")
	r, size, _, err := m.Snapshot(m.context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != size || size%4096 != 0 {
		t.Errorf("image of %d bytes, announced %d: %v", len(b), size, err)
	}
	if !bytes.Contains(b, []byte("a\x10")) {
		t.Error("the image does not hold the key")
	}
}

func TestDefragment(t *testing.T) {
	m := newCluster(t, 1, nil).members[0]
	m.put("a", "1")
	if _, err := m.Defragment(m.context(), &pb.DefragmentRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := m.get("a"); got != "1" {
		t.Errorf("a = %q", got)
	}
}
