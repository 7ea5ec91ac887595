package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/backend"
	"theseus/member"
	"theseus/peer"
)

// Bounds of a repair.
const (
	maxRepairs    = 5                // databases fetched in one go
	repairEvery   = 2 * time.Second  // between two attempts, doubled each time
	repairPatient = time.Minute      // between two looks once nothing more is fetched
	catchUpTime   = 30 * time.Second // for the log to come as far as the peer's database
)

// A valve holds up the apply of entries at an index.
type valve struct {
	mu    sync.Mutex
	turn  *sync.Cond
	shut  bool
	upTo  uint64 // when shut, entries up to here may pass
	busy  bool   // entries that passed are being applied
	ended bool   // the member stops: nothing is held up any more
}

func newValve() *valve {
	v := &valve{}
	v.turn = sync.NewCond(&v.mu)
	return v
}

// pass waits until the first entry may be applied and returns those that may be now.
// leave must follow.
func (v *valve) pass(ents []raftpb.Entry) []raftpb.Entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.shut && !v.ended && ents[0].Index > v.upTo {
		v.turn.Wait()
	}
	v.busy = true
	if n := uint64(len(ents)); v.shut && !v.ended && ents[n-1].Index > v.upTo {
		return ents[:n-(ents[n-1].Index-v.upTo)]
	}
	return ents
}

// passAll waits until everything may pass.
func (v *valve) passAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.shut && !v.ended {
		v.turn.Wait()
	}
	v.busy = true
}

func (v *valve) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.busy = false
	v.turn.Broadcast()
}

// close lets nothing more pass and waits for what has passed.
func (v *valve) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut, v.upTo = true, 0
	for v.busy && !v.ended {
		v.turn.Wait()
	}
}

// openTo lets entries up to an index pass.
func (v *valve) openTo(index uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.upTo = index
	v.turn.Broadcast()
}

func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = false
	v.turn.Broadcast()
}

// end opens it for good.
func (v *valve) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	v.turn.Broadcast()
}

// repair replaces the database of a fenced member by that of a peer that is with the
// quorum, and takes the fence down when this member is with it too.
func (s *Server) repair(ctx context.Context) {
	pause := repairEvery
	for fetched := 0; ; {
		if s.agrees(ctx) {
			return
		}
		if fetched < maxRepairs && ctx.Err() == nil {
			did, err := s.fetchStore(ctx, fetched)
			switch {
			case err != nil && ctx.Err() == nil:
				s.metrics.repairs.WithLabelValues("failed").Inc()
				s.log.Warn("failed to repair this member from its peers", zap.Int("attempt", fetched+1), zap.Int("attempts", maxRepairs), zap.Error(err))
			case did:
				s.metrics.repairs.WithLabelValues("fetched").Inc()
				pause = confirmAfter
			}
			if fetched++; fetched == maxRepairs {
				s.log.Error("this member could not repair itself and stays fenced; its next step is: remove it from the cluster and add it again with an empty --data-dir",
					s.idField("local-member-id", s.id), zap.Int("attempts", fetched))
			}
		}
		if sleep(ctx, pause) != nil {
			return
		}
		if pause = min(2*max(pause, repairEvery/2), repairPatient); fetched == maxRepairs {
			pause = repairPatient
		}
	}
}

// agrees compares the fenced member with the others, and takes the fence down when it
// is with the quorum.
func (s *Server) agrees(ctx context.Context) bool {
	p, err := s.compare(ctx)
	if err != nil {
		return false
	}
	right, hash, ok := p.right()
	switch {
	case ok && hash == p.mine.Hash:
		s.unfence(p.mine)
		return true
	case ok:
		s.fence.why.Store(&conviction{revision: p.mine.HashRevision, mine: p.mine.Hash, quorum: hash, right: right})
	}
	return false
}

// fetchStore fetches a database and puts it in the place of ours. While it comes, the
// log goes on, but is applied only as far as the database goes: so it takes our
// database's place at exactly the same index.
func (s *Server) fetchStore(ctx context.Context, attempt int) (did bool, err error) {
	if err := s.HandOver(ctx); err != nil {
		return false, fmt.Errorf("hand leadership over: %w", err)
	}
	why := s.fenced()
	sources := s.sources(why.right)
	if len(sources) == 0 {
		return false, errors.New("no member that agrees with the quorum is known")
	}
	m := sources[attempt%len(sources)]
	s.valve.close()
	defer s.valve.open()
	from := s.applied.Current()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	path := s.o.dbPath() + ".repair"
	defer func() { _ = os.Remove(path) }()
	index, err := s.fetch(ctx, m, from, path)
	if err != nil {
		return false, fmt.Errorf("fetch the database of member %s: %w", formatID(m.ID), err)
	}
	s.valve.openTo(index)
	wait, cancelWait := context.WithTimeout(ctx, catchUpTime)
	defer cancelWait()
	if err := s.applied.Wait(wait, index); err != nil {
		return false, fmt.Errorf("wait for index %d of the log: %w", index, err)
	}
	aside, err := s.replaceStore(path, index)
	if err != nil {
		return false, err
	}
	s.log.Info("replaced the database of this member", s.idField("from-member-id", m.ID), zap.Uint64("index", index), zap.String("old-database", aside))
	return true, nil
}

// sources are the members to fetch from, followers first.
func (s *Server) sources(right []uint64) (all []member.Member) {
	lead := s.Leader()
	var last []member.Member
	for _, id := range right {
		m, ok := s.members().Member(id)
		switch {
		case !ok || id == s.id:
		case id == lead:
			last = append(last, m)
		default:
			all = append(all, m)
		}
	}
	return append(all, last...)
}

