package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/backend"
	"theseus/member"
	"theseus/node"
	"theseus/peer"
	"theseus/snap"
	"theseus/version"
	"theseus/wal"
	"theseus/watch"
)

// birth is what the decision how to start comes to: what raft begins with.
type birth struct {
	contents *wal.Contents    // nil for a new log
	snapshot *raftpb.Snapshot // that the log was opened from; nil for its beginning
	peers    []raft.Peer      // of a new cluster
	remotes  []member.Member  // of the cluster that is joined
}

// New opens the member's directory, or makes it, and decides what the member is:
// the first of a new cluster, one that joins, or one that restarts. An error says
// what is wrong and what to do next; nothing on disk has changed then. A Gate asks
// more before it does the same.
func New(o Options) (*Server, error) {
	o, err := o.normalize()
	if err != nil {
		return nil, err
	}
	return open(o, nil)
}

// open is New; in is the cluster that a gate has found this member in, nil if there was
// no gate or the flags say it.
func open(o Options, in *membership) (*Server, error) {
	s, err := newServer(o)
	if err != nil {
		return nil, err
	}
	if err := s.boot(in); err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

// newAsker makes what can ask other members.
func newAsker(o Options) (a asker, cancel context.CancelFunc, err error) {
	a = asker{o: o, log: o.Logger, version: version.Current}
	if o.EmulateVersion != "" {
		if a.version, err = version.Parse(o.EmulateVersion); err != nil {
			return a, nil, fmt.Errorf("emulate version: %w", err)
		}
		if version.Current.Less(a.version) || a.version.Less(version.V3_4) {
			return a, nil, fmt.Errorf("emulate version %s: this server can be any etcd from %s to %s", a.version, version.V3_4.MinorString(), version.Current)
		}
	}
	a.ctx, cancel = context.WithCancel(context.Background())
	a.client = peer.NewClient(o.PeerTLS, o.dialTimeout())
	return a, cancel, nil
}

// newServer makes what needs no storage.
func newServer(o Options) (*Server, error) {
	s := &Server{
		pending: newPending(), reads: newReads(),
		lead: newLeadership(time.Now()), lessor: newLessor(time.Now, o.LeaseCheckpoint),
		compaction: newCompaction(), versions: newVersions(), valve: newValve(), fence: newFence(),
		nodeDone: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{}), stopped: make(chan struct{}),
	}
	var err error
	if s.tokens, err = newTokens(o.AuthToken, o.AuthTokenTTL); err != nil {
		return nil, err
	}
	if s.compactor, err = newCompactor(o.CompactionMode, o.CompactionRetention); err != nil {
		return nil, err
	}
	if s.asker, s.cancel, err = newAsker(o); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(o.Registerer)
	return s, nil
}

func (o Options) dialTimeout() time.Duration { return time.Second + o.electionTimeout()/5 }

// boot decides, opens and wires. What it has opened when it fails is closed by abandon.
func (s *Server) boot(in *membership) error {
	if err := s.checkDataDir(); err != nil {
		return err
	}
	var b birth
	var err error
	how := bornJoined
	switch exists := wal.Exists(s.o.FS, s.o.WALDir); {
	case exists:
		how = bornOpened
		b, err = s.restart()
	case in != nil:
		b, err = s.joinAs(*in)
	case s.o.JoinExisting:
		b, err = s.join()
	default:
		how = bornFounded
		b, err = s.found()
	}
	if err != nil {
		return err
	}
	s.recordBirth(how)
	return s.wire(b)
}

// abandon closes what a failed boot had opened.
func (s *Server) abandon() {
	s.cancel()
	s.client.Close()
	if s.transport != nil {
		s.transport.Close()
	}
	if s.wal != nil {
		_ = s.wal.Close()
	}
	if st := s.store.Load(); st != nil {
		st.release()
		<-st.closed
	}
}

// wire joins the rooms around the opened storage.
func (s *Server) wire(b birth) error {
	st := s.store.Load()
	s.ids = newIDs(s.id, time.Now())
	s.transport = peer.New(peer.Options{
		ID: s.id, ClusterID: s.clusterID, LocalURLs: s.o.PeerURLs, TLS: s.o.PeerTLS, DialTimeout: s.o.dialTimeout(),
		ServerVersion: s.version.String, Handler: raftPeer{s}, Logger: s.log, Registerer: s.o.Registerer,
		OnRemoved: func(by uint64) {
			s.log.Error("the member has been permanently removed from the cluster", s.idField("local-member-id", s.id), s.idField("remote-peer-id", by))
			s.end(ErrRemoved)
		},
	})
	s.hub = watch.New(st.mach.KV(), watch.Options{
		ClusterID: s.clusterID, MemberID: s.id, Term: s.lead.term.Load, FragmentBytes: int(s.o.MaxRequestBytes) + 512<<10,
		ProgressInterval: s.o.WatchProgressInterval, Registerer: s.o.Registerer,
	})
	s.reads.applied, s.reads.newID, s.reads.timeout = s.applied.Current, s.ids.next, s.o.requestTimeout()
	s.reads.ask = func(rctx []byte) { _ = s.node.ReadIndex(rctx) } // a dropped one is asked again
	s.reads.onSlow = s.metrics.slowReads.Inc
	from := st.mach.ReplayFrom()
	s.applied.Advance(from)
	var err error
	if s.node, err = node.New(s.nodeOptions(b, from)); err != nil {
		return err
	}
	for _, m := range b.remotes {
		s.transport.AddRemote(m.ID, m.PeerURLs)
	}
	for _, m := range s.initial {
		s.addPeer(m)
	}
	for _, m := range st.mach.Members().Members() {
		s.addPeer(m)
	}
	if s.o.InitialCorruptCheck {
		if err := s.initialCheck(s.ctx); err != nil {
			return err
		}
	}
	s.measure()
	s.logQuota()
	return nil
}

