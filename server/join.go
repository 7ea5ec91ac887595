package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"theseus/member"
	"theseus/peer"
	"theseus/version"
)

// Timeouts of questions before a start (interop 8.12).
const (
	membersTimeout = 10 * time.Second
	// unbornTimeout bounds the question whether the cluster lives already. Members that
	// are born together may have bound their addresses and not serve yet.
	unbornTimeout  = time.Second
	resolveTimeout = 30 * time.Second
	// matchPatience is how long members may answer with another membership than ours.
	matchPatience = 2 * time.Second
	matchPause    = 50 * time.Millisecond
)

// initialMembers checks the flags about the initial cluster and returns its members by
// name, with sorted URLs and without ids.
func (s *asker) initialMembers() ([]member.Member, error) {
	var all []member.Member
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.o.InitialCluster)) {
		urls := slices.Sorted(slices.Values(s.o.InitialCluster[name]))
		for _, u := range urls {
			if _, taken := owner[u]; taken {
				return nil, fmt.Errorf("initial cluster %s has duplicate url: give every member URLs of its own in --initial-cluster", clusterText(s.o.InitialCluster))
			}
			owner[u] = name
		}
		all = append(all, member.Member{Name: name, PeerURLs: urls})
	}
	own, ok := s.o.InitialCluster[s.o.Name]
	if !ok {
		return nil, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", s.o.Name)
	}
	return all, s.checkAdvertised(slices.Sorted(slices.Values(own)))
}

// checkAdvertised demands that this member's URLs are the same in both flags.
func (s *asker) checkAdvertised(initial []string) error {
	if sameURLs(s.ctx, initial, s.o.PeerURLs) {
		return nil
	}
	for _, u := range initial {
		if !slices.Contains(s.o.PeerURLs, u) {
			return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s", s.o.Name+"="+u, strings.Join(s.o.PeerURLs, ","))
		}
	}
	return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s", strings.Join(s.o.PeerURLs, ","), clusterText(s.o.InitialCluster))
}

