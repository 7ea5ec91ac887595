package server

import (
	"context"
	"encoding/json"
	"path"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/member"
	"theseus/version"
)

// Clocks of the version monitor (interop 9.2, 9.6).
const (
	versionEvery   = 4 * time.Second
	versionTimeout = 2 * time.Second // for one member's answer
	publishPause   = 500 * time.Millisecond
	// loweredLook is how soon the storage migration looks again for a snapshot.
	loweredLook = 100 * time.Millisecond
	// publishPatience is how long a member waits to learn the versions of all others
	// before it publishes itself in the form that those it knows understand.
	publishPatience = 5 * time.Second
	// bornPatience is how long a new cluster's leader waits for its members' versions;
	// versionPatience how long one that joins waits for it to decide.
	bornPatience    = 3 * time.Second
	versionPatience = 10 * time.Second
)

// versions are the wake-ups of the version monitor and of the storage migration.
type versions struct{ wake, storage chan struct{} }

func newVersions() *versions {
	return &versions{wake: make(chan struct{}, 1), storage: make(chan struct{}, 1)}
}

func (v *versions) kick()        { kick(v.wake); v.kickStorage() }
func (v *versions) kickStorage() { kick(v.storage) }

// allowed reports whether every member knows a feature. The cluster version is never
// above the lowest server version, so it decides; the target of a downgrade counts as
// a member that may come at any time.
func (s *Server) allowed(f version.Feature) bool {
	cv, ok := s.members().Version()
	if !ok || cv == version.Min {
		return f.Allowed(s.version) // a cluster being born: not all of it has been seen yet
	}
	return f.Allowed(s.downTo(cv))
}

// downTo returns the target of a downgrade that is under way, if it is below v, or v.
func (s *Server) downTo(v version.Version) version.Version {
	d := downgradeState(s.members().Downgrade())
	if d.Enabled && d.Target.Less(v) {
		return d.Target
	}
	return v
}

func (s *Server) checkpointsAllowed() bool { return s.allowed(version.LeaseCheckpoint) }

// monitorVersions decides the cluster version while this member leads.
func (s *Server) monitorVersions(ctx context.Context) {
	ticker := time.NewTicker(versionEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.versions.wake:
		case <-ticker.C:
		}
		if s.isLeader() {
			s.decideVersion(ctx)
		}
	}
}

func (s *Server) decideVersion(ctx context.Context) {
	f := s.versionFacts(ctx)
	for start := time.Now(); f.Cluster.IsZero() && s.starting(f) && time.Since(start) < bornPatience; {
		// A moment's patience spares a new cluster the detour over 3.0.
		select {
		case <-ctx.Done():
			return
		case <-time.After(publishPause):
		}
		f = s.versionFacts(ctx)
	}
	target, ok := version.Decide(f)
	if !ok || !s.isLeader() {
		return
	}
	lowest, _ := version.Lowest(known(f.Servers))
	lowest = s.downTo(lowest)
	if f.Cluster.IsZero() {
		s.log.Info("setting up initial cluster version "+apiName(lowest), zap.String("cluster-version", target.String()))
	} else {
		s.log.Info("updating cluster version "+apiName(lowest), zap.String("from", f.Cluster.String()), zap.String("to", target.String()))
	}
	if err := s.setVersion(ctx, target, lowest); err != nil {
		if ctx.Err() == nil {
			s.log.Warn("failed to update cluster version", zap.Error(err))
		}
		return
	}
	s.log.Info("cluster version is updated", zap.String("cluster-version", target.MinorString()))
}

// starting reports whether a founding member (one that has a name; one added later gets
// it when it has joined) does not tell its version yet.
func (s *Server) starting(f version.Facts) bool {
	for i, m := range s.members().Members() {
		if i < len(f.Servers) && f.Servers[i].IsZero() && m.Started() {
			return true
		}
	}
	return false
}

func apiName(lowest version.Version) string {
	if version.ProposeV2(lowest) {
		return "using v2 API"
	}
	return "using v3 API"
}

// versionFacts asks every member for its version.
func (s *Server) versionFacts(ctx context.Context) version.Facts {
	cv, _ := s.members().Version()
	f := version.Facts{Cluster: cv, Downgrade: downgradeState(s.members().Downgrade()), Role: s.version}
	all := s.members().Members()
	f.Servers = make([]version.Version, len(all))
	etcd := make([]bool, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		if m.ID == s.id {
			f.Servers[i] = s.version
			continue
		}
		wg.Go(func() { f.Servers[i], etcd[i] = s.versionOf(ctx, m) })
	}
	wg.Wait()
	for i, v := range f.Servers {
		if etcd[i] {
			f.Etcd = append(f.Etcd, v)
		}
		if v.Trunc() != s.version.Trunc() && s.version.Less(v) {
			s.log.Warn("leader found higher-versioned member", zap.String("local-member-version", s.version.String()),
				s.idField("remote-member-id", all[i].ID), zap.String("remote-member-version", v.String()))
		}
	}
	return f
}