func (s *Server) logQuota() {
	fields := []zap.Field{zap.Int64("quota-size-bytes", s.quota())}
	switch q := s.o.QuotaBytes; {
	case q < 0:
		s.log.Info("disabled backend quota", fields...)
	case q == 0:
		s.log.Info("enabled backend quota with default value", fields...)
	case q > maxQuotaBytes:
		s.log.Warn("quota exceeds the maximum value", append(fields, zap.Int64("quota-maximum-size-bytes", maxQuotaBytes))...)
	default:
		s.log.Info("enabled backend quota", fields...)
	}
}

func (s *Server) addPeer(m member.Member) {
	if m.ID != s.id && !s.joining {
		s.transport.AddPeer(m.ID, m.PeerURLs)
	}
}

func (s *Server) nodeOptions(b birth, from uint64) node.Options {
	o := node.Options{
		ID: s.id, WAL: s.wal, Contents: b.contents, Snap: s.snaps, Snapshot: b.snapshot, Peers: b.peers,
		Applied: from, ElectionTicks: s.o.ElectionTicks, HeartbeatTicks: 1, Tick: s.o.Tick, PreVote: !s.o.NoPreVote,
		SnapshotCount: s.o.SnapshotCount, CatchUpEntries: s.o.CatchUpEntries,
		KeepSnapshots: int(s.o.MaxSnapshots), KeepSegments: int(s.o.MaxWALs),
		Applier: &applier{s: s}, Transport: s.transport,
		OnLeader: s.leaderIs, OnReadState: s.readStates, OnDropped: s.dropped,
		OnSlowHeartbeat: func(late time.Duration) {
			s.metrics.heartbeatFailures.Inc()
			s.log.Warn("leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk",
				zap.Duration("heartbeat-interval", s.o.Tick), zap.Duration("exceeded-duration", late))
		},
		Fatal: func(err error) { s.end(err) }, Logger: s.log,
	}
	m := s.store.Load().mach
	if index, _ := m.Applied(); from > 0 && index == from {
		cs, ok := m.ConfState()
		// Members and configuration are one at every index; but etcdutl restores a backup
		// with the configuration of the cluster that it was taken from.
		if all := confStateOf(m.Members().Members()); !ok || !sameConfState(cs, all) && len(all.Voters) > 0 {
			if ok {
				s.log.Warn("the database holds the configuration of other members than there are; the members count",
					zap.Stringer("configuration", &cs), zap.Stringer("members", &all))
				m.SetConfState(all)
			}
			cs = all
		}
		if len(cs.Voters) > 0 {
			o.ConfState = &cs
		}
	}
	return o
}

// checkDataDir refuses a directory that is somebody else's, before anything is made.
func (s *asker) checkDataDir() error {
	dir := s.o.DataDir
	names, err := s.o.FS.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read data directory %s: %w: give this user access to it, or another one with --data-dir", dir, err)
	}
	var member, proxy bool
	var strange []string
	for _, n := range names {
		switch {
		case n.Name() == "member":
			member = true
		case n.Name() == "proxy":
			proxy = true
		case n.Name() == "fixtures", n.Name() == "lost+found", strings.HasPrefix(n.Name(), "."):
		default:
			strange = append(strange, n.Name())
		}
	}
	switch {
	case proxy:
		return fmt.Errorf("data directory %s was a v2 proxy's: give an empty one with --data-dir", dir)
	case !member && len(strange) > 0:
		return fmt.Errorf("data directory %s holds %q and no member: it is not etcd's; give an empty or a new one with --data-dir", dir, strange[0])
	}
	for _, n := range strange {
		s.log.Warn("found invalid file under data directory", zap.String("filename", n), zap.String("data-dir", dir))
	}
	return nil
}

