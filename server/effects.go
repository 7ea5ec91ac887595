package server

import (
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"

	"theseus/machine"
	"theseus/member"
	"theseus/mvcc"
	"theseus/version"
)

// removedStopDelay lets the others hear that the removal of this member is committed.
const removedStopDelay = time.Second

// effect does what an entry asks of the shell around the machine. It runs on the
// apply goroutine and does not wait.
func (s *Server) effect(e machine.Effect) {
	switch e := e.(type) {
	case machine.MemberChanged:
		s.memberChanged(e.Change)
	case machine.SelfRemoved:
		s.log.Warn("this member is removed from the cluster", s.idField("local-member-id", s.id))
		time.AfterFunc(removedStopDelay, func() { s.end(ErrRemoved) })
	case machine.VersionChanged:
		s.versionChanged(e.From, e.To)
	case machine.TermStarted:
		s.termStarted(e.Term)
	case machine.AlarmChanged:
		s.alarmChanged(e.Alarm, e.Active)
	case machine.NoSpace:
		s.raiseNoSpace()
	case machine.CompactionScheduled:
		s.compaction.kick()
	case machine.TokenAssigned:
		s.tokens.simple.Assign(e.Token, e.User, time.Now())
	case machine.TokensDropped:
		if e.User == "" {
			s.tokens.simple.DropAll()
		} else {
			s.tokens.simple.Drop(e.User)
		}
	case machine.LeaseGranted:
		s.lessor.granted(e.Lease.ID, e.Lease.TTL)
		s.metrics.leaseGranted.Inc()
		s.metrics.leaseTTL.Observe(float64(e.Lease.TTL))
	case machine.LeaseRevoked:
		s.lessor.revoked(e.ID)
		s.metrics.leaseRevoked.Inc()
	case machine.LeaseCheckpointed:
		s.lessor.checkpointed(e.ID, e.Remaining)
	case machine.DowngradeChanged:
		s.downgradeChanged(e.Downgrade)
	}
}

// termStarted makes the leader's clock count, and has the version looked at.
func (s *Server) termStarted(term uint64) {
	s.forsake(term, time.Now())
	s.leadMu.Lock()
	defer s.leadMu.Unlock()
	if s.lead.lead.Load() != s.id || s.lead.term.Load() != term {
		return
	}
	var all []leaseInfo
	for _, l := range s.store.Load().mach.Leases().List() {
		all = append(all, leaseInfo{id: l.ID, ttl: l.TTL, remaining: l.Remaining})
	}
	s.lessor.promote(s.o.electionTimeout(), all)
	s.versions.kick()
}

// leaderIs is told by raft who leads now.
func (s *Server) leaderIs(lead, term uint64) {
	s.leadMu.Lock()
	changed := s.lead.set(lead, term, time.Now())
	if lead != s.id {
		s.lessor.demote()
	}
	s.leadMu.Unlock()
	if !changed {
		return
	}
	if lead != 0 {
		s.metrics.leaderChanges.Inc()
		s.reads.leaderChanged()
	}
}

func (s *Server) memberChanged(c member.Change) {
	m := c.Member
	fields := []zap.Field{s.idField("cluster-id", s.clusterID), s.idField("local-member-id", s.id)}
	switch c.Kind {
	case member.Added:
		s.log.Info("added member", append(fields, s.idField("added-peer-id", m.ID), zap.Strings("added-peer-peer-urls", m.PeerURLs), zap.Bool("added-peer-is-learner", m.IsLearner))...)
		if m.ID != s.id {
			s.transport.AddPeer(m.ID, m.PeerURLs)
		}
	case member.Removed:
		s.log.Info("removed member", append(fields, s.idField("removed-remote-peer-id", m.ID), zap.Strings("removed-remote-peer-urls", m.PeerURLs))...)
		if m.ID != s.id {
			s.transport.RemovePeer(m.ID)
		}
	case member.Updated:
		s.log.Info("updated member", append(fields, s.idField("updated-remote-peer-id", m.ID), zap.Strings("updated-remote-peer-urls", m.PeerURLs))...)
		if m.ID != s.id {
			s.transport.UpdatePeer(m.ID, m.PeerURLs)
		}
	case member.Promoted:
		s.log.Info("promote member", append(fields, s.idField("promoted-member-id", m.ID))...)
	}
}

