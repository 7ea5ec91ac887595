package server

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/member"
	"theseus/peer"
	"theseus/version"
)

// Rules of membership changes (surface 4.5, interop 6.6).
const (
	// healthInterval is how long a connection must have stood to count.
	healthInterval = 5 * time.Second
	// reportTimeout bounds how long members may take to say how they are.
	reportTimeout = time.Second
	// promoteMatch is the share of the leader's log that a learner must have.
	promoteMatch = 0.9
	// changeRetry is when a change that raft has dropped (another was not applied at
	// the leader yet) is proposed again. A second entry of the same change is
	// refused at apply, so that it does no harm.
	changeRetry = 500 * time.Millisecond
)

// MemberAdd adds a voter or a learner.
func (s *Server) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	urls, err := peerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	m := member.Member{ID: member.MemberID(urls, "", time.Now().Unix()), PeerURLs: urls, IsLearner: r.IsLearner}
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: m.ID, Context: member.Context(m, false)}
	if m.IsLearner {
		cc.Type = raftpb.ConfChangeAddLearnerNode
	}
	if err := s.mayAdd(m, cc); err != nil {
		return nil, err
	}
	if !m.IsLearner {
		if voters := votersOf(s.members().Members()); len(voters) > 1 {
			if err := s.keepsQuorum(ctx, voters, len(voters)+1); err != nil {
				return nil, err
			}
		}
	}
	if err := s.configure(ctx, cc); err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{Header: s.plainHeader(), Member: wireMember(m), Members: s.wireMembers()}, nil
}

// mayAdd refuses an addition that could cost the cluster its quorum, or that some
// member would not understand.
func (s *Server) mayAdd(m member.Member, cc raftpb.ConfChange) error {
	members := s.members()
	if m.IsLearner {
		learners := 0
		for _, x := range members.Members() {
			if x.IsLearner {
				learners++
			}
		}
		switch {
		case !s.allowed(version.Learner):
			return api.ErrNotCapable
		case learners >= s.maxLearners():
			return api.ErrTooManyLearners
		}
	}
	if err := members.Validate(cc, s.maxLearners()); err != nil {
		return err
	}
	if s.o.NoStrictReconfigCheck {
		return nil
	}
	voters := votersOf(members.Members())
	if !m.IsLearner && !quorumAfter(voters, m.ID, 1) {
		s.log.Warn("rejecting member add request; not enough healthy members", s.idField("requested-member-add", m.ID))
		return api.ErrMemberNotEnoughStarted
	}
	if !s.allConnectedSince(voters, time.Now().Add(-healthInterval)) {
		s.log.Warn("rejecting member add request; local member has not been connected to all peers, reconfigure breaks active quorum",
			s.idField("requested-member-add", m.ID))
		return api.ErrUnhealthy
	}
	return nil
}

// maxLearners is what every member agrees on: before 3.6 it is one, whatever the flag.
func (s *Server) maxLearners() int {
	if !s.allowed(version.ManyLearners) {
		return min(1, s.o.MaxLearners)
	}
	return s.o.MaxLearners
}

// quorumAfter reports whether enough voters have started to form a quorum once the
// member id was added (+1) or removed (-1). One started member may grow to two.
func quorumAfter(voters []member.Member, id uint64, delta int) bool {
	total, started := 0, 0
	for _, v := range voters {
		if v.ID == id {
			continue
		}
		total++
		if v.Name != "" {
			started++
		}
	}
	if delta > 0 {
		total++
		if started == 1 && total == 2 {
			return true
		}
	}
	return total > 0 && started >= total/2+1
}

// MemberRemove removes a member; removing this one stops it a second later.
func (s *Server) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: r.ID}
	if err := s.mayRemove(cc); err != nil {
		return nil, err
	}
	if m, ok := s.members().Member(r.ID); ok && !m.IsLearner {
		voters := others(votersOf(s.members().Members()), r.ID)
		if err := s.keepsQuorum(ctx, voters, len(voters)); err != nil {
			return nil, err
		}
	}
	if err := s.configure(ctx, cc); err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: s.plainHeader(), Members: s.wireMembers()}, nil
}

