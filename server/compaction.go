package server

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"theseus/api"
)

// compaction removes what a Compact entry has made superfluous, piece by piece,
// between the batches of the apply goroutine.
type compaction struct {
	wake chan struct{}

	mu       sync.Mutex
	finished int64         // revision up to which everything is gone
	changed  chan struct{} // closed when finished moves
}

func newCompaction() *compaction {
	return &compaction{wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// kick says that there may be something to remove.
func (c *compaction) kick() { kick(c.wake) }

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// wait returns when everything up to rev is gone from the database.
func (c *compaction) wait(ctx context.Context, rev int64) error {
	for {
		c.mu.Lock()
		finished, changed := c.finished, c.changed
		c.mu.Unlock()
		if finished >= rev {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.ErrCanceled
		}
	}
}

func (c *compaction) done(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev > c.finished {
		c.finished = rev
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// compact works off scheduled compactions until ctx ends. One that was interrupted by
// a stop is taken up again first.
func (s *Server) compact(ctx context.Context) {
	for {
		s.compactAll(ctx)
		select {
		case <-s.compaction.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) compactAll(ctx context.Context) {
	start := time.Now()
	var paused time.Duration
	for ctx.Err() == nil {
		st, err := s.acquire()
		if err != nil {
			return
		}
		if err := st.mach.KV().HashCompaction(); err != nil {
			s.log.Warn("failed to hash before a compaction", zap.Error(err))
		}
		s.writer.Lock()
		_, before := st.mach.KV().Compacting()
		more := false
		if s.store.Load() == st {
			more = st.mach.CompactStep(s.o.CompactionBatch)
		}
		under, finished := st.mach.KV().Compacting()
		s.writer.Unlock()
		if finished > before {
			s.compacted(st, finished, start, paused)
			start, paused = time.Now(), 0
		}
		s.compaction.done(finished)
		st.release()
		if !more && under <= finished {
			return
		}
		pause := time.Now()
		select {
		case <-time.After(s.o.CompactionPause):
		case <-ctx.Done():
		}
		paused += time.Since(pause)
	}
}

// compacted measures and logs a compaction that has ended.
func (s *Server) compacted(st *store, rev int64, start time.Time, paused time.Duration) {
	s.metrics.compactMillis.Observe(float64(time.Since(start).Milliseconds()))
	s.metrics.compactPauseMillis.Observe(float64(paused.Milliseconds()))
	s.metrics.compactLast.Set(float64(time.Now().Unix()))
	fields := []zap.Field{zap.Int64("compact-revision", rev), zap.Duration("took", time.Since(start))}
	s.log.Info("finished scheduled compaction", append(fields, zap.Int64("current-db-size-bytes", st.be.Size()),
		zap.Int64("current-db-size-in-use-bytes", st.be.SizeInUse()))...)
}
