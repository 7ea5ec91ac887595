package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/internal/wait"
	"theseus/member"
	"theseus/node"
	"theseus/peer"
	"theseus/snap"
	"theseus/version"
	"theseus/wal"
	"theseus/watch"
)

// ErrRemoved is why a member stopped by itself that is no longer in its cluster.
var ErrRemoved = errors.New("the member has been permanently removed from the cluster")

// Clocks of Stop and of the housekeeping.
const (
	houseEvery = 100 * time.Millisecond
	// drainTime is how long requests in flight may still end once new ones are refused.
	drainTime = 200 * time.Millisecond
	// lingerTime is the least that raft goes on after leadership was handed over.
	lingerTime = 100 * time.Millisecond
	// advanceWithin is how long after its start a member may shorten its wait for an
	// election once it has heard of others (interop 6.9).
	advanceWithin = 5 * time.Second
)

// Server is one member. Its methods may be called from any goroutine.
type Server struct {
	asker
	metrics       *metrics
	id, clusterID uint64
	// posing is the version shown to other members instead, nil when there is none.
	posing atomic.Pointer[version.Version]
	// lowered is the index of the entry that has lowered the cluster version, 0 when that
	// was in no life of this process; readied says that etcd 3.4 can take over.
	lowered atomic.Uint64
	readied atomic.Bool
	initial []member.Member // whom a new or joining member was told of
	joining bool            // this start joins a living cluster

	store     atomic.Pointer[store]
	writer    sync.Mutex // held by whoever writes to the store: the apply goroutine, or a piece between its batches
	wal       *wal.WAL
	snaps     *snap.Dir
	node      *node.Node
	transport *peer.Transport
	hub       *watch.Hub

	ids     *ids
	pending *pending
	bursts  bursts
	reads   *reads
	lessor  *lessor
	tokens  *tokenSource
	lead    *leadership
	leadMu  sync.Mutex // joins what is told of leadership with the lessor's promotion
	applied wait.Index

	compaction *compaction
	versions   *versions
	compactor  compactor // nil: nothing compacts by itself
	fence      *fence
	valve      *valve

	raising    atomic.Bool // a NOSPACE alarm is being proposed
	defragging atomic.Int32
	stopping   atomic.Bool // new requests are refused
	forsaken   atomic.Pointer[forsaken]
	handedOver atomic.Int64 // when this member gave leadership away, unix nanoseconds
	closed     atomic.Bool  // the store is given up

	birth birthRecord // written by recordBirth, then by keepRecord
	// unrecorded says that the record could not be written, and that this was told.
	unrecorded bool
	cancel     context.CancelFunc
	raftEnd    context.CancelFunc
	nodeDone   chan struct{} // closed when raft has ended
	done       chan struct{}
	ready      chan struct{}
	tasks      tasks // every goroutine of the server but raft's
	endOnce    sync.Once
	stopOnce   sync.Once
	skipOnce   sync.Once
	stopped    chan struct{} // closed when Stop is through
	errMu      sync.Mutex
	err        error
}

// Start runs the member. The peer addresses must be served with PeerHandler by now.
// It returns at once: reads are answered as soon as there is a leader.
func (s *Server) Start() {
	s.log.Info("starting etcd server", s.idField("local-member-id", s.id), zap.String("local-server-version", s.version.String()),
		s.idField("cluster-id", s.clusterID), zap.String("cluster-version", s.clusterVersionText()))
	ctx, end := context.WithCancel(context.Background())
	s.raftEnd = end
	s.tasks.Go(func() { _ = s.hub.Run(s.ctx) })
	s.tasks.Go(func() { s.reads.serve(s.ctx) })
	go func() {
		defer close(s.nodeDone)
		if err := s.node.Run(ctx); err != nil {
			s.end(err)
		}
	}()
	if !s.o.NoElectionTickAdvance {
		s.tasks.Go(s.advanceTicks) // raft elects a member that is alone at once
	}
	for _, job := range s.jobs() {
		s.tasks.Go(func() { job(s.ctx) })
	}
}

// jobs are what runs besides raft until the member stops.
func (s *Server) jobs() []func(context.Context) {
	all := []func(context.Context){
		s.housekeep, s.publish, s.keepRecord, s.finishReplacement, s.monitorVersions, s.monitorDowngrade, s.migrateStorage, s.compact, s.expireLeases,
	}
	if s.o.CorruptCheckTime > 0 {
		all = append(all, s.checkCorruption)
	}
	if s.o.CompactHashCheck || s.o.CorruptCheckTime > 0 {
		all = append(all, s.checkCompactHashes)
	}
	if s.compactor != nil {
		all = append(all, func(ctx context.Context) {
			autoCompact(ctx, s.compactor, s.log, s.Revision, s.isLeader, s.compactTo)
		})
	}
	return all
}

// advanceTicks shortens the first wait for an election as soon as more than one peer
// is connected.
func (s *Server) advanceTicks() {
	deadline := time.After(advanceWithin)
	ticker := time.NewTicker(s.o.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-deadline:
			return
		case <-ticker.C:
		}
		if s.Leader() != 0 {
			return
		}
		if s.transport.ActivePeers() > 1 {
			s.node.AdvanceTicks(s.o.ElectionTicks - 2)
			return
		}
	}
}

