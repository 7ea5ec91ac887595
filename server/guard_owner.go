package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"theseus/member"
	"theseus/peer"
)

const (
	// historyTimeout bounds one question about the others' history: a restart waits for it.
	historyTimeout = 300 * time.Millisecond
	// historyPatience is how long a leader may take to commit its first entry.
	historyPatience = 2 * time.Second
)

// checkOwner refuses a directory that is another member's, or of another cluster than
// the one that the flags name. etcd starts on either: under an id that somebody else has,
// or as a stranger among the members it was pointed at. A new name or new addresses alone
// are no reason.
func (s *Server) checkOwner() error {
	all := s.members().Members()
	self, known := s.members().Member(s.id)
	if s.o.ForceNewCluster || !known || self.Name == "" || self.Name == s.o.Name && sameURLs(s.ctx, self.PeerURLs, s.o.PeerURLs) {
		return nil
	}
	const next = "nothing was changed; give this member its own directory with --data-dir"
	for _, m := range others(all, s.id) {
		if self.Name != s.o.Name && (m.Name == s.o.Name || sameURLs(s.ctx, m.PeerURLs, s.o.PeerURLs)) {
			return fmt.Errorf("data directory %s is that of member %s, named %q, while --name and --initial-advertise-peer-urls are those of member %s, named %q: %s",
				s.o.DataDir, formatID(s.id), self.Name, formatID(m.ID), m.Name, next)
		}
	}
	var local []member.Member
	for name, urls := range s.o.InitialCluster {
		local = append(local, member.Member{Name: name, PeerURLs: urls})
	}
	remote, cluster, err := s.askMembers(local, unbornTimeout)
	if err == nil && cluster != s.clusterID && len(remote) > 0 {
		return fmt.Errorf("data directory %s is that of member %s, named %q, of cluster %s, and the members of --initial-cluster are of cluster %s: %s",
			s.o.DataDir, formatID(s.id), self.Name, formatID(s.clusterID), formatID(cluster), next)
	}
	s.log.Warn("the name or the peer URLs differ from those that the cluster knows of this member",
		zap.String("name", s.o.Name), zap.String("known-name", self.Name),
		zap.String("peer-urls", strings.Join(s.o.PeerURLs, ",")), zap.String("known-peer-urls", strings.Join(self.PeerURLs, ",")))
	return nil
}

// checkHistory refuses to go among members that have begun a second history: a leader
// that a quorum follows has everything that was ever committed, so one that stays behind
// what this member knows as committed leads another history. Members of etcd do not tell.
func (s *Server) checkHistory(commit uint64) error {
	voters := votersOf(s.members().Members())
	if s.o.ForceNewCluster || len(voters) < 3 {
		return nil
	}
	for start := time.Now(); ; time.Sleep(matchPause) {
		at, leader := s.historyOf(others(voters, s.id), len(voters)/2+1)
		switch {
		case leader == 0 || at >= commit:
			return nil
		case time.Since(start) > historyPatience:
			return fmt.Errorf("the other members, led by %s, have committed up to index %d only, and this one has data up to index %d: they were founded again, or restored, without it; nothing was changed: the newest data may be here, in %s; save it, then decide which history counts, and wipe, remove and add the members of the other",
				formatID(leader), at, commit, s.o.DataDir)
		}
	}
}

// historyOf returns the leader that a quorum of these members follows, and the highest
// index that one of them has committed; 0 if there is no such leader.
func (s *Server) historyOf(all []member.Member, quorum int) (commit, leader uint64) {
	ctx, cancel := context.WithTimeout(s.ctx, historyTimeout)
	defer cancel()
	var mu sync.Mutex
	var births []peer.Birth
	var wg sync.WaitGroup
	for _, m := range all {
		for _, u := range m.PeerURLs {
			wg.Go(func() {
				b, known, err := s.client.GetBirth(ctx, u)
				if err != nil || !known || b.MemberID != m.ID || b.ClusterID != s.clusterID || b.Leader == 0 {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if !slices.ContainsFunc(births, func(x peer.Birth) bool { return x.MemberID == b.MemberID }) {
					births = append(births, b)
				}
			})
		}
	}
	wg.Wait()
	if len(births) < quorum {
		return 0, 0
	}
	there := false
	for _, b := range births {
		commit = max(commit, b.Commit)
		there = there || b.MemberID == b.Leader
		if b.Leader != births[0].Leader {
			return 0, 0
		}
	}
	if !there {
		return 0, 0
	}
	return commit, births[0].Leader
}