func (s *Server) alarmChanged(a *pb.AlarmMember, active bool) {
	id := formatID(a.MemberID)
	if active {
		s.log.Warn("alarm raised", zap.String("alarm", a.Alarm.String()), zap.String("from", id))
		s.metrics.alarms.WithLabelValues(id, a.Alarm.String()).Set(1)
		return
	}
	s.log.Warn("alarm disarmed", zap.String("alarm", a.Alarm.String()), zap.String("from", id))
	s.metrics.alarms.WithLabelValues(id, a.Alarm.String()).Set(0)
}

func (s *Server) versionChanged(from, to version.Version) {
	if from.IsZero() {
		s.log.Info("set initial cluster version", zap.String("cluster-version", to.MinorString()))
	} else {
		s.log.Info("updated cluster version", zap.String("from", from.MinorString()), zap.String("to", to.MinorString()))
		s.metrics.clusterVersion.DeleteLabelValues(from.MinorString())
	}
	s.metrics.clusterVersion.WithLabelValues(to.MinorString()).Set(1)
	s.log.Info("enabled capabilities for version", zap.String("cluster-version", to.MinorString()))
	s.versions.kickStorage()
}

func (s *Server) downgradeChanged(d member.Downgrade) {
	if d.Enabled {
		s.log.Warn("The server is ready to downgrade when the cluster version is lowered", zap.String("target-version", d.Target))
		s.versions.kick()
	}
}

// count adds to the metrics what happened to keys.
func (m *metrics) count(events []mvcc.Event) {
	puts, deletes, size := 0, 0, 0
	for i := range events {
		if events[i].Delete {
			deletes++
		} else {
			puts++
			size += len(events[i].Raw)
		}
	}
	m.putBytes.Add(float64(size))
	m.puts.Add(float64(puts))
	m.deletes.Add(float64(deletes))
}

// observeApply measures one applied entry and says when it took long.
func (s *Server) observeApply(e *raftpb.Entry, res *machine.Result, took time.Duration) {
	if res.ID != 0 && e.Type == raftpb.EntryNormal {
		field := bodyField(e.Data)
		s.metrics.applied(field, res.Err == nil, took)
		if field == fieldTxn {
			s.metrics.txns.Inc()
		}
	}
	if took > s.o.WarnApply {
		s.metrics.slowApplies.Inc()
		s.log.Warn("apply request took too long", zap.Duration("took", took), zap.Duration("expected-duration", s.o.WarnApply),
			zap.String("request", opName(bodyField(e.Data))), zap.Int("request-bytes", len(e.Data)), zap.Error(res.Err))
	}
}

// requestID is the id that the proposer of an entry waits by, 0 when there is none.
func requestID(e *raftpb.Entry) uint64 {
	if e.Type == raftpb.EntryConfChange {
		var cc raftpb.ConfChange
		if cc.Unmarshal(e.Data) != nil {
			return 0
		}
		return cc.ID
	}
	if len(e.Data) == 0 {
		return 0
	}
	return headerID(e.Data)
}

// fieldHeader is InternalRaftRequest.header.
const fieldHeader = 100

// headerID looks through the top level of an InternalRaftRequest for the id in its
// header, without decoding the rest. A legacy request has its id in field 1.
func headerID(b []byte) uint64 {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		b = b[n:]
		switch {
		case field == fieldHeader && kind == protowire.BytesType:
			header, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return 0
			}
			return headerID(header)
		case field == 1 && kind == protowire.VarintType:
			if id, n := protowire.ConsumeVarint(b); n > 0 && id != 0 {
				return id
			}
		}
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return 0
		}
		b = b[n:]
	}
	return 0
}

// bodyField is the first field of an InternalRaftRequest, which says what it asks.
func bodyField(b []byte) int {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0
		}
		if field > 1 && field != fieldHeader {
			return int(field)
		}
		m := protowire.ConsumeFieldValue(field, kind, b[n:])
		if m < 0 {
			return 0
		}
		b = b[n+m:]
	}
	return 0
}

// formatID is how ids are shown: lower-case hex without padding.
func formatID(id uint64) string { return strconv.FormatUint(id, 16) }

func (s *asker) idField(key string, id uint64) zap.Field { return zap.String(key, formatID(id)) }