// housekeep fails what waits too long, and forgets what is over.
func (s *Server) housekeep(ctx context.Context) {
	every(ctx, houseEvery, func() {
		now := time.Now()
		for _, x := range s.pending.expired(now.Add(-s.o.requestTimeout())) {
			s.metrics.proposalsFailed.Inc()
			x.w.Done(Outcome{Err: s.timeoutError(x.since)})
		}
		s.failForsaken(now)
		retried, failed := s.reads.tick(now)
		if retried {
			s.log.Warn("waiting for ReadIndex response took too long, retrying", zap.Duration("retry-timeout", readRetry))
		}
		if failed > 0 {
			s.metrics.failedReads.Add(float64(failed))
			s.log.Warn("timed out waiting for read index response (local node might have slow network)", zap.Duration("timeout", s.o.requestTimeout()))
		}
		s.lead.tick(now, lostAfter*s.o.electionTimeout())
		s.tokens.simple.Expire(now)
	})
}

// dropped is told by raft of proposals that it gave up.
func (s *Server) dropped(data [][]byte) {
	for _, b := range data {
		if x, ok := s.takeMine(headerID(b)); ok {
			s.metrics.proposalsFailed.Inc()
			x.w.Done(Outcome{Err: s.timeoutError(x.since)})
		}
	}
}

// readStates is told by raft of confirmed rounds.
func (s *Server) readStates(all []raft.ReadState) {
	for _, x := range all {
		s.reads.answered(x.RequestCtx, x.Index)
	}
}

// end makes the member stop by itself.
func (s *Server) end(err error) {
	s.endOnce.Do(func() {
		s.errMu.Lock()
		s.err = err
		s.errMu.Unlock()
		if err != nil && !errors.Is(err, ErrRemoved) {
			s.log.Error("the member cannot go on", zap.Error(err))
		}
		s.stopping.Store(true)
		close(s.done)
	})
}

// Err tells, after Done is closed, why the member stopped by itself: nil after
// Stop, ErrRemoved when it is no longer in its cluster.
func (s *Server) Err() error {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	return s.err
}

// Done is closed when the member no longer serves: open streams end then. It is
// closed by Stop, and when the member was removed from its cluster.
func (s *Server) Done() <-chan struct{} { return s.done }

// Ready is closed when the member has published itself to the cluster.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// WatchHub is where watch streams are made.
func (s *Server) WatchHub() *watch.Hub { return s.hub }

// HandOver gives leadership to another voter, if this member leads and there is one,
// and waits for it while requests are still served.
func (s *Server) HandOver(ctx context.Context) error {
	if s.raftEnd == nil || !s.isLeader() {
		return nil
	}
	if len(votersOf(s.members().Members())) == 1 {
		s.skipOnce.Do(func() {
			s.log.Info("skipped leadership transfer for single voting member cluster", s.idField("local-member-id", s.id))
		})
		return nil
	}
	to := s.transferee()
	if to == 0 {
		return errors.New("no other voting member is connected")
	}
	// raft itself gives a transfer up after an election timeout.
	ctx, cancel := context.WithTimeout(ctx, s.o.electionTimeout()+s.o.Tick)
	defer cancel()
	err := s.moveLeader(ctx, to)
	s.handedOver.Store(time.Now().UnixNano())
	return err
}

// linger goes on for a moment after leadership was handed over: what followers have
// sent to the old leader until they hear of the new one is forwarded, not lost.
func (s *Server) linger() {
	if at := s.handedOver.Load(); at != 0 {
		time.Sleep(time.Until(time.Unix(0, at).Add(max(s.o.Tick, lingerTime))))
	}
}

// transferee is the voter that has been connected for longest, 0 when there is none.
func (s *Server) transferee() uint64 {
	var best uint64
	var oldest time.Time
	for _, m := range votersOf(s.members().Members()) {
		since := s.transport.ActiveSince(m.ID)
		if m.ID == s.id || since.IsZero() {
			continue
		}
		if best == 0 || since.Before(oldest) {
			best, oldest = m.ID, since
		}
	}
	return best
}

// Stop hands leadership over and waits for it while requests are still served
// (at most a request timeout, less if ctx ends), then refuses new work, closes
// Done, and releases everything. It may be called more than once.
func (s *Server) Stop(ctx context.Context) error {
	var err error
	s.stopOnce.Do(func() {
		defer close(s.stopped)
		if s.Err() == nil {
			if herr := s.HandOver(ctx); herr != nil {
				s.log.Warn("leadership transfer failed", s.idField("local-member-id", s.id), zap.Error(herr))
			}
		}
		s.linger()
		s.stopping.Store(true)
		s.drain()
		s.end(nil)
		err = s.release()
	})
	<-s.stopped
	return err
}

// drain lets proposals in flight end.
func (s *Server) drain() {
	deadline := time.Now().Add(drainTime)
	for s.pending.len() > 0 && s.Leader() != 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
}

// release ends everything in the reverse of the order in which it was begun.
func (s *Server) release() error {
	s.reads.stop()
	for _, x := range s.pending.expired(time.Now().Add(time.Hour)) {
		x.w.Done(Outcome{Err: api.ErrStopped})
	}
	s.cancel()
	s.valve.end()
	if s.raftEnd != nil {
		s.raftEnd()
		<-s.nodeDone
	}
	s.transport.Close()
	s.client.Close()
	s.tasks.Wait()
	err := s.wal.Close()
	s.closed.Store(true)
	st := s.store.Load()
	st.release()
	return errors.Join(err, <-st.closed)
}

func (s *Server) clusterVersionText() string {
	if cv, ok := s.members().Version(); ok {
		return cv.String()
	}
	return "to_be_decided"
}
