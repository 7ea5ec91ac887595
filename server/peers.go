package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
	"theseus/member"
	"theseus/peer"
)

// appliedPatience is how long a request of another member waits for the apply of what
// was committed when it came.
const appliedPatience = time.Second

// raftPeer is the member as the transport sees it: peer.Handler.
type raftPeer struct{ s *Server }

// Process takes a message for raft.
func (p raftPeer) Process(_ context.Context, m raftpb.Message) error {
	s := p.s
	if s.members().Removed(m.From) {
		s.log.Warn("rejected Raft message from removed member", s.idField("local-member-id", s.id), s.idField("removed-member-id", m.From))
		return peer.ErrMemberRemoved
	}
	return s.node.Step(m)
}

// IsRemoved tells whether the id was removed once.
func (p raftPeer) IsRemoved(id uint64) bool { return p.s.members().Removed(id) }

// ReportUnreachable says that a message was lost.
func (p raftPeer) ReportUnreachable(id uint64) { p.s.node.ReportUnreachable(id) }

// ReportSnapshot says how a sent snapshot ended.
func (p raftPeer) ReportSnapshot(id uint64, ok bool) {
	p.s.node.ReportSnapshot(id, ok)
	if ok {
		p.s.nudge()
	}
}

// SaveSnapshotDB stores a received database.
func (p raftPeer) SaveSnapshotDB(r io.Reader, index uint64) (int64, error) {
	start := time.Now()
	n, err := p.s.snaps.SaveDB(r, index)
	p.s.metrics.snapDBSave.Observe(time.Since(start).Seconds())
	return n, err
}

// peerService is what members ask of each other besides raft: peer.Service.
type peerService struct{ s *Server }

// PeerMembers lists the members by id. A member that has applied nothing yet lists
// whom it was told of.
func (p peerService) PeerMembers() []peer.Member {
	all := p.s.members().Members()
	if len(all) == 0 {
		all = p.s.initial
	}
	out := make([]peer.Member, len(all))
	for i, m := range all {
		out[i] = peer.Member(m)
	}
	return out
}

// Versions answers /version.
func (p peerService) Versions() (server, cluster, storage string) {
	server, cluster, storage = p.s.Versions()
	if v := p.s.posing.Load(); v != nil {
		server = v.String()
	}
	return server, cluster, storage
}

// PeerHashKV answers /members/hashkv.
func (p peerService) PeerHashKV(_ context.Context, rev int64) (peer.HashKV, error) {
	h, err := p.s.hashKV(rev)
	if err != nil {
		return peer.HashKV{}, err
	}
	return peer.HashKV{Hash: h.Hash, CompactRevision: h.CompactRevision, HashRevision: h.HashRevision, Revision: h.Revision}, nil
}

// WaitApplied returns when what is committed now is applied.
func (p peerService) WaitApplied(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, appliedPatience)
	defer cancel()
	if err := p.s.waitApplied(ctx, p.s.node.Commit()); err != nil {
		return api.ErrTimeout
	}
	return nil
}

// PrimaryRenew renews a lease for a follower.
func (p peerService) PrimaryRenew(ctx context.Context, id int64) (int64, error) {
	return p.s.renewHere(ctx, id)
}

// PrimaryTimeToLive tells a follower what is left of a lease.
func (p peerService) PrimaryTimeToLive(ctx context.Context, id int64, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	return p.s.timeToLiveHere(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
}

// PeerPromote promotes a learner for a follower, in the name of its client.
func (p peerService) PeerPromote(ctx context.Context, id uint64, token string) ([]peer.Member, error) {
	token = strings.TrimPrefix(token, "Bearer ")
	if err := p.s.promoteHere(WithCredentials(ctx, Credentials{Token: token}), id); err != nil {
		return nil, err
	}
	return p.PeerMembers(), nil
}

// DowngradeEnabled tells whether a downgrade is under way.
func (p peerService) DowngradeEnabled(ctx context.Context) (bool, error) {
	if err := p.s.LinearizableReadNotify(ctx); err != nil {
		return false, err
	}
	return p.s.members().Downgrade().Enabled, nil
}

// PeerListener gives the connections of a peer address the deadlines that etcd's
// have: five seconds for each read or write.
func PeerListener(l net.Listener) net.Listener { return peer.Listener(l) }

// PeerHandler answers on the peer addresses: raft's streams and posts, snapshots,
// /members, /version, leases, hashes, promotion.
func (s *Server) PeerHandler() http.Handler {
	raft := s.transport.Handler()
	service := peer.ServiceHandler(s.clusterID, peerService{s}, s.log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/raft" || strings.HasPrefix(r.URL.Path, "/raft/") {
			raft.ServeHTTP(w, r)
			return
		}
		if r.URL.Path == peer.PathBirth {
			peer.ServeBirth(w, r, s.birthAnswer())
			return
		}
		if r.URL.Path == peer.PathDatabase {
			peer.ServeDatabase(w, r, s.clusterID, peerService{s})
			return
		}
		service.ServeHTTP(w, r)
	})
}

// sameConfState compares two configurations of which neither is joint.
func sameConfState(a, b raftpb.ConfState) bool {
	same := func(x, y []uint64) bool {
		return slices.Equal(slices.Sorted(slices.Values(x)), slices.Sorted(slices.Values(y)))
	}
	return same(a.Voters, b.Voters) && same(a.Learners, b.Learners)
}

// confStateOf is the configuration that a set of members is.
func confStateOf(all []member.Member) raftpb.ConfState {
	var cs raftpb.ConfState
	for _, m := range all {
		if m.IsLearner {
			cs.Learners = append(cs.Learners, m.ID)
		} else {
			cs.Voters = append(cs.Voters, m.ID)
		}
	}
	return cs
}
