package peer

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// status is whether a peer can be talked to, as the last stream or post showed.
type status struct {
	lg      *zap.Logger
	metrics *peerMetrics

	mu    sync.Mutex
	since time.Time // zero when it is not active
}

func (s *status) activate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.since.IsZero() {
		return
	}
	s.since = time.Now()
	s.metrics.active.Set(1)
	s.lg.Info("peer became active")
}

// deactivate is called with every failure; only the first is worth a line.
func (s *status) deactivate(action string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		s.lg.Debug("peer deactivated again", zap.String("action", action), zap.Error(err))
		return
	}
	s.since = time.Time{}
	s.metrics.active.Set(0)
	s.metrics.disconnected.Inc()
	s.lg.Warn("peer became inactive (message send to peer failed)", zap.String("action", action), zap.Error(err))
}

func (s *status) activeSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}