// makeDirs makes the directories of a new member, and proves that they can be written.
func (s *Server) makeDirs() error {
	const next = "give this user access to it, or another one with --data-dir"
	if err := s.o.FS.MkdirAll(s.o.snapDir(), 0o700); err != nil {
		return fmt.Errorf("make data directory: %w: %s", err, next)
	}
	touch := filepath.Join(s.o.snapDir(), ".touch")
	f, err := s.o.FS.OpenFile(touch, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write to data directory: %w: %s", err, next)
	}
	_ = f.Close()
	_ = s.o.FS.Remove(touch)
	if parent := filepath.Dir(filepath.Clean(s.o.WALDir)); parent != "" {
		if err := s.o.FS.MkdirAll(parent, 0o700); err != nil {
			return fmt.Errorf("make directory of the log: %w", err)
		}
	}
	for _, d := range []string{s.o.DataDir, filepath.Join(s.o.DataDir, "member"), filepath.Dir(filepath.Clean(s.o.DataDir))} {
		if err := s.o.FS.SyncDir(d); err != nil {
			return fmt.Errorf("sync %s: %w", d, err)
		}
	}
	return nil
}

// found starts a new cluster with the members that the flags name.
func (s *Server) found() (birth, error) {
	all, err := s.initialMembers()
	if err != nil {
		return birth{}, err
	}
	ids := make([]uint64, len(all))
	for i := range all {
		all[i].ID = member.MemberID(all[i].PeerURLs, s.o.InitialClusterToken, 0)
		ids[i] = all[i].ID
	}
	slices.SortFunc(all, func(a, b member.Member) int { return compareIDs(a.ID, b.ID) })
	self := all[slices.IndexFunc(all, func(m member.Member) bool { return m.Name == s.o.Name })]
	s.id, s.clusterID, s.initial = self.ID, member.ClusterID(ids), all
	if err := s.checkUnborn(self); err != nil {
		return birth{}, err
	}
	if err := s.create(); err != nil {
		return birth{}, err
	}
	s.log.Info("starting local member", s.idField("local-member-id", s.id), s.idField("cluster-id", s.clusterID))
	return birth{peers: raftPeers(all)}, nil
}

func raftPeers(all []member.Member) []raft.Peer {
	peers := make([]raft.Peer, len(all))
	for i, m := range all {
		peers[i] = raft.Peer{ID: m.ID, Context: member.Context(m, false)}
	}
	return peers
}

// checkUnborn asks the others whether the cluster lives already, with this member in it.
func (s *Server) checkUnborn(self member.Member) error {
	remote, _, err := s.askMembers(s.initial, unbornTimeout)
	if err != nil {
		return nil // nobody is there yet
	}
	for _, m := range remote {
		if (m.ID == self.ID || m.Name == self.Name) && len(m.ClientURLs) > 0 {
			return fmt.Errorf("member %s has already been bootstrapped: its data directory %s is empty though; to replace it, remove the member from the cluster, add it again, and start it with --initial-cluster-state=existing",
				formatID(self.ID), s.o.DataDir)
		}
	}
	return nil
}

// create makes the storage of a new member.
func (s *Server) create() error {
	if _, err := s.o.FS.Stat(s.o.dbPath()); err == nil {
		if err := s.checkUnusedDB(); err != nil {
			return err
		}
	}
	if err := s.makeDirs(); err != nil {
		return err
	}
	return s.createStorage()
}

func (s *Server) createStorage() error {
	st, err := s.openStore(nil, 0)
	if err != nil {
		return err
	}
	s.store.Store(st)
	if s.snaps, err = s.openSnapDir(); err != nil {
		return err
	}
	s.wal, err = wal.Create(s.o.WALDir, wal.Metadata(s.id, s.clusterID), s.walOptions())
	return err
}

// checkUnusedDB lets a database pass that a start left which ended before it had
// a log. It only reads: a refusal changes nothing.
func (s *asker) checkUnusedDB() error {
	b, err := backend.Open(backend.Options{Path: s.o.dbPath(), ReadOnly: true, Logger: s.o.Logger})
	if err != nil {
		return err
	}
	var index uint64
	if v := b.Get("meta", []byte("consistent_index")); len(v) == 8 {
		index = binary.BigEndian.Uint64(v)
	}
	if err := b.Close(); err != nil {
		return err
	}
	if index > 0 {
		return fmt.Errorf("database %s is as of index %d, but there is no log in %s: give the log's directory with --wal-dir, or an empty --data-dir for a new member",
			s.o.dbPath(), index, s.o.WALDir)
	}
	return nil
}

func (s *Server) openSnapDir() (*snap.Dir, error) {
	d, err := snap.Open(s.o.FS, s.o.snapDir())
	if err != nil {
		return nil, err
	}
	d.OnSync = func(took time.Duration) { s.metrics.snapSync.Observe(took.Seconds()) }
	d.OnDBSync = func(took time.Duration) { s.metrics.snapDBSync.Observe(took.Seconds()) }
	return d, nil
}

func (s *Server) walOptions() wal.Options {
	return wal.Options{
		FS: s.o.FS, Logger: s.log, UnsafeNoSync: s.o.UnsafeNoSync,
		OnSync: func(took time.Duration) {
			s.metrics.walSync.Observe(took.Seconds())
			if took > time.Second {
				s.log.Warn("slow fdatasync", zap.Duration("took", took), zap.Duration("expected-duration", time.Second))
			}
		},
		OnWrite: func(n int, took time.Duration) {
			s.metrics.walBytes.Add(float64(n))
			s.metrics.walWrite.Observe(took.Seconds())
		},
	}
}
