package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/member"
	"theseus/mvcc"
	"theseus/peer"
	"theseus/version"
)

// Clocks of the checks.
const (
	hashTimeout = 7 * time.Second // bounds one member's answer
	// firstCheck is how long after its start a member compares itself for the first time,
	// and how often it looks again until the others could tell.
	firstCheck = 2 * time.Second
	// behindFor is how long a member that is behind the revision may take to come, looked
	// for every behindPoll.
	behindFor  = time.Second
	behindPoll = 50 * time.Millisecond
	// confirmAfter lies between the two comparisons that it takes to call a member wrong.
	confirmAfter = 100 * time.Millisecond
)

// hashKV hashes the keys up to a revision.
func (s *Server) hashKV(rev int64) (mvcc.Hash, error) {
	var h mvcc.Hash
	start := time.Now()
	err := s.holding(func(st *store) (err error) { h, err = st.mach.KV().HashKV(rev); return err })
	s.metrics.hashRevSeconds.Observe(time.Since(start).Seconds())
	return h, err
}

// peerHash is what another member says of its keys.
type peerHash struct {
	member member.Member
	hash   peer.HashKV
	err    error
}

// peerHashes asks all other members for their hash at a revision.
func (s *Server) peerHashes(ctx context.Context, rev int64) []peerHash {
	var out []peerHash
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range s.members().Members() {
		if m.ID == s.id {
			continue
		}
		wg.Go(func() {
			h := s.peerHash(ctx, m, rev)
			mu.Lock()
			out = append(out, h)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b peerHash) int { return compareIDs(a.member.ID, b.member.ID) })
	return out
}

func compareIDs(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// peerHash waits a moment for a member that is a little behind.
func (s *Server) peerHash(ctx context.Context, m member.Member, rev int64) peerHash {
	for until := time.Now().Add(behindFor); ; {
		h := s.askHash(ctx, m, rev)
		if !errors.Is(h.err, api.ErrFutureRev) || time.Now().After(until) || sleep(ctx, behindPoll) != nil {
			return h
		}
	}
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (s *Server) askHash(ctx context.Context, m member.Member, rev int64) peerHash {
	h := peerHash{member: m, err: errors.New("no peer URL")}
	for _, u := range m.PeerURLs {
		ctx, cancel := context.WithTimeout(ctx, hashTimeout)
		h.hash, h.err = s.client.HashKV(ctx, u, s.clusterID, rev)
		cancel()
		if h.err == nil || errors.Is(h.err, api.ErrCompacted) || errors.Is(h.err, api.ErrFutureRev) {
			return h
		}
		s.log.Debug("failed to get hash kv from remote peer", s.idField("remote-peer-id", m.ID), zap.String("remote-peer-endpoint", u), zap.Error(h.err))
	}
	return h
}

// initialCheck refuses to serve data that differs from what other members have.
func (s *Server) initialCheck(ctx context.Context) error {
	s.log.Info("starting initial corruption check", s.idField("local-member-id", s.id))
	mine, err := s.hashKV(0)
	if err != nil {
		return err
	}
	for _, p := range s.peerHashes(ctx, mine.HashRevision) {
		if p.err != nil || p.hash.CompactRevision != mine.CompactRevision || p.hash.Hash == mine.Hash {
			continue
		}
		s.log.Warn("found different hash values from remote peer", s.idField("remote-peer-id", p.member.ID), zap.Int64("revision", mine.HashRevision))
		return fmt.Errorf("%s found data inconsistency with peers: member %s has another hash at revision %d; remove this member from the cluster and add it again with an empty data directory, after finding out which of them is right",
			formatID(s.id), formatID(p.member.ID), mine.HashRevision)
	}
	s.log.Info("initial corruption checking passed; no corruption", s.idField("local-member-id", s.id))
	return nil
}

// A poll is one comparison of hashes at a revision. Who does not answer, is behind, or
// has compacted elsewhere is in no group: that member is unknown, not clean.
type poll struct {
	mine   mvcc.Hash
	self   uint64
	quorum int                 // of the voters
	voters map[uint64]bool     // who may judge
	groups map[uint32][]uint64 // members by hash, this one among them, sorted by id
	asked  int                 // how many members there are
	peers  []peerHash
}

// newPoll counts the answers.
func (s *Server) newPoll(mine mvcc.Hash, peers []peerHash) poll {
	p := poll{mine: mine, self: s.id, voters: map[uint64]bool{}, groups: map[uint32][]uint64{mine.Hash: {s.id}}, asked: len(peers) + 1, peers: peers}
	voters := 0
	for _, m := range s.members().Members() {
		if !m.IsLearner {
			p.voters[m.ID] = true
			voters++
		}
	}
	p.quorum = voters/2 + 1
	for _, x := range peers {
		if x.err == nil && x.hash.CompactRevision == mine.CompactRevision {
			p.groups[x.hash.Hash] = append(p.groups[x.hash.Hash], x.member.ID)
		}
	}
	for _, ids := range p.groups {
		slices.Sort(ids)
	}
	return p
}

// right returns the members of the group that a quorum of the voters is in, and its
// hash; ok is false when there is none.
func (p *poll) right() (ids []uint64, hash uint32, ok bool) {
	for h, ids := range p.groups {
		n := 0
		for _, id := range ids {
			if p.voters[id] {
				n++
			}
		}
		if n >= p.quorum {
			return ids, h, true
		}
	}
	return nil, 0, false
}

// wrong returns the members whose hash is not the quorum's.
func (p *poll) wrong(hash uint32) (ids []uint64) {
	for h, g := range p.groups {
		if h != hash {
			ids = append(ids, g...)
		}
	}
	slices.Sort(ids)
	return ids
}

// answered is how many members could be compared.
func (p *poll) answered() (n int) {
	for _, ids := range p.groups {
		n += len(ids)
	}
	return n
}

// same tells whether all who could be compared agree.
func (p *poll) same() bool { return len(p.groups) == 1 }

// compare makes a poll at this member's current revision.
func (s *Server) compare(ctx context.Context) (poll, error) {
	mine, err := s.hashKV(0)
	if err != nil {
		return poll{}, err
	}
	p := s.newPoll(mine, s.peerHashes(ctx, mine.HashRevision))
	s.metrics.checked(&p)
	return p, nil
}

// bare tells that no key exists: what a compaction at work has not removed yet is part
// of the hash then (interop 5.8), and says nothing.
func (s *Server) bare() bool {
	st, err := s.acquire()
	if err != nil {
		return true
	}
	defer st.release()
	return st.mach.KV().Len() == 0
}

// confirmed repeats a poll that found a difference, since it takes two to call anybody
// wrong. certain is false when they do not find the same.
func (s *Server) confirmed(ctx context.Context, p poll) (again poll, certain bool, err error) {
	if s.bare() {
		return p, false, nil
	}
	if err := sleep(ctx, confirmAfter); err != nil {
		return p, false, err
	}
	again, err = s.compare(ctx)
	if err != nil || again.same() {
		return again, false, err
	}
	_, first, ok := p.right()
	_, second, okAgain := again.right()
	return again, ok == okAgain && slices.Equal(p.wrong(first), again.wrong(second)), nil
}

// checkCorruption compares this member with the others now and then: every member judges
// itself, and the leader also names others. When no quorum could be compared it looks
// again sooner.
func (s *Server) checkCorruption(ctx context.Context) {
	known, next := false, firstCheck
	for {
		timer := time.NewTimer(min(next, s.o.CorruptCheckTime))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.fence.look:
			timer.Stop()
		}
		before := known
		var err error
		if known, err = s.checkRound(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("failed to check hash KV", zap.Error(err))
		}
		switch {
		case known:
			next = s.o.CorruptCheckTime
		case before:
			next = firstCheck
		default:
			next = min(2*next, time.Minute)
		}
	}
}

// checkRound is one round of the periodic check (interop 5.9). known tells whether a
// quorum could be compared.
func (s *Server) checkRound(ctx context.Context) (known bool, err error) {
	if s.fenced() != nil || s.Leader() == 0 || len(s.members().Members()) < 2 {
		return false, nil
	}
	p, err := s.compare(ctx)
	if err != nil {
		return false, err
	}
	if s.isLeader() {
		if err := s.nameAhead(ctx, &p); err != nil {
			return false, err
		}
	}
	if p.same() {
		_, _, ok := p.right()
		return ok, nil
	}
	p, certain, err := s.confirmed(ctx, p)
	if err != nil || !certain {
		return false, err
	}
	right, hash, ok := p.right()
	switch {
	case ok && hash != p.mine.Hash:
		s.fenceIn(p.mine, hash, right)
	case s.isLeader():
		s.name(ctx, &p, hash, ok)
	}
	return ok, nil
}

// nameAhead tells, as the leader, who is at a revision, or has compacted at one, that no
// committed entry explains.
func (s *Server) nameAhead(ctx context.Context, p *poll) error {
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return err
	}
	current, compacted := s.store.Load().mach.KV().Revision()
	for _, x := range p.peers {
		if x.err != nil || x.hash.Revision <= current && x.hash.CompactRevision <= compacted {
			continue
		}
		s.log.Error("revision of a peer is beyond everything that is committed", s.idField("remote-peer-id", x.member.ID),
			zap.Int64("revision", current), zap.Int64("remote-peer-revision", x.hash.Revision), zap.Int64("remote-peer-compact-revision", x.hash.CompactRevision))
		s.metrics.named.WithLabelValues(formatID(x.member.ID)).Inc()
		if s.o.CorruptAlarm {
			s.raiseCorrupt(ctx, x.member.ID)
		}
	}
	return nil
}

// name tells, as the leader, who differs. A member of ours fences itself. For one that
// runs etcd there is only the alarm, which stops the whole cluster's writes: it is
// raised if the operator asked for etcd's check. It is raised as well when no quorum
// agrees, for a member that nobody knows.
func (s *Server) name(ctx context.Context, p *poll, hash uint32, ok bool) {
	if !ok {
		s.log.Error("data of members differ, and no quorum agrees on what is right", zap.Int64("revision", p.mine.HashRevision), zap.Any("groups", p.texts()))
		if s.o.CorruptAlarm || s.allOurs(ctx, p) {
			s.raiseCorrupt(ctx, 0)
		}
		return
	}
	for _, id := range p.wrong(hash) {
		ours := s.isOurs(ctx, p, id)
		s.log.Error("found corruption in peer", s.idField("remote-peer-id", id), zap.Int64("revision", p.mine.HashRevision), zap.Bool("fences-itself", ours))
		s.metrics.named.WithLabelValues(formatID(id)).Inc()
		if !ours && s.o.CorruptAlarm {
			s.raiseCorrupt(ctx, id)
		}
	}
}

// texts shows the groups.
func (p *poll) texts() map[string][]string {
	out := map[string][]string{}
	for h, ids := range p.groups {
		key := fmt.Sprint(h)
		for _, id := range ids {
			out[key] = append(out[key], formatID(id))
		}
	}
	return out
}

// isOurs tells whether a member runs Theseus.
func (s *Server) isOurs(ctx context.Context, p *poll, id uint64) bool {
	if id == s.id {
		return true
	}
	for _, x := range p.peers {
		if x.member.ID != id {
			continue
		}
		for _, u := range x.member.PeerURLs {
			ctx, cancel := context.WithTimeout(ctx, hashTimeout)
			v, err := s.client.GetVersion(ctx, u)
			cancel()
			if err == nil {
				return v.Theseus
			}
		}
	}
	return false
}

func (s *Server) allOurs(ctx context.Context, p *poll) bool {
	for _, x := range p.peers {
		if !s.isOurs(ctx, p, x.member.ID) {
			return false
		}
	}
	return true
}

func (s *Server) raiseCorrupt(ctx context.Context, id uint64) {
	if !s.allowed(version.CorruptAlarm) {
		s.log.Error("data of members differ, and the cluster is too old for the alarm", s.idField("member-id", id))
		return
	}
	s.raiseAlarm(ctx, id, pb.AlarmType_CORRUPT)
}

// checkCompactHashes compares the hashes of compactions, which cost nothing more by then.
func (s *Server) checkCompactHashes(ctx context.Context) {
	checked := int64(-1) // up to this revision all members agreed
	every(ctx, s.o.CompactHashCheckTime, func() {
		if s.fenced() != nil {
			return
		}
		var all []mvcc.Hash
		if s.holding(func(st *store) error { all = st.mach.KV().CompactHashes(); return nil }) != nil {
			return
		}
		for _, h := range slices.Backward(all) {
			if h.HashRevision <= checked {
				return
			}
			p := s.newPoll(h, s.peerHashes(ctx, h.HashRevision))
			switch {
			case !p.same():
				s.compactionsDiffer(ctx, &p)
				return
			case p.answered() == p.asked:
				s.log.Debug("hashes of a compaction agree", zap.Int64("revision", h.HashRevision), zap.Int("members", p.asked))
				s.metrics.compactionsAgreed.Inc()
				checked = h.HashRevision
				return
			}
		}
	})
}

// compactionsDiffer has the whole store compared at once: what differed may be compacted
// away. With etcd's own check switched on, the leader also does as etcd does.
func (s *Server) compactionsDiffer(ctx context.Context, p *poll) {
	s.log.Error("Detected compaction hash mismatch", zap.Int64("revision", p.mine.HashRevision), zap.Int64("compact-revision", p.mine.CompactRevision), zap.Any("groups", p.texts()))
	kick(s.fence.look)
	if !s.isLeader() || !s.o.CompactHashCheck {
		return
	}
	_, hash, ok := p.right()
	if !ok {
		if !s.allOurs(ctx, p) {
			s.raiseCorrupt(ctx, 0)
		}
		return
	}
	for _, id := range p.wrong(hash) {
		if !s.isOurs(ctx, p, id) {
			s.raiseCorrupt(ctx, id)
		}
	}
}

// every runs fn at an interval until ctx ends.
func every(ctx context.Context, d time.Duration, fn func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			fn()
		}
	}
}
