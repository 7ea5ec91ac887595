package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/member"
	"theseus/version"
)

// ID is this member's id, fixed after New.
func (s *Server) ID() uint64 { return s.id }

// ClusterID is the cluster's id, fixed after New.
func (s *Server) ClusterID() uint64 { return s.clusterID }

// Header makes the header of an answer at the given revision; 0 means the current one.
func (s *Server) Header(rev int64) *pb.ResponseHeader {
	h := &pb.ResponseHeader{Revision: rev}
	s.FillHeader(h)
	return h
}

// FillHeader completes h: ids, term, and the current revision where it holds none.
func (s *Server) FillHeader(h *pb.ResponseHeader) {
	h.ClusterId, h.MemberId, h.RaftTerm = s.clusterID, s.id, s.lead.term.Load()
	if h.Revision == 0 {
		h.Revision = s.Revision()
	}
}

// plainHeader is the header of the Cluster service, which carries no revision.
func (s *Server) plainHeader() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: s.clusterID, MemberId: s.id, RaftTerm: s.lead.term.Load()}
}

// Leader is the id of the leader that this member follows, 0 when it knows none.
func (s *Server) Leader() uint64 { return s.lead.lead.Load() }

func (s *Server) isLeader() bool { return s.Leader() == s.id }

// LeaderLost returns a channel that is closed once the member has had no leader for
// three election timeouts: streams that require a leader end then.
func (s *Server) LeaderLost() <-chan struct{} { return s.lead.lostChan() }

// IsLearner reports whether this member has no vote.
func (s *Server) IsLearner() bool {
	if m, ok := s.members().Member(s.id); ok {
		return m.IsLearner
	}
	i := slices.IndexFunc(s.initial, func(m member.Member) bool { return m.ID == s.id })
	return i >= 0 && s.initial[i].IsLearner
}

// Revision is the current revision of the keys.
func (s *Server) Revision() int64 {
	rev, _ := s.store.Load().mach.KV().Revision()
	return rev
}

// members is the membership as of the entries applied.
func (s *Server) members() *member.Cluster { return s.store.Load().mach.Members() }

// MaxRequestBytes bounds a request.
func (s *Server) MaxRequestBytes() int { return int(s.o.MaxRequestBytes) }

// MaxTxnOps bounds the operations of a transaction.
func (s *Server) MaxTxnOps() int { return int(s.o.MaxTxnOps) }

// Versions are what /version answers: the server's own, the cluster's (or
// "not_decided") and the storage's ("unknown", or "" below 3.6, where it is left out).
func (s *Server) Versions() (server, cluster, storage string) {
	server, cluster = s.version.String(), "not_decided"
	if cv, ok := s.members().Version(); ok {
		cluster = cv.String()
	}
	if s.version.Less(version.V3_6) {
		return server, cluster, ""
	}
	storage = "unknown"
	if v, ok := s.store.Load().mach.StorageVersion(); ok {
		storage = v.String()
	} else if s.readied.Load() {
		storage = cluster // of 3.4: it is told as soon as etcd of that version can take over
	}
	return server, cluster, storage
}

// waitRead is a reader that a goroutine waits for.
type waitRead struct{ ch chan error }

func (w *waitRead) ready(err error) { w.ch <- err }

// LinearizableReadNotify waits until a read of local state is linearizable.
func (s *Server) LinearizableReadNotify(ctx context.Context) error {
	if s.stopping.Load() {
		return api.ErrStopped
	}
	w := &waitRead{ch: make(chan error, 1)}
	s.reads.add(w)
	select {
	case err := <-w.ch:
		return err
	case <-ctx.Done():
		return s.contextError(ctx, time.Now())
	}
}

// Checks of /livez and /readyz by name; nil is healthy.
const (
	CheckSerializableRead = "serializable_read"
	CheckLinearizableRead = "linearizable_read"
	CheckDataCorruption   = "data_corruption"
	CheckNonLearner       = "non_learner"
)

// Check runs one check.
func (s *Server) Check(ctx context.Context, name string) error {
	switch name {
	case CheckSerializableRead:
		return s.probe(ctx, true)
	case CheckLinearizableRead:
		return s.probe(ctx, false)
	case CheckDataCorruption:
		if why := s.fenced(); why != nil {
			return errors.New(why.String())
		}
		for _, a := range s.Alarms() {
			if a.Alarm == pb.AlarmType_CORRUPT {
				return errors.New("alarm activated: CORRUPT")
			}
		}
		return nil
	case CheckNonLearner:
		if s.IsLearner() {
			return errors.New("not supported for learner")
		}
		return nil
	}
	return errors.New("unknown check " + name)
}

// probe reads one key with the rights of root.
func (s *Server) probe(ctx context.Context, serializable bool) error {
	if !serializable {
		if err := s.LinearizableReadNotify(ctx); err != nil {
			return err
		}
	}
	_, err := s.read(&pb.RangeRequest{Key: []byte("a"), Limit: 1, KeysOnly: true})
	return err
}

// Health is what /health answers: "" when healthy, else the reason ("ALARM
// NOSPACE", "RAFT NO LEADER", "RANGE ERROR:..."). exclude names alarms to ignore.
func (s *Server) Health(ctx context.Context, exclude []string, serializable bool) (reason string) {
	if why := s.fenced(); why != nil {
		return "FENCED: " + why.String()
	}
	for _, a := range s.Alarms() {
		if slices.ContainsFunc(exclude, func(x string) bool { return strings.EqualFold(x, a.Alarm.String()) }) {
			continue
		}
		switch a.Alarm {
		case pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT:
			return "ALARM " + a.Alarm.String()
		default:
			return "ALARM UNKNOWN"
		}
	}
	if !serializable && s.Leader() == 0 {
		return "RAFT NO LEADER"
	}
	if err := s.probe(ctx, serializable); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}