// mayRemove refuses a removal that could cost the cluster its quorum. Learners and
// members that are down may always go.
func (s *Server) mayRemove(cc raftpb.ConfChange) error {
	members := s.members()
	if err := members.Validate(cc, s.maxLearners()); err != nil {
		return err
	}
	m, ok := members.Member(cc.NodeID)
	if s.o.NoStrictReconfigCheck || !ok || m.IsLearner {
		return nil
	}
	voters := votersOf(members.Members())
	if !quorumAfter(voters, m.ID, -1) {
		s.log.Warn("rejecting member remove request; not enough healthy members", s.idField("requested-member-remove-id", m.ID))
		return api.ErrMemberNotEnoughStarted
	}
	if m.ID != s.id && s.transport.ActiveSince(m.ID).IsZero() {
		return nil
	}
	if active := s.connectedCount(voters, time.Now().Add(-healthInterval)); active-1 < 1+(len(voters)-1)/2 {
		s.log.Warn("rejecting member remove request; local member has not been connected to all peers, reconfigure breaks active quorum",
			s.idField("requested-member-remove", m.ID))
		return api.ErrUnhealthy
	}
	return nil
}

// keepsQuorum refuses a change after which the given voters, of so many in all, would not
// be a quorum by their own word: a connection can stand for seconds to a member that is
// stuck. Members of etcd are not asked; what counts of them is the connection.
func (s *Server) keepsQuorum(ctx context.Context, voters []member.Member, total int) error {
	if s.o.NoStrictReconfigCheck {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	var well atomic.Int64
	var wg sync.WaitGroup
	for _, m := range voters {
		wg.Go(func() {
			if s.reportsWell(ctx, m) {
				well.Add(1)
			}
		})
	}
	wg.Wait()
	if need := total/2 + 1; int(well.Load()) < need {
		s.log.Warn("rejecting member reconfiguration; not enough members say that they follow the leader",
			zap.Int64("members-following", well.Load()), zap.Int("needed", need))
		return api.ErrUnhealthy
	}
	return nil
}

// reportsWell asks a member until it says that it follows the leader that this one does:
// right after an election the two may not have heard of it at the same time.
func (s *Server) reportsWell(ctx context.Context, m member.Member) bool {
	if m.ID == s.id {
		return true
	}
	for ctx.Err() == nil {
		for _, u := range m.PeerURLs {
			b, known, err := s.client.GetBirth(ctx, u)
			switch {
			case err != nil:
			case !known:
				return !s.transport.ActiveSince(m.ID).IsZero()
			case b.State == peer.BirthBorn && b.MemberID == m.ID && b.ClusterID == s.clusterID && b.Leader != 0 && b.Leader == s.Leader():
				return true
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(matchPause):
		}
	}
	return false
}

// MemberUpdate replaces a member's peer URLs.
func (s *Server) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := s.asAdmin(ctx); err != nil {
		return nil, err
	}
	if _, known := s.members().Member(r.ID); !known {
		return nil, api.ErrMemberNotFound
	}
	urls, err := peerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	m := member.Member{ID: r.ID, PeerURLs: urls}
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeUpdateNode, NodeID: m.ID, Context: member.Context(m, false)}
	if err := s.members().Validate(cc, s.maxLearners()); err != nil {
		return nil, err
	}
	if err := s.configure(ctx, cc); err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: s.plainHeader(), Members: s.wireMembers()}, nil
}

// MemberPromote makes a learner that has caught up a voter; a follower asks the leader.
func (s *Server) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	err := error(errSelfLeads)
	for err == errSelfLeads {
		if err = s.promoteHere(ctx, r.ID); err == api.ErrNotLeader {
			err = s.forwardPromote(ctx, r.ID)
		}
	}
	if err != nil {
		s.metrics.promoteFailures.WithLabelValues(err.Error()).Inc()
		return nil, err
	}
	s.metrics.promoteSuccess.Inc()
	return &pb.MemberPromoteResponse{Header: s.plainHeader(), Members: s.wireMembers()}, nil
}

// promoteHere is MemberPromote at the leader; elsewhere it is api.ErrNotLeader.
func (s *Server) promoteHere(ctx context.Context, id uint64) error {
	if err := s.asAdmin(ctx); err != nil {
		return err
	}
	if !s.isLeader() {
		return api.ErrNotLeader
	}
	m, ok := s.members().Member(id)
	switch {
	case !ok:
		return api.ErrMemberNotFound
	case !m.IsLearner:
		return api.ErrMemberNotLearner
	case !s.learnerReady(ctx, id):
		return api.ErrLearnerNotReady
	}
	if !s.o.NoStrictReconfigCheck {
		voters := append(votersOf(s.members().Members()), m) // the learner counts as started
		voters[len(voters)-1].Name = "learner"
		if !quorumAfter(voters, 0, 0) {
			s.log.Warn("rejecting member promote request; not enough healthy members", s.idField("requested-member-remove-id", id))
			return api.ErrMemberNotEnoughStarted
		}
	}
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: id, Context: member.Context(member.Member{ID: id}, true)}
	return s.configure(ctx, cc)
}

