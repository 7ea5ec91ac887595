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

// hashTimeout bounds one member's answer.
const hashTimeout = 7 * time.Second

// keptHashes bounds the hashes of compactions that wait for their check.
const keptHashes = 10

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
	id   uint64
	hash peer.HashKV
	err  error
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
	slices.SortFunc(out, func(a, b peerHash) int { return compareIDs(a.id, b.id) })
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

func (s *Server) peerHash(ctx context.Context, m member.Member, rev int64) peerHash {
	h := peerHash{id: m.ID, err: errors.New("no peer URL")}
	for _, u := range m.PeerURLs {
		ctx, cancel := context.WithTimeout(ctx, hashTimeout)
		h.hash, h.err = s.client.HashKV(ctx, u, s.clusterID, rev)
		cancel()
		if h.err == nil || errors.Is(h.err, api.ErrCompacted) || errors.Is(h.err, api.ErrFutureRev) {
			return h
		}
		s.log.Warn("failed to get hash kv from remote peer", s.idField("remote-peer-id", m.ID), zap.String("remote-peer-endpoint", u), zap.Error(h.err))
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
		s.log.Warn("found different hash values from remote peer", s.idField("remote-peer-id", p.id), zap.Int64("revision", mine.HashRevision))
		return fmt.Errorf("%s found data inconsistency with peers: member %s has another hash at revision %d; remove this member from the cluster and add it again with an empty data directory, after finding out which of them is right",
			formatID(s.id), formatID(p.id), mine.HashRevision)
	}
	s.log.Info("initial corruption checking passed; no corruption", s.idField("local-member-id", s.id))
	return nil
}

// checkCorruption compares, as the leader, the hashes of all members now and then.
func (s *Server) checkCorruption(ctx context.Context) {
	every(ctx, s.o.CorruptCheckTime, func() {
		if !s.isLeader() {
			return
		}
		if err := s.compareHashes(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("failed to check hash KV", zap.Error(err))
		}
	})
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

// compareHashes is one round of the periodic check (interop 5.9).
func (s *Server) compareHashes(ctx context.Context) error {
	before, err := s.hashKV(0)
	if err != nil {
		return err
	}
	peers := s.peerHashes(ctx, before.HashRevision)
	if err := s.LinearizableReadNotify(ctx); err != nil {
		return err
	}
	after, err := s.hashKV(before.HashRevision)
	if err != nil {
		return err
	}
	current, compacted := s.store.Load().mach.KV().Revision()
	if before.CompactRevision == after.CompactRevision && before.Hash != after.Hash {
		s.log.Warn("found hash mismatch", zap.Int64("revision-1", before.HashRevision), zap.Uint32("hash-1", before.Hash), zap.Uint32("hash-2", after.Hash))
		s.raiseCorrupt(ctx, s.id)
		return nil
	}
	for _, p := range peers {
		if p.err != nil {
			continue
		}
		h := p.hash
		wrong := h.Revision > current || h.CompactRevision > compacted ||
			h.CompactRevision == before.CompactRevision && h.Hash != before.Hash
		if wrong {
			s.log.Warn("found corruption in peer", s.idField("remote-peer-id", p.id), zap.Int64("revision", before.HashRevision))
			s.raiseCorrupt(ctx, p.id)
			return nil // at most one a round
		}
	}
	return nil
}

func (s *Server) raiseCorrupt(ctx context.Context, id uint64) {
	if !s.allowed(version.CorruptAlarm) {
		s.log.Error("data of members differ, and the cluster is too old for the alarm", s.idField("member-id", id))
		return
	}
	s.raiseAlarm(ctx, id, pb.AlarmType_CORRUPT)
}

// compactHashes holds the hashes that were taken when compactions had ended.
type compactHashes struct {
	mu      sync.Mutex
	kept    []mvcc.Hash // ascending by revision
	checked int64       // up to this revision all members agreed
}

func (c *compactHashes) add(h mvcc.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, h)
	if extra := len(c.kept) - keptHashes; extra > 0 {
		c.kept = append(c.kept[:0], c.kept[extra:]...)
	}
}

// unchecked returns the hashes newer than what was checked, newest first.
func (c *compactHashes) unchecked() []mvcc.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []mvcc.Hash
	for _, h := range slices.Backward(c.kept) {
		if h.HashRevision > c.checked {
			out = append(out, h)
		}
	}
	return out
}

func (c *compactHashes) agreed(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = max(c.checked, rev)
}

// checkCompactHashes compares, as the leader, the hashes of compactions.
func (s *Server) checkCompactHashes(ctx context.Context) {
	every(ctx, s.o.CompactHashCheckTime, func() {
		if !s.isLeader() {
			return
		}
		for _, h := range s.compactHashes.unchecked() {
			if s.checkCompactHash(ctx, h) {
				return
			}
		}
	})
}

// checkCompactHash compares one hash with the members' and reports whether the round is
// over: all agreed, or an alarm was raised.
func (s *Server) checkCompactHash(ctx context.Context, mine mvcc.Hash) (over bool) {
	groups := map[uint32][]uint64{mine.Hash: {s.id}}
	answered := 1
	peers := s.peerHashes(ctx, mine.HashRevision)
	for _, p := range peers {
		if p.err == nil && p.hash.CompactRevision == mine.CompactRevision {
			groups[p.hash.Hash] = append(groups[p.hash.Hash], p.id)
			answered++
		}
	}
	if len(groups) == 1 {
		if answered == len(peers)+1 {
			s.compactHashes.agreed(mine.HashRevision)
			return true
		}
		return false
	}
	s.log.Error("Detected compaction hash mismatch", zap.Int64("revision", mine.HashRevision), zap.Int64("compact-revision", mine.CompactRevision), zap.Int("hashes", len(groups)))
	quorum := (len(peers)+1)/2 + 1
	for _, ids := range groups {
		if len(ids) >= quorum {
			s.alarmOthers(ctx, groups, ids)
			return true
		}
	}
	s.raiseCorrupt(ctx, 0)
	return true
}

// alarmOthers raises the alarm for every member that is not with the majority.
func (s *Server) alarmOthers(ctx context.Context, groups map[uint32][]uint64, right []uint64) {
	var wrong []uint64
	for _, ids := range groups {
		if ids[0] != right[0] {
			wrong = append(wrong, ids...)
		}
	}
	slices.Sort(wrong)
	for _, id := range wrong {
		s.raiseCorrupt(ctx, id)
	}
}