// versionOf asks one member, at each of its URLs, for its version, zero when none
// answers, and whether it is etcd.
func (s *Server) versionOf(ctx context.Context, m member.Member) (v version.Version, etcd bool) {
	for _, u := range m.PeerURLs {
		ctx, cancel := context.WithTimeout(ctx, versionTimeout)
		vs, err := s.client.GetVersion(ctx, u)
		cancel()
		if err != nil {
			s.log.Debug("failed to get version", s.idField("remote-member-id", m.ID), zap.Error(err))
			continue
		}
		if v, err := version.Parse(vs.Server); err == nil {
			return v, !vs.Theseus
		}
	}
	return version.Version{}, false
}

func known(all []version.Version) []version.Version {
	var out []version.Version
	for _, v := range all {
		if !v.IsZero() {
			out = append(out, v)
		}
	}
	return out
}

// setVersion proposes a cluster version in the form that the lowest member applies.
func (s *Server) setVersion(ctx context.Context, v, lowest version.Version) error {
	if version.ProposeV2(lowest) {
		return s.proposeV2(ctx, "/0/version", v.Trunc().String())
	}
	body := encoded(&membershippb.ClusterVersionSetRequest{Ver: v.Trunc().String()}, nil)
	return s.requestAs(ctx, s.rootHeader(), fieldVersionSet, body, nil).Err
}

// setDowngrade proposes that a downgrade begins or ends.
func (s *Server) setDowngrade(ctx context.Context, info *pb.DowngradeInfo) error {
	if !s.knowDowngrades(ctx) {
		return api.ErrNotCapable
	}
	body := encoded(&membershippb.DowngradeInfoSetRequest{Enabled: info.Enabled, Ver: info.TargetVersion}, nil)
	return s.requestAs(ctx, s.rootHeader(), fieldDowngradeInfo, body, nil).Err
}

// knowDowngrades reports whether no member dies of an entry about a downgrade. Below 3.5
// the cluster version does not tell: it may be there by a downgrade that nobody has
// followed yet.
func (s *Server) knowDowngrades(ctx context.Context) bool {
	if cv, ok := s.members().Version(); ok && version.DowngradeEntry.Allowed(cv) {
		return true
	}
	lowest, ok := version.Lowest(s.versionFacts(ctx).Servers)
	return ok && version.DowngradeEntry.Allowed(lowest)
}

// farDowngrade reports whether every member is Theseus and answers.
func (s *Server) farDowngrade(ctx context.Context) bool {
	f := s.versionFacts(ctx)
	_, known := version.Lowest(f.Servers)
	return known && len(f.Etcd) == 0
}

// proposeV2 proposes a PUT in the form of etcd 3.4 and older (interop 6.3).
func (s *Server) proposeV2(ctx context.Context, key, value string) error {
	if err := s.admit(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	r := api.LegacyRequest{ID: s.ids.next(), Method: "PUT", Path: key, Val: value}
	c := newCall()
	return s.await(ctx, s.proposeData(r.ID, 0, r.Append(nil), c), c).Err
}

// monitorDowngrade ends a downgrade when every member runs the target, and tells when
// this member may be replaced.
func (s *Server) monitorDowngrade(ctx context.Context) {
	ticker := time.NewTicker(s.o.DowngradeCheckTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !s.members().Downgrade().Enabled {
			s.posing.Store(nil)
			continue
		}
		f := s.versionFacts(ctx)
		done := version.DowngradeDone(f)
		s.pose(f, done)
		if done && s.isLeader() && s.knowDowngrades(ctx) {
			s.log.Info("the cluster has been downgraded", zap.String("cluster-version", f.Downgrade.Target.MinorString()))
			if err := s.setDowngrade(ctx, &pb.DowngradeInfo{}); err != nil && ctx.Err() == nil {
				s.log.Warn("failed to cancel downgrade", zap.Error(err))
			}
		}
	}
}

// pose shows the target's version to a leader that is etcd, when the downgrade is done
// but for members that are Theseus: it would wait for them for ever.
func (s *Server) pose(f version.Facts, done bool) {
	if done {
		s.posing.Store(&f.Downgrade.Target)
	} else {
		s.posing.Store(nil)
	}
}

// migrateStorage keeps the database's format at the cluster version.
func (s *Server) migrateStorage(ctx context.Context) {
	ticker := time.NewTicker(versionEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.versions.storage:
		case <-ticker.C:
		}
		s.migrateOnce()
	}
}

func (s *Server) migrateOnce() {
	st, err := s.acquire()
	if err != nil {
		return
	}
	defer st.release()
	storage, _ := st.mach.StorageVersion()
	cv, _ := st.mach.Members().Version()
	if d := downgradeState(st.mach.Members().Downgrade()); d.Enabled && cv.SameMinor(d.Target) || cv.Less(storage) {
		if !s.snapshotLowered() {
			return
		}
	}
	target, ok := version.MigrationTarget(storage, cv)
	if !ok || target.Less(version.V3_5) || s.version.Less(version.V3_6) {
		return
	}
	s.log.Warn("cluster version differs from storage version.", zap.String("cluster-version", cv.String()), zap.String("storage-version", storage.String()))
	s.writer.Lock()
	defer s.writer.Unlock()
	if s.store.Load() != st {
		return
	}
	if err := st.mach.MigrateStorage(target); err != nil {
		s.log.Error("failed storage version update", zap.String("storage-version", storage.String()), zap.Error(err))
		return
	}
	now, _ := st.mach.StorageVersion()
	s.log.Info("updated storage version", zap.String("new-storage-version", now.String()))
	if storage.Less(target) && target.AtLeast(version.V3_6) {
		// etcd 3.6 and 3.7 cannot read the v2 requests of older members, and die on one
		// that no snapshot covers: with a snapshot here they can take the directory over.
		s.node.ForceSnapshot()
	}
	if d := st.mach.Members().Downgrade(); d.Enabled && now.SameMinor(downgradeState(d).Target) {
		s.logReady(d.Target)
	}
}