// learnerReady reports whether the learner has nearly all of the leader's log.
func (s *Server) learnerReady(ctx context.Context, id uint64) bool {
	at, err := s.node.Progress(ctx)
	if err != nil {
		return false
	}
	leader, learner := at.Progress[s.id].Match, at.Progress[id].Match
	return float64(learner) >= float64(leader)*promoteMatch && learner > 0
}

// forwardPromote asks the leader to promote, until it answers or ctx ends.
func (s *Server) forwardPromote(ctx context.Context, id uint64) error {
	return s.forward(ctx, func(ctx context.Context, u string) error {
		_, err := s.client.Promote(ctx, u, id, credentials(ctx).Token)
		return err
	}, func(err error) bool {
		return err == api.ErrLearnerNotReady || err == api.ErrMemberNotLearner || err == api.ErrMemberNotFound
	})
}

// MemberList lists the members, after a read-index round if r.Linearizable.
func (s *Server) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := s.LinearizableReadNotify(ctx); err != nil {
			return nil, err
		}
	}
	if _, err := s.asUser(ctx); err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: s.plainHeader(), Members: s.wireMembers()}, nil
}

// configure proposes a conf change and waits until it is applied here.
func (s *Server) configure(ctx context.Context, cc raftpb.ConfChange) error {
	if err := s.admit(); err != nil {
		return err
	}
	cc.ID = s.ids.next()
	start := time.Now()
	c := newCall()
	s.pending.add(cc.ID, waiting{w: c, since: start})
	for {
		if err := s.node.ProposeConfChange(cc); err != nil {
			s.fail(cc.ID, err)
		}
		round, cancel := context.WithTimeout(ctx, changeRetry)
		o, ok := c.wait(round)
		cancel()
		switch {
		case ok:
			s.log.Info("applied a configuration change through raft", s.idField("local-member-id", s.id), s.idField("raft-conf-change-node-id", cc.NodeID))
			return o.Err
		case ctx.Err() != nil:
			s.pending.take(cc.ID)
			return s.contextError(ctx, start)
		}
	}
}

// peerURLs checks and sorts the URLs of a member.
func peerURLs(urls []string) ([]string, error) {
	out := slices.Clone(urls)
	for _, u := range out {
		x, err := url.Parse(u)
		if err != nil || x.Host == "" || x.Path != "" || !slices.Contains([]string{"http", "https", "unix", "unixs"}, x.Scheme) {
			return nil, api.ErrMemberBadURLs
		}
		if x.Scheme == "http" || x.Scheme == "https" {
			if _, err := strconv.ParseUint(x.Port(), 10, 16); err != nil {
				return nil, api.ErrMemberBadURLs
			}
		}
	}
	if len(out) == 0 {
		return nil, api.ErrMemberBadURLs
	}
	slices.Sort(out)
	return out, nil
}

func votersOf(all []member.Member) []member.Member {
	var out []member.Member
	for _, m := range all {
		if !m.IsLearner {
			out = append(out, m)
		}
	}
	return out
}

func wireMember(m member.Member) *pb.Member {
	return &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner}
}

func (s *Server) wireMembers() []*pb.Member {
	all := s.members().Members()
	out := make([]*pb.Member, len(all))
	for i, m := range all {
		out[i] = wireMember(m)
	}
	return out
}

// connectedSince reports whether the connection to a peer has stood since t.
func (s *Server) connectedSince(id uint64, t time.Time) bool {
	since := s.transport.ActiveSince(id)
	return !since.IsZero() && since.Before(t)
}

// connectedCount counts the members, this one included, connected since t.
func (s *Server) connectedCount(members []member.Member, t time.Time) int {
	n := 0
	for _, m := range members {
		if m.ID == s.id || s.connectedSince(m.ID, t) {
			n++
		}
	}
	return n
}

func (s *Server) allConnectedSince(members []member.Member, t time.Time) bool {
	return s.connectedCount(members, t) == len(members)
}

// quorumSince reports whether this member has been connected to a quorum since t.
func (s *Server) quorumSince(t time.Time) bool {
	voters := votersOf(s.members().Members())
	return s.connectedCount(voters, t) >= len(voters)/2+1
}