func clusterText(m map[string][]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		for _, u := range slices.Sorted(slices.Values(m[name])) {
			parts = append(parts, name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}

// sameURLs compares two sets of URLs, by their addresses if not by their names.
func sameURLs(ctx context.Context, a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	if slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	return slices.Equal(resolved(ctx, a), resolved(ctx, b))
}

func resolved(ctx context.Context, urls []string) []string {
	out := make([]string, len(urls))
	for i, text := range urls {
		out[i] = text
		u, err := url.Parse(text)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
			continue
		}
		if ips, err := net.DefaultResolver.LookupHost(ctx, u.Hostname()); err == nil && len(ips) > 0 {
			slices.Sort(ips)
			u.Host = net.JoinHostPort(ips[0], u.Port())
			out[i] = u.String()
		}
	}
	slices.Sort(out)
	return out
}

// asker asks other members before this one is anything.
type asker struct {
	o      Options
	log    *zap.Logger
	client *peer.Client
	ctx    context.Context // of everything that runs but raft
	// version is what this member speaks: ours, or the one that is emulated.
	version version.Version
}

// askMembers asks all other members at once for the membership; the first answer counts.
func (s *asker) askMembers(all []member.Member, timeout time.Duration) ([]member.Member, uint64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	type reply struct {
		members []member.Member
		cluster uint64
		err     error
	}
	var urls []string
	for _, m := range all {
		if m.Name != s.o.Name {
			urls = append(urls, m.PeerURLs...)
		}
	}
	replies := make(chan reply, len(urls))
	var wg sync.WaitGroup
	for _, u := range urls {
		wg.Go(func() {
			ms, cluster, err := s.client.GetMembers(ctx, u)
			r := reply{cluster: cluster, err: err}
			for _, m := range ms {
				r.members = append(r.members, member.Member(m))
			}
			replies <- r
		})
	}
	defer wg.Wait()
	defer cancel()
	err := errors.New("there is no other member to ask")
	for range urls {
		r := <-replies
		if r.err == nil && len(r.members) > 0 {
			return r.members, r.cluster, nil
		}
		err = r.err
	}
	return nil, 0, err
}

// join starts a member that was added to a living cluster: its id comes from there,
// its data too.
func (s *Server) join() (birth, error) {
	local, err := s.initialMembers()
	if err != nil {
		return birth{}, err
	}
	found, err := s.findCluster(local, 0)
	if err != nil {
		return birth{}, err
	}
	return s.joinAs(found)
}

// joinAs starts this member as one of a living cluster.
func (s *Server) joinAs(in membership) (birth, error) {
	if err := s.checkCompatible(others(in.members, in.self)); err != nil {
		return birth{}, err
	}
	s.id, s.clusterID, s.joining, s.initial = in.self, in.cluster, true, in.members
	if err := s.create(); err != nil {
		return birth{}, err
	}
	s.log.Info("starting local member", s.idField("local-member-id", s.id), s.idField("cluster-id", s.clusterID))
	return birth{remotes: others(in.members, s.id)}, nil
}

// membership is a living cluster as its members tell it, with this member in it.
type membership struct {
	cluster uint64
	self    uint64
	members []member.Member
}

// findCluster asks the members for the membership until it is the one that this member
// was told of, and has it under the id want (0: any): whoever answers first may not have
// applied its addition yet.
func (s *asker) findCluster(local []member.Member, want uint64) (membership, error) {
	for start := time.Now(); ; time.Sleep(matchPause) {
		remote, cluster, err := s.askMembers(local, membersTimeout)
		if err != nil {
			return membership{}, fmt.Errorf("cannot fetch cluster info from peer urls: %w: check that the other members of --initial-cluster run and can be reached", err)
		}
		id, err := s.match(local, remote)
		if err == nil && want != 0 && id != want {
			err = fmt.Errorf("error validating peerURLs: members do not agree on the id of this member, %s or %s: try again", formatID(want), formatID(id))
		}
		if err == nil || time.Since(start) > matchPatience {
			return membership{cluster, id, remote}, err
		}
	}
}

// others are all members but one.
func others(all []member.Member, id uint64) []member.Member {
	return slices.DeleteFunc(slices.Clone(all), func(m member.Member) bool { return m.ID == id })
}

// match finds this member among those of the living cluster: every one of them must
// have the URLs of one of ours.
func (s *asker) match(local, remote []member.Member) (uint64, error) {
	const next = "add this member with `member add` first, and give the --initial-cluster that it answers"
	if len(local) != len(remote) {
		return 0, fmt.Errorf("error validating peerURLs: member count is unequal: --initial-cluster has %d members, the cluster %d: %s", len(local), len(remote), next)
	}
	var id uint64
	for _, r := range remote {
		i := slices.IndexFunc(local, func(l member.Member) bool { return sameURLs(s.ctx, l.PeerURLs, r.PeerURLs) })
		if i < 0 {
			return 0, fmt.Errorf("error validating peerURLs: unmatched member while checking PeerURLs: member %s has %s, which nobody has in --initial-cluster: %s",
				formatID(r.ID), strings.Join(r.PeerURLs, ","), next)
		}
		if local[i].Name == s.o.Name {
			id = r.ID
		}
	}
	if id == 0 {
		return 0, fmt.Errorf("error validating peerURLs: this member is not in the cluster: %s", next)
	}
	return id, nil
}

// errUndecided says that a cluster has just been born and has no version yet.
var errUndecided = errors.New("incompatible with current running cluster: its cluster version is not decided yet; try again")

// checkCompatible asks the members for their versions: the cluster must be one that this
// server can be a member of (interop 8b.3). One that is being born is waited for.
func (s *asker) checkCompatible(remote []member.Member) error {
	for start := time.Now(); ; time.Sleep(publishPause / 5) {
		reachable := false
		for _, m := range remote {
			ok, err := s.compatibleWith(m)
			if err != nil && (err != errUndecided || time.Since(start) > versionPatience) {
				return err
			}
			reachable = reachable || ok
			if err == errUndecided {
				reachable = false
				break
			}
		}
		switch {
		case reachable:
			return nil
		case time.Since(start) > versionPatience:
			return errors.New("incompatible with current running cluster: no member tells its version; check that they run and can be reached")
		}
	}
}

// compatibleWith asks one member; ok is false when it does not answer.
func (s *asker) compatibleWith(m member.Member) (ok bool, err error) {
	low, high := version.Min, s.version.Trunc()
	for _, u := range m.PeerURLs {
		ctx, cancel := context.WithTimeout(s.ctx, versionTimeout)
		vs, err := s.client.GetVersion(ctx, u)
		var downgrading bool
		if err == nil && s.version.AtLeast(version.V3_5) {
			downgrading, _ = s.client.DowngradeEnabled(ctx, u)
		}
		cancel()
		if err != nil {
			s.log.Warn("failed to get version of remote peer", zap.String("remote-peer-endpoint", u), zap.Error(err))
			continue
		}
		if downgrading {
			low = version.V(high.Major, high.Minor+1, 0)
			high = low
		}
		cv, err := version.Parse(vs.Cluster)
		if err != nil {
			return false, errUndecided
		}
		if cv.Less(low) || high.Less(cv.Trunc()) {
			return false, fmt.Errorf("incompatible with current running cluster: its cluster version is %s, this server's version %s: start a server of the cluster's version", cv, s.version)
		}
		return true, nil
	}
	return false, nil
}