func (s *Server) logReady(target string) {
	s.log.Info("The server is ready to downgrade", zap.String("target-version", target), zap.String("server-version", s.version.String()))
}

// snapshotLowered reports whether there is a snapshot on disk behind the entry that has
// lowered the cluster version, so that no entry of a newer kind is left to be read
// again (interop 9.7). One is asked for when that entry was applied in an earlier life.
func (s *Server) snapshotLowered() bool {
	at := s.lowered.Load()
	if at == 0 {
		s.lowered.Store(max(1, s.applied.Current()))
		s.node.ForceSnapshot()
		s.versions.kickStorage()
		return false
	}
	if s.node.Status().SnapshotIndex < at {
		time.AfterFunc(loweredLook, s.versions.kickStorage)
		return false
	}
	d := s.members().Downgrade()
	if cv, _ := s.members().Version(); d.Enabled && cv.Less(version.V3_5) && cv.SameMinor(downgradeState(d).Target) && s.readied.CompareAndSwap(false, true) {
		s.logReady(d.Target) // at 3.4 there is no storage version to be updated
	}
	return true
}

// reportV2Keys says that there are keys of the v2 API: they are kept as they are, for an
// older etcd to read, and nobody is served them.
func (s *Server) reportV2Keys() {
	s.writer.Lock()
	has := s.members().V2().HasUserContent()
	s.writer.Unlock()
	if has {
		s.log.Warn("the store has keys of the v2 API; they are kept and not served: copy what is needed with an etcd up to 3.5, and delete them there, since etcd 3.6 and newer do not start on them",
			s.idField("local-member-id", s.id))
	}
}

// publish tells the cluster this member's name and client URLs, until it has heard it.
func (s *Server) publish(ctx context.Context) {
	_ = s.applied.Wait(ctx, 1) // before that, not even the members are known
	started := time.Now()
	for ctx.Err() == nil {
		lowest, ok := s.lowestForPublish(ctx, time.Since(started) > publishPatience)
		if ok {
			if err := s.publishOnce(ctx, lowest); err == nil {
				close(s.ready)
				s.log.Info("published local member to cluster through raft", s.idField("local-member-id", s.id),
					zap.String("local-member-attributes", "{Name:"+s.o.Name+" ClientURLs:"+bracketed(s.o.ClientURLs)+"}"),
					zap.String("request-path", memberPath(s.id)), s.idField("cluster-id", s.clusterID))
				s.reportV2Keys()
				return
			} else if ctx.Err() == nil {
				s.log.Warn("failed to publish local member to cluster through raft", s.idField("local-member-id", s.id), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(publishPause):
		}
	}
}

// lowestForPublish finds the lowest server version among the members. A decided
// cluster version of 3.6 or above says enough; otherwise all are asked: at 3.5 a member
// of 3.4 may just have come, which would die of the newer form.
func (s *Server) lowestForPublish(ctx context.Context, patienceOver bool) (version.Version, bool) {
	if cv, ok := s.members().Version(); ok && cv.AtLeast(version.V3_6) {
		return s.downTo(cv), true
	}
	servers := s.versionFacts(ctx).Servers
	if lowest, ok := version.Lowest(servers); ok {
		return s.downTo(lowest), true
	}
	lowest, _ := version.Lowest(known(servers))
	return s.downTo(lowest), patienceOver
}

func (s *Server) publishOnce(ctx context.Context, lowest version.Version) error {
	if version.ProposeV2(lowest) {
		value, err := json.Marshal(struct {
			Name       string   `json:"name,omitempty"`
			ClientURLs []string `json:"clientURLs,omitempty"`
		}{s.o.Name, s.o.ClientURLs})
		if err != nil {
			return err
		}
		return s.proposeV2(ctx, memberPath(s.id), string(value))
	}
	body := encoded(&membershippb.ClusterMemberAttrSetRequest{
		Member_ID: s.id, MemberAttributes: &membershippb.Attributes{Name: s.o.Name, ClientUrls: s.o.ClientURLs},
	}, nil)
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	return s.requestAs(ctx, s.rootHeader(), fieldMemberAttributes, body, nil).Err
}

func memberPath(id uint64) string { return path.Join("/0/members", formatID(id), "attributes") }

func bracketed(all []string) string {
	out := "["
	for i, x := range all {
		if i > 0 {
			out += " "
		}
		out += x
	}
	return out + "]"
}