// fetch brings a member's database, as of index from or later, into a file.
func (s *Server) fetch(ctx context.Context, m member.Member, from uint64, path string) (index uint64, err error) {
	err = errors.New("it has no peer URL")
	var got *peer.Database
	for _, u := range m.PeerURLs {
		if got, err = s.client.FetchDatabase(ctx, u, s.clusterID, from); err == nil || errors.Is(err, peer.ErrNoDatabase) {
			break
		}
	}
	switch {
	case errors.Is(err, peer.ErrNoDatabase):
		s.log.Info("fetching a snapshot of an etcd member to repair this member", s.idField("from-member-id", m.ID), zap.Uint64("applied-index", from))
		err = s.fetchImage(ctx, m, path)
	case err == nil:
		s.log.Info("fetching a database to repair this member", s.idField("from-member-id", m.ID), zap.Uint64("applied-index", from), zap.Uint64("database-index", got.Index), zap.Int64("bytes", got.Size))
		s.valve.openTo(got.Index)
		err = receive(got.Body, got.Size, path)
	}
	if err != nil {
		return 0, err
	}
	be, err := backend.Open(backend.Options{Path: path, ReadOnly: true, Logger: s.log})
	if err != nil {
		return 0, err
	}
	index = consistentIndex(be)
	if err := be.Close(); err != nil {
		return 0, err
	}
	if index < from || got != nil && index != got.Index {
		return 0, fmt.Errorf("it is as of index %d, which is of no use to a member at index %d", index, from)
	}
	return index, nil
}

// fetchImage asks an etcd member for a snapshot, on its client port, as anybody may when
// authentication is off.
func (s *Server) fetchImage(ctx context.Context, m member.Member, path string) error {
	if len(m.ClientURLs) == 0 {
		return errors.New("it tells no client URL")
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: m.ClientURLs, TLS: s.o.ClientTLS, DialTimeout: hashTimeout, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	image, err := cli.Snapshot(ctx)
	if err != nil {
		return err
	}
	if err := receive(image, -1, path); err != nil {
		return err
	}
	return cutSum(path)
}

// receive writes what comes to a file of its own and makes it durable. size -1 is unknown.
func receive(body io.ReadCloser, size int64, path string) error {
	defer func() { _ = body.Close() }()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, body)
	if err == nil && size >= 0 && n != size {
		err = fmt.Errorf("it ended after %d of %d bytes", n, size)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// cutSum checks the SHA-256 that follows the database in a snapshot, and takes it off.
func cutSum(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size() - sha256.Size
	if size <= 0 || size%512 != 0 {
		return fmt.Errorf("the snapshot of %d bytes has no checksum", info.Size())
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, sum.Sum(nil)) {
		return errors.New("the snapshot does not have the checksum that it ends with")
	}
	return errors.Join(f.Truncate(size), f.Sync())
}

// replaceStore puts a database of exactly the applied index in the place of ours, which
// stays beside it under another name.
func (s *Server) replaceStore(received string, index uint64) (aside string, err error) {
	s.writer.Lock()
	defer s.writer.Unlock()
	old := s.store.Load()
	if at, _ := old.mach.Applied(); at != index {
		return "", fmt.Errorf("the database is as of index %d, but %d is applied", index, at)
	}
	rev, _ := old.mach.KV().Revision()
	if aside, err = putAside(s.o.dbPath(), rev); err != nil {
		return "", err
	}
	if err := s.o.FS.Rename(received, s.o.dbPath()); err != nil {
		return "", err
	}
	if err := s.o.FS.SyncDir(s.o.snapDir()); err != nil {
		return "", err
	}
	st, err := s.openStore(old.mach.SnapshotData(), index)
	if err != nil {
		return "", errors.Join(err, s.o.FS.Rename(aside, s.o.dbPath())) // the old one goes on
	}
	if cs, ok := old.mach.ConfState(); ok {
		st.mach.SetConfState(cs)
	}
	before := old.mach.Members().Members()
	s.store.Store(st)
	s.hub.Restore(st.mach.KV())
	s.followMembers(before, st.mach.Members())
	s.compaction.kick()
	s.versions.kick()
	s.tasks.Go(func() {
		old.release()
		if err := <-old.closed; err != nil {
			s.log.Warn("failed to close the replaced database", zap.Error(err))
		}
	})
	return aside, nil
}

// putAside gives a file a second name, under which it stays when its own goes to another.
func putAside(path string, rev int64) (string, error) {
	for i := 0; ; i++ {
		aside := fmt.Sprintf("%s.corrupt-%d", path, rev)
		if i > 0 {
			aside = fmt.Sprintf("%s.%d", aside, i)
		}
		err := os.Link(path, aside)
		if !errors.Is(err, os.ErrExist) {
			return aside, err
		}
	}
}

// PeerDatabase opens an image of the database for a member that repairs itself, as of an
// index that is from or later.
func (p peerService) PeerDatabase(ctx context.Context, from uint64) (*peer.Database, error) {
	s := p.s
	if err := s.fenceError(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	if err := s.applied.Wait(ctx, from); err != nil {
		return nil, api.ErrTimeoutWaitAppliedIndex
	}
	shot, db, size, err := (&applier{s: s}).Snapshot(true)
	if err != nil {
		return nil, err
	}
	return &peer.Database{Index: shot.Metadata.Index, Size: size, Body: db}, nil
}
