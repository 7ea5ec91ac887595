package server

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"theseus/api"
	"theseus/mvcc"
)

// fence keeps a member whose data differs from the quorum's away from clients. Nobody
// else can put it up: a member convicts only itself, by what its peers answer it.
type fence struct {
	why  atomic.Pointer[conviction]
	look chan struct{} // has the next check done now

	mu      sync.Mutex
	changed chan struct{} // closed when the fence goes up
}

func newFence() *fence {
	return &fence{look: make(chan struct{}, 1), changed: make(chan struct{})}
}

// conviction says what was found.
type conviction struct {
	revision     int64
	mine, quorum uint32
	right        []uint64 // who agrees
}

func (c *conviction) String() string {
	return fmt.Sprintf("data differs from the quorum's at revision %d (hash %d, theirs %d): this member is fenced, and repairs itself from its peers", c.revision, c.mine, c.quorum)
}

// fenced returns why the member is fenced, nil when it is not.
func (s *Server) fenced() *conviction { return s.fence.why.Load() }

// fenceError is what clients of a fenced member are told.
func (s *Server) fenceError() error {
	if s.fence.why.Load() != nil {
		return api.ErrFenced
	}
	return nil
}

// Fenced returns a channel that is closed once the member is fenced, and whether it is
// now: open streams end then, and new ones are refused.
func (s *Server) Fenced() (went <-chan struct{}, now bool) {
	f := s.fence
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed, f.why.Load() != nil
}

// fenceIn puts the fence up and begins the repair.
func (s *Server) fenceIn(mine mvcc.Hash, quorum uint32, right []uint64) {
	f := s.fence
	c := &conviction{revision: mine.HashRevision, mine: mine.Hash, quorum: quorum, right: right}
	f.mu.Lock()
	if f.why.Load() != nil {
		f.mu.Unlock()
		return
	}
	f.why.Store(c)
	close(f.changed)
	f.mu.Unlock()
	s.metrics.fenced.Set(1)
	s.metrics.named.WithLabelValues(formatID(s.id)).Inc()
	s.log.Error("this member's data differs from the quorum's; it is fenced: no reads, writes or watches until it is repaired",
		s.idField("local-member-id", s.id), zap.Int64("revision", c.revision), zap.Uint32("hash", c.mine), zap.Uint32("quorum-hash", c.quorum), zap.Strings("agreeing-member-ids", idTexts(right)))
	_ = s.tasks.Go(func() { s.repair(s.ctx) })
}

// unfence takes it down.
func (s *Server) unfence(at mvcc.Hash) {
	f := s.fence
	f.mu.Lock()
	f.changed = make(chan struct{})
	f.why.Store(nil)
	f.mu.Unlock()
	s.metrics.fenced.Set(0)
	s.log.Info("this member's data equals the quorum's again; it serves", s.idField("local-member-id", s.id), zap.Int64("revision", at.HashRevision), zap.Uint32("hash", at.Hash))
}

func idTexts(ids []uint64) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = formatID(id)
	}
	return out
}

// corruption adds the measurements of the checks, which etcd has none of.
func (m *metrics) corruption(b builder) {
	m.fenced = b.gauge("theseus_server_fenced", "1 if this member is fenced because its data differs from the quorum's. 0 if not.")
	m.named = b.counters("theseus_server_corruption_found_total", "How often a member's data was found to differ from the quorum's.", "member_id")
	m.checks = b.counters("theseus_server_corruption_checks_total", "Comparisons of this member's data with the others', by what they gave.", "result")
	m.compactionsAgreed = b.counter("theseus_server_compaction_hashes_agreed_total", "Compactions whose hash was the same on all members.")
	m.repairs = b.counters("theseus_server_repairs_total", "Attempts of a fenced member to repair itself.", "result")
}

// corruptionMetrics are the members of metrics that corruption makes.
type corruptionMetrics struct {
	fenced                 prometheus.Gauge
	named, checks, repairs *prometheus.CounterVec
	compactionsAgreed      prometheus.Counter
}

// checked counts one comparison.
func (m *metrics) checked(p *poll) {
	result := "unknown"
	_, _, ok := p.right()
	switch {
	case !p.same():
		result = "differs"
	case ok:
		result = "agrees"
	}
	m.checks.WithLabelValues(result).Inc()
}
